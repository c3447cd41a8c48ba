"""Judges what the steps of a check have left; runs nothing.

In: `Settings` and `Measured`. Out: a `Check` each, with its figures. A check that cannot be made is skipped, with the
reason; on a CPU what only a GPU can show is measured and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gpu_check.settings import Settings
from gpu_check.steps import Measured, RunResult

from pipeline.config.schema import Config
from pipeline.errors import PipelineError
from pipeline.planner.kv_cache import EDGE_BYTES, RESERVED_BYTES, CacheLayout, CacheSettings, cache_layout
from pipeline.planner.model_shape import Shape, read_shape
from pipeline.planner.roofline import GPUS, Plan, Workload, plans
from pipeline.prepare.chat_template import model_directory
from pipeline.runs.manifest import EngineInfo

MOST_SECONDS_OF_PLAIN = 1.1
"""Time of the stage over that of plain vLLM, up to which it passes."""

LEAST_STEP, MOST_STEP = 0.9, 3.0
"""A measured step over the planned one. The plan is a roofline: nothing is faster, but for rounding in a data sheet."""

WEIGHTS_TOLERANCE = 0.03
"""Share by which a GPU's weights may differ from the planned share: not every parameter is divided among the GPUs."""

CPU_BLOCK_TOKENS = 128
"""Tokens of a block of vLLM's attention on the CPU; with FlashAttention, which the planner assumes, they are 16."""

