"""The checks for GPUs judge figures such as two A100 may leave, and what is sent has no path of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from builders import ROOT
from gpu_check.__main__ import report
from gpu_check.checks import CHECKS, Basis, Check, all_checks, find_shape, planned_step, worst
from gpu_check.settings import Gpus, Settings, parse
from gpu_check.steps import Measured, RunResult

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.planner.kv_cache import RESERVED_BYTES, CacheSettings, cache_layout
from pipeline.planner.model_shape import Shape
from pipeline.runs.manifest import EngineInfo

pytestmark = pytest.mark.usefixtures("at_root")

A100 = "NVIDIA A100-SXM4-80GB"
TWO = Gpus(names=(A100, A100), memory_bytes=85_000_000_000, driver="580.65.06")
NONE = Gpus(reason="NVIDIA's driver does not answer")
NUM_ROWS, GPU_BYTES = 40, 80 << 30
CUDA = ("conf=demo", "engine.extra.kv_cache_memory_bytes=null", "engine.extra.enforce_eager=false")


@cache
def shape() -> Shape:
    found = find_shape(settings()[1])
    assert isinstance(found, Shape)
    return found


@cache
def settings(*arguments: str, gpus: Gpus = TWO) -> tuple[Settings, Config]:
    return parse([*CUDA, *arguments], gpus)


def rows() -> list[dict[str, Any]]:
    row = {"task": "check", "split": "test", "repeat": 0, "completion": "B", "finish_reason": "stop"}
    return [row | {"id": number, "num_output_tokens": 2, "error": None, "attempts": 1} for number in range(NUM_ROWS)]


def measured() -> Measured:
    """Return what two GPUs leave when everything is as planned."""
    chosen, config = settings()
    layout = cache_layout(shape(), 1, CacheSettings.of(config))
    kv_bytes = GPU_BYTES * config.engine.gpu_memory_utilization - shape().weights_bytes - RESERVED_BYTES
    num_blocks = int(kv_bytes // layout.pool_block_bytes)
    engine = {
        "device": "cuda",
        "cuda": "13.0",
        "kv_block_size": layout.block_tokens,
        "num_kv_blocks": num_blocks,
        "kv_concurrency": num_blocks / layout.num_blocks(config.model.context_size),
    }
    plain = {
        "engine_start_s": 30.0,
        "answers": {f"check/test/{number}": ["B", "stop", 2] for number in range(NUM_ROWS)},
        "num_same_shuffled": NUM_ROWS,
        "seconds": 10.0,
        "num_output_tokens": 2 * NUM_ROWS,
        "step_s": 0.0,
        "step_sequences": NUM_ROWS,
        "step_prompt_tokens": 100.0,
        "memory_bytes": [{"weights": shape().weights_bytes, "total": GPU_BYTES, "used": GPU_BYTES - (1 << 30)}],
    }
    run = RunResult(engines={"a": EngineInfo(**engine, gpu_uuids="GPU-0")}, samples=rows(), num_prompts=NUM_ROWS)
    run.kv_memory_gib = kv_bytes / 2**30
    replicas = {"a": EngineInfo(gpu_uuids="GPU-0", restarts=1), "b": EngineInfo(gpu_uuids="GPU-1", restarts=0)}
    killed = RunResult(engines=replicas, samples=rows(), num_prompts=NUM_ROWS, seconds=60.0)
    times = {"seconds": 10.5, "num_rows": NUM_ROWS, "num_output_tokens": 2 * NUM_ROWS}
    found = Measured(run=run, times=times, plain=plain, plain_reason=None, killed=killed, num_done_at_kill=10)
    basis = Basis(settings=chosen, config=config, measured=found, found_shape=shape())
    plain["step_s"] = 1.5 * planned_step(basis, 1).step_s
    return found


def checks(found: Measured, *arguments: str, gpus: Gpus = TWO) -> dict[str, Check]:
    return {check.name: check for check in all_checks(*settings(*arguments, gpus=gpus), found, shape())}


def verdicts(found: Measured, *, gpus: Gpus = TWO) -> dict[str, str]:
    return {name: check.verdict for name, check in checks(found, gpus=gpus).items()}


def engine_is(found: Measured, **changes: Any) -> None:
    (engine,) = found.run.engines.values()
    found.run.engines["a"] = EngineInfo.from_flat(engine.to_flat() | changes)


def test_figures_as_planned_pass_every_check() -> None:
    assert verdicts(measured()) == dict.fromkeys(CHECKS, "pass")


DEFECTS: dict[str, tuple[str, Callable[[Measured], object]]] = {
    "a row failed": ("the pipeline's run", lambda found: found.run.samples[0].update(error="too long")),
    "most answers differ": ("greedy answers", lambda found: [row.update(completion="C") for row in found.run.samples]),
    "the stage is slow": ("stage time / plain vLLM", lambda found: found.times.update(seconds=11.5)),
    "weights are twice the plan": (
        "weights in memory",
        lambda found: found.plain["memory_bytes"][0].update(weights=2 * found.plain["memory_bytes"][0]["weights"]),
    ),
    "blocks of another size": ("KV cache blocks", lambda found: engine_is(found, kv_block_size=32)),
    "fewer blocks than the memory holds": ("KV cache blocks", lambda found: engine_is(found, num_kv_blocks=1000)),
    "a step is ten times the plan": (
        "time of a step",
        lambda found: found.plain.update(step_s=10 * found.plain["step_s"]),
    ),
    "a step is faster than the roofline": (
        "time of a step",
        lambda found: found.plain.update(step_s=0.1 * found.plain["step_s"]),
    ),
    "a row is missing after the kill": ("a killed engine", lambda found: found.killed.samples.pop()),
    "a row is there twice": (
        "a killed engine",
        lambda found: found.killed.samples.append(found.killed.samples[0]),
    ),
    "no engine was started again": (
        "a killed engine",
        lambda found: found.killed.engines.update(a=EngineInfo(gpu_uuids="GPU-0", restarts=0)),
    ),
    "nothing was killed": ("a killed engine", lambda found: setattr(found, "num_done_at_kill", None)),
    "two replicas hold one GPU": (
        "replicas on their own GPUs",
        lambda found: found.killed.engines.update(b=EngineInfo(gpu_uuids="GPU-0")),
    ),
    "the engine runs on the CPU": ("GPUs are used", lambda found: engine_is(found, device="cpu")),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_fails_its_check(defect: str) -> None:
    name, make = DEFECTS[defect]
    found = measured()
    make(found)
    assert verdicts(found)[name] == "fail"


def test_memory_beyond_the_planners_error_fails() -> None:
    found = measured()
    assert found.run.kv_memory_gib is not None
    found.run.kv_memory_gib -= 3
    assert verdicts(found)["memory beside them"] == "fail"


def test_as_many_answers_may_differ_as_another_order_changes() -> None:
    found = measured()
    for row in found.run.samples[:4]:
        row["completion"] = "C"
    found.plain["num_same_shuffled"] = NUM_ROWS - 4
    assert verdicts(found)["greedy answers"] == "pass"


def test_nothing_is_judged_on_a_cpu_that_only_a_gpu_shows() -> None:
    found = measured()
    engine_is(found, device="cpu", kv_block_size=128)
    skipped = {name for name, verdict in verdicts(found, gpus=NONE).items() if verdict == "skip"}
    assert skipped == {
        *("GPUs are used", "stage time / plain vLLM", "weights in memory", "memory beside them"),
        *("time of a step", "replicas on their own GPUs"),
    }


def test_a_gpu_without_a_data_sheet_skips_the_step_and_names_the_argument() -> None:
    other = Gpus(names=("NVIDIA B300",), memory_bytes=1, driver="590.1")
    check = checks(measured(), gpus=other)["time of a step"]
    assert (check.verdict, check.reason[:58]) == ("skip", "the planner has no data sheet of NVIDIA B300: gpu=<one of ")


def test_after_a_failed_run_the_rest_is_skipped_with_the_reason() -> None:
    failed = RunResult(reason="exit code 2: error: no model")
    found = Measured(failed, {}, {}, "there are no prompts", failed, None)
    judged = checks(found)
    assert {name for name, check in judged.items() if check.verdict == "fail"} == {
        *("the pipeline's run", "a killed engine"),
    }
    assert all(check.reason for check in judged.values())
    assert worst(list(judged.values())) == 1


def test_what_is_sent_has_no_path_and_no_identifier(tmp_path: Path) -> None:
    found = measured()
    found.killed.reason = f"exit code 2: error: {tmp_path}/run=killed of Qwen/Qwen3 at https://hf.co/api/models"
    arguments = (f"out={tmp_path}/out", f"model.path={tmp_path}/models/mine")
    sent = report(*settings(*arguments), found, list(checks(found, *arguments).values()))
    text = json.dumps(sent)
    assert [each for each in (str(tmp_path.parent), str(ROOT), "GPU-0") if each in text] == []
    assert sent["model"]["path"] == "mine"
    assert sent["checks"][9]["reason"] == "exit code 2: error: .../run=killed of Qwen/Qwen3 at https://hf.co/api/models"


def test_the_gpus_are_those_that_the_driver_reports_and_the_environment_shows(driver: Path) -> None:
    line = [sys.executable, "-c", "from gpu_check.settings import find_gpus; print(*find_gpus().names, sep='|')"]
    found = {}
    for visible in ("2,5", ""):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "CUDA_VISIBLE_DEVICES": visible}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
        found[visible] = done.stdout.strip()
    assert found == {"2,5": f"{A100}|{A100}", "": ""}


@pytest.mark.parametrize(("gpus", "size", "num_replicas"), [(NONE, 1, 1), (TWO, 2, 1)])
def test_the_reference_takes_one_gpu_a_replica_where_there_are_too_few(
    gpus: Gpus, size: int, num_replicas: int
) -> None:
    chosen, config = parse([], gpus)
    assert (config.engine.tensor_parallel_size, chosen.num_replicas) == (size, num_replicas)
    assert config.engine.max_num_seqs == 256


def test_the_callers_keys_win_but_for_what_is_compared() -> None:
    _, config = settings("generation.max_gen_toks=99", "generation.do_sample=true", "engine.replicas=3")
    assert (config.generation.max_gen_toks, config.generation.do_sample, config.engine.replicas) == (99, False, 1)


@pytest.mark.parametrize("argument", ["rows=0", "rows=many", "gpu=Voodoo", "engine.extra.api_token=x", "colour=red"])
def test_a_wrong_argument_is_one_line(argument: str) -> None:
    with pytest.raises(ConfigError, match=argument.partition("=")[0]):
        settings(argument)