Verdict = Literal["pass", "fail", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `reason` is why it has failed or was skipped."""

    name: str
    verdict: Verdict
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


class Skipped(Exception):
    """The check cannot be made; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What all checks start from; `found_shape` is that of `find_shape`."""

    settings: Settings
    config: Config
    measured: Measured
    found_shape: Shape | str

    @property
    def engine(self) -> EngineInfo:
        """The engine of the run with one replica.

        Raises:
            Skipped: The run has failed.
        """
        if self.measured.run.reason is not None:
            raise Skipped("the pipeline's run has failed")
        return next(iter(self.measured.run.engines.values()))

    @property
    def plain(self) -> dict[str, Any]:
        """What plain vLLM left.

        Raises:
            Skipped: It has failed.
        """
        if self.measured.plain_reason is not None:
            raise Skipped("plain vLLM has failed")
        return self.measured.plain

    @property
    def is_on_gpu(self) -> bool:
        return self.engine.device == "cuda"

    @property
    def shape(self) -> Shape:
        """The planner's shape of the model.

        Raises:
            Skipped: The planner has none.
        """
        if isinstance(self.found_shape, str):
            raise Skipped(f"the planner has no plan: {self.found_shape}")
        return self.found_shape

    def layout(self) -> tuple[CacheSettings, CacheLayout]:
        """Return the planner's settings and its KV cache on each GPU."""
        settings = CacheSettings.of(self.config)
        if not self.is_on_gpu:
            settings = replace(settings, block_tokens=CPU_BLOCK_TOKENS)
        return settings, cache_layout(self.shape, self.config.engine.tensor_parallel_size, settings)


def find_shape(config: Config) -> Shape | str:
    """Return the planner's shape of the model, or why it has none."""
    if config.engine.pipeline_parallel_size > 1:
        return "engine.pipeline_parallel_size is above 1"
    try:
        return read_shape(config, Path(model_directory(config)[0]))
    except PipelineError as error:
        return str(error)


def all_checks(settings: Settings, config: Config, measured: Measured, shape: Shape | str) -> list[Check]:
    """Return every check, in the order of `CHECKS`; `shape` is that of `find_shape`."""
    basis = Basis(settings=settings, config=config, measured=measured, found_shape=shape)
    return [_made(name, check, basis) for name, check in CHECKS.items()]


def _made(name: str, check: Callable[[Basis], Check], basis: Basis) -> Check:
    try:
        return replace(check(basis), name=name)
    except Skipped as error:
        return Check(name=name, verdict="skip", reason=str(error))


def _judged(ok: bool, reason: str, figures: dict[str, Any]) -> Check:
    return Check(name="", verdict="pass" if ok else "fail", reason="" if ok else reason, figures=figures)


def _gpus(basis: Basis) -> Check:
    gpus = basis.settings.gpus
    if not gpus.names:
        raise Skipped(gpus.reason or "no GPU")
    return _judged(
        basis.engine.device == "cuda",
        f"the engine ran on {basis.engine.device}, not on a GPU",
        {"driver": gpus.driver, "cuda_of_torch": basis.engine.cuda, "gpus": len(gpus.names)},
    )


def _run(basis: Basis) -> Check:
    run = basis.measured.run
    if run.reason is not None:
        return _judged(False, run.reason, {})
    failed = [row for row in run.samples if row["error"]]
    return _judged(
        not failed and len(run.samples) == run.num_prompts,
        f"{len(failed)} rows failed: {failed[0]['error']}" if failed else "rows are missing",
        {"rows": len(run.samples), "engine_start_s": basis.engine.engine_start_s},
    )


def _plain(basis: Basis) -> Check:
    if not basis.measured.run.num_prompts:
        raise Skipped("the pipeline's run has made no prompts")
    if basis.measured.plain_reason is not None:
        return _judged(False, basis.measured.plain_reason, {})
    found = basis.plain
    return _judged(True, "", {"rows": len(found["answers"]), "engine_start_s": found["engine_start_s"]})


def _answers(basis: Basis) -> Check:
    """Greedy answers depend on the batch, so as many rows may differ as differ between two orders of plain vLLM."""
    theirs, ours = basis.plain["answers"], _by_name(basis.measured.run)
    if not ours:
        raise Skipped("the pipeline's run has failed")
    other = sorted(name for name in theirs if ours.get(name) != theirs[name])
    num_rows, num_same = len(theirs), len(theirs) - len(other)
    num_same_shuffled = basis.plain["num_same_shuffled"]
    share = num_same_shuffled / num_rows
    margin = 3 * math.sqrt(2 * max(share * (1 - share), 1 / num_rows) / num_rows)
    figures = {
        "rows": num_rows,
        "same": num_same,
        "same_in_plain_vllm_in_another_order": num_same_shuffled,
        "same_at_least": math.ceil((share - margin) * num_rows),
        "first_that_differ": other[:5],
    }
    return _judged(
        ours.keys() == theirs.keys() and num_same >= figures["same_at_least"],
        f"{len(other)} rows differ from plain vLLM, and {num_rows - num_same_shuffled} do by another order alone",
        figures,
    )


def _by_name(run: RunResult) -> dict[str, list[Any]]:
    return {
        f"{row['task']}/{row['split']}/{row['id']}": [
            row["completion"],
            row["finish_reason"],
            row["num_output_tokens"],
        ]
        for row in run.samples
    }


def _speed(basis: Basis) -> Check:
    times, plain = basis.measured.times, basis.plain
    if not times:
        raise Skipped("the pipeline's run has failed")
    ratio = times["seconds"] / plain["seconds"]
    figures = {
        "stage_over_plain": ratio,
        "stage_s": times["seconds"],
        "plain_s": plain["seconds"],
        "stage_tokens_per_s": times["num_output_tokens"] / times["seconds"],
        "plain_tokens_per_s": plain["num_output_tokens"] / plain["seconds"],
    }
    return _on_gpu(basis, ratio <= MOST_SECONDS_OF_PLAIN, f"more than {MOST_SECONDS_OF_PLAIN} of plain vLLM", figures)


def _on_gpu(basis: Basis, ok: bool, reason: str, figures: dict[str, Any]) -> Check:
    """Return the check, not judged on a CPU."""
    if basis.is_on_gpu:
        return _judged(ok, reason, figures)
    return Check(name="", verdict="skip", reason="measured on a CPU, so not judged", figures=figures)


def _weights(basis: Basis) -> Check:
    shape, size = basis.shape, basis.config.engine.tensor_parallel_size
    planned = shape.weights_bytes / size
    measured = [each["weights"] for each in basis.plain["memory_bytes"]]
    figures = {
        "planned_bytes_per_gpu": round(planned),
        "measured_bytes_per_gpu": measured,
        "logged_gib_per_gpu": basis.measured.run.weights_gib,
    }
    if not basis.is_on_gpu:
        raise Skipped("on a CPU vLLM packs the weights into other tensors than the model's parameters")
    off = max(abs(each / planned - 1) for each in measured)
    return _judged(off <= WEIGHTS_TOLERANCE, f"{off:.1%} off the plan", figures)


def _kv_blocks(basis: Basis) -> Check:
    engine = basis.engine
    settings, layout = basis.layout()
    demanded = layout.num_blocks(settings.context_size, settings.in_flight_tokens)
    planned_concurrency = (engine.num_kv_blocks or 0) / demanded
    figures = {
        "planned_block_tokens": layout.block_tokens,
        "block_tokens": engine.kv_block_size,
        "blocks": engine.num_kv_blocks,
        "planned_sequences": planned_concurrency,
        "sequences": engine.kv_concurrency,
    }
    ok = engine.kv_block_size == layout.block_tokens and math.isclose(
        planned_concurrency, engine.kv_concurrency or 0.0, rel_tol=0.01
    )
    kv_bytes = _kv_bytes(basis)
    if kv_bytes is not None:
        figures["planned_blocks"] = int(kv_bytes // layout.pool_block_bytes)
        ok = ok and math.isclose(figures["planned_blocks"], engine.num_kv_blocks or 0, rel_tol=0.01, abs_tol=1)
    return _judged(ok, "vLLM's blocks are not the planned ones", figures)


def _kv_bytes(basis: Basis) -> float | None:
    """Return the bytes of each GPU's KV cache: as configured, or as vLLM has found and logged them."""
    configured = basis.config.engine.extra.get("kv_cache_memory_bytes")
    if configured is not None:
        return float(configured)
    logged = basis.measured.run.kv_memory_gib
    return None if logged is None else logged * 2**30


def _memory(basis: Basis) -> Check:
    """The planner assumes what activations, CUDA graphs and the rest take, and calls an error of 2 GiB possible."""
    if not basis.is_on_gpu:
        raise Skipped("no GPU, so no memory that vLLM has measured")
    kv_bytes = _kv_bytes(basis)
    if kv_bytes is None or basis.config.engine.extra.get("kv_cache_memory_bytes") is not None:
        raise Skipped("vLLM has not logged how much memory it found for the KV cache")
    rank = basis.plain["memory_bytes"][0]
    rest = rank["total"] * basis.config.engine.gpu_memory_utilization - rank["weights"] - kv_bytes
    figures = {
        "planned_rest_bytes": RESERVED_BYTES,
        "rest_bytes": round(rest),
        "kv_cache_bytes": round(kv_bytes),
        "gpu_bytes": rank["total"],
        "gpu_bytes_in_use": [each["used"] for each in basis.plain["memory_bytes"]],
    }
    ok = 0 <= rest <= RESERVED_BYTES + EDGE_BYTES
    return _judged(ok, f"the rest is not between 0 and {(RESERVED_BYTES + EDGE_BYTES) >> 30} GiB", figures)


def _step(basis: Basis) -> Check:
    plain, size = basis.plain, basis.config.engine.tensor_parallel_size
    figures = {"step_ms": plain["step_s"] * 1e3, "sequences": plain["step_sequences"]}
    if not basis.is_on_gpu:
        return _on_gpu(basis, False, "", figures)
    if basis.settings.gpu is None:
        name = next(iter(basis.settings.gpus.names), "no GPU")
        return Check(
            name="",
            verdict="skip",
            reason=f"the planner has no data sheet of {name}: gpu=<one of {', '.join(GPUS)}>",
            figures=figures,
        )
    plan = planned_step(basis, size)
    ratio = plain["step_s"] / plan.step_s
    figures |= {"planned_step_ms": plan.step_s * 1e3, "planned_sequences": plan.num_running, "step_over_planned": ratio}
    ok = LEAST_STEP <= ratio <= MOST_STEP
    return _judged(ok, f"not within {LEAST_STEP} and {MOST_STEP} of the plan", figures)


def planned_step(basis: Basis, size: int) -> Plan:
    """Return the plan of one replica, whose steps have the same sequences and the same context as the measured ones.

    Raises:
        Skipped: By the plan vLLM does not start.
    """
    from gpu_check.plain import LONG, SHORT

    work = Workload(
        num_rows=basis.plain["step_sequences"],
        num_prompt_tokens=basis.plain["step_prompt_tokens"],
        num_output_tokens=LONG + SHORT,  # on average half of them are there, as in the measured steps
    )
    settings, _ = basis.layout()
    try:
        found = plans(basis.shape, GPUS[basis.settings.gpu or ""], size, size, settings, work)
    except PipelineError as error:
        raise Skipped(f"the planner has no plan: {error}") from error
    plan = next((each for each in found if each.tensor_parallel_size == size and each.starts), None)
    if plan is None:
        raise Skipped("by the plan vLLM does not start")
    return plan


def _kill(basis: Basis) -> Check:
    measured = basis.measured
    killed, before = measured.killed, measured.num_done_at_kill
    if killed.reason is not None:
        return _judged(False, killed.reason, {"rows_done_at_the_kill": before})
    names = [(row["task"], row["split"], row["id"], row["repeat"]) for row in killed.samples]
    num_failed = sum(row["error"] is not None for row in killed.samples)
    ours, undisturbed = _by_name(killed), _by_name(measured.run)
    restarts = sum(info.restarts or 0 for info in killed.engines.values())
    figures = {
        "rows": len(names),
        "rows_done_at_the_kill": before,
        "restarts": restarts,
        "repeated": sum(row["attempts"] - 1 for row in killed.samples),
        "missing": killed.num_prompts - len(set(names)),
        "twice": len(names) - len(set(names)),
        "failed": num_failed,
        "same_as_undisturbed": sum(undisturbed.get(name) == answer for name, answer in ours.items()),
        "seconds": killed.seconds,
    }
    if before is None:
        return _judged(False, "the run ended before an engine could be killed: give more rows=", figures)
    ok = restarts > 0 and not (figures["missing"] or figures["twice"] or num_failed)
    return _judged(ok, "not every row is there once, or no engine was started again", figures)


def _replicas(basis: Basis) -> Check:
    killed, size = basis.measured.killed, basis.config.engine.gpus_per_replica
    if basis.settings.num_replicas == 1:
        raise Skipped(f"there is one replica; two need {2 * size} GPUs")
    if killed.reason is not None:
        raise Skipped("the run with several replicas has failed")
    # A killed replica's next process may have reported the same GPUs under another name.
    held = {info.gpu_uuids for info in killed.engines.values() if info.gpu_uuids is not None}
    gpus = [uuid for uuids in held for uuid in uuids.split(", ")]
    figures = {"replicas": basis.settings.num_replicas, "gpus_in_use": len(set(gpus))}
    ok = len(gpus) == len(set(gpus)) == basis.settings.num_replicas * size
    return _judged(ok, "the replicas share GPUs, or some of them did not start", figures)


CHECKS: dict[str, Callable[[Basis], Check]] = {
    "GPUs are used": _gpus,
    "the pipeline's run": _run,
    "plain vLLM": _plain,
    "greedy answers": _answers,
    "stage time / plain vLLM": _speed,
    "weights in memory": _weights,
    "KV cache blocks": _kv_blocks,
    "memory beside them": _memory,
    "time of a step": _step,
    "a killed engine": _kill,
    "replicas on their own GPUs": _replicas,
}


def worst(checks: Sequence[Check]) -> int:
    """Return the exit code: 1 if a check has failed."""
    return int(any(check.verdict == "fail" for check in checks))
