"""`python -m pipeline.preview conf=mera plan=true`: how to spread the model over GPUs, before any is rented.

In: a configuration and the words gpu=, gpus=, gpus_per_node=, rows=, prompt_tokens=, output_tokens=. Out: a table on
the console, a row a tensor parallel size, the fastest first. Only the model's config.json is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from pipeline.config.schema import Config
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.planner.roofline import Plan

ARGUMENTS = ("plan", "gpu", "gpus", "gpus_per_node", "rows", "prompt_tokens", "output_tokens")

DEFAULT_GPU = "A100-SXM4-80GB"

REFERENCE_ROWS = 9_137
"""Train and test rows of the benchmark's three scored tasks."""

WORTH_REPORTING = 0.95
"""Part of the time, above which other slots are not worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What the plan is for; `origin` says where the length of a completion is from."""

    gpu: str
    num_gpus: int
    gpus_per_node: int
    num_rows: int
    num_prompt_tokens: int
    num_output_tokens: int
    origin: str


def split_arguments(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the plan's own words, none unless plan=true is among them, and all others.

    Raises:
        ConfigError: plan= is neither true nor false, or a word of the plan stands without plan=true.
    """
    own = {name: value for name, _, value in (argument.partition("=") for argument in arguments) if name in ARGUMENTS}
    rest = [argument for argument in arguments if argument.partition("=")[0] not in own]
    plan = own.get("plan", "false")
    if plan not in ("true", "false"):
        raise ConfigError(f"plan={plan!r}: give true or false")
    if plan == "false" and set(own) - {"plan"}:
        raise ConfigError(f"{sorted(set(own) - {'plan'})[0]}= is a word of the plan: give plan=true with it")
    return (own, rest) if plan == "true" else ({}, rest)


def assumed(config: Config, arguments: Mapping[str, str]) -> Assumed:
    """Return what the words say, and for what they leave out the configuration, an earlier run, or the reference.

    Raises:
        ConfigError: A word has an impossible value.
    """
    engine = config.engine
    requested = engine.replicas * engine.gpus_per_replica if isinstance(engine.replicas, int) else 8
    num_gpus = _number(arguments, "gpus", requested)
    basis = Assumed(
        gpu=arguments.get("gpu", DEFAULT_GPU),
        num_gpus=num_gpus,
        gpus_per_node=_number(arguments, "gpus_per_node", min(num_gpus, 8)),
        num_rows=_number(arguments, "rows", REFERENCE_ROWS),
        num_prompt_tokens=_number(arguments, "prompt_tokens", 250),
        num_output_tokens=_number(arguments, "output_tokens", min(2_000, config.generation.max_gen_toks)),
        origin="as given" if "output_tokens" in arguments else "assumed",
    )
    past_mean = None if "output_tokens" in arguments else _past_mean(config)
    return basis if past_mean is None else replace(basis, num_output_tokens=past_mean[0], origin=past_mean[1])


def _number(arguments: Mapping[str, str], name: str, default: int) -> int:
    text = arguments.get(name, str(default))
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{name}={text!r}: give a number from 1")
    return int(text)


def _past_mean(config: Config) -> tuple[int, str] | None:
    """Return the mean length of an earlier run's completions, and its name: the newest that tells it, among few.

    It is at most this configuration's budget, as in the schedule's history: the earlier run may have had a larger one.
    """
    from pipeline.runs import past_runs

    for run in past_runs.of_model(config, []):
        counts = run.manifest.counts
        if counts is not None and counts.num_samples and counts.num_output_tokens:
            mean = max(1, round(counts.num_output_tokens / counts.num_samples))
            return min(mean, config.generation.max_gen_toks), f"of run {run.run_id}"
    return None


def show(config: Config, arguments: Mapping[str, str], console: Console) -> None:
    """Print the plans for the configuration's model.

    Raises:
        ConfigError: A word is wrong, or the model fits on no group of the GPUs.
        ModelError: The model cannot be had, or its config.json does not tell its shape.
    """
    from pipeline.planner.model_shape import read_shape
    from pipeline.planner.roofline import GPUS, Workload, plans
    from pipeline.prepare.chat_template import model_directory

    _require_plannable(config)
    if arguments.get("gpu", DEFAULT_GPU) not in GPUS:
        raise ConfigError(f"gpu={arguments['gpu']!r}: there are {', '.join(GPUS)}")
    basis = assumed(config, arguments)
    directory, _ = model_directory(config)
    shape = read_shape(config, directory)
    work = Workload(
        num_rows=basis.num_rows,
        num_prompt_tokens=basis.num_prompt_tokens,
        num_output_tokens=basis.num_output_tokens,
        max_num_seqs=config.engine.max_num_seqs,
    )
    at = (shape, GPUS[basis.gpu], basis.num_gpus, basis.gpus_per_node, config.engine.gpu_memory_utilization)
    found = plans(*at, work)
    (freest, *_) = plans(*at, replace(work, max_num_seqs=basis.num_rows))
    lines = [
        f"{shape.name}: {_scaled(shape.num_params, 2)} parameters, {_scaled(shape.num_active_params, 2)} active, "
        f"{_bytes(shape.weights_bytes)} of weights",
        f"{shape.num_attention_layers} attention layers: {shape.kv_bytes_per_token:,} bytes of KV cache a token; "
        f"{shape.num_recurrent_layers} recurrent layers: {_bytes(shape.recurrent_bytes)} of state a sequence",
        f"{basis.num_gpus} x {basis.gpu}, {basis.gpus_per_node} a node, {config.engine.gpu_memory_utilization:.0%} "
        f"of each; {basis.num_rows:,} rows of {basis.num_prompt_tokens:,} + {basis.num_output_tokens:,} tokens "
        f"({basis.origin}); engine.max_num_seqs={config.engine.max_num_seqs}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
    console.print(_table(found))
    _advise(found, freest, config, console)


def _require_plannable(config: Config) -> None:
    """Refuse what the plan's formulas do not tell.

    Raises:
        ConfigError: The engine is a server, has pipeline stages, or quantizes the weights as it loads them.
    """
    engine = config.engine
    if engine.kind != "vllm":
        raise ConfigError("plan=true: an endpoint's server places its model itself; set engine.kind=vllm")
    if engine.pipeline_parallel_size > 1:
        size = engine.pipeline_parallel_size
        raise ConfigError(
            f"plan=true: engine.pipeline_parallel_size={size} has no plan, only one stage has: set it to 1"
        )
    if "quantization" in engine.extra:
        value = engine.extra["quantization"]
        raise ConfigError(
            f"plan=true: engine.extra.quantization={value!r}: what the weights take then is not in config.json; leave "
            "it out, or set model.path to a model that is quantized already"
        )


def _table(found: list[Plan]) -> Table:
    names = ("TP", "replicas", "weights/GPU", "KV/seq", "state/seq", "fit", "run", "step", "tokens/s", "time", "bound")
    table = Table(*names, box=box.SIMPLE_HEAD)
    for column in table.columns[:-1]:
        column.justify = "right"
    for plan in found:
        table.add_row(
            str(plan.tensor_parallel_size),
            str(plan.num_replicas),
            _bytes(plan.weights_bytes_per_gpu),
            _bytes(plan.kv_bytes_per_sequence),
            _bytes(plan.recurrent_bytes_per_sequence),
            f"{plan.num_fitting:,}",
            f"{plan.num_running:,}",
            f"{plan.step_s * 1e3:.1f} ms" if plan.step_s >= 1e-4 else f"{plan.step_s * 1e6:.1f} µs",
            f"{plan.tokens_per_s:,.0f}",
            _time(plan.wall_s),
            plan.bound,
        )
    return table


def _bytes(number: float) -> str:
    return f"{_scaled(number, 1, giga='G')}B"


def _scaled(number: float, digits: int, giga: str = "B") -> str:
    """Return a number in the largest unit of which there is one: "35.0 B", "572.9 k", or as it is below a thousand."""
    for unit, scale in ((giga, 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.{digits}f} {unit}"
    return f"{number:.0f} "


def _advise(found: list[Plan], freest: Plan, config: Config, console: Console) -> None:
    """Say what is fastest with the configuration's slots and with as many as fit, and how far it is from that."""
    best, slots = found[0], config.engine.max_num_seqs
    lines = [f"fastest with engine.max_num_seqs={slots}: {_settings(best)}"]
    if freest.wall_s < WORTH_REPORTING * best.wall_s:
        arguments = f"{_settings(freest)} engine.max_num_seqs={freest.num_running}"
        lines.append(f"with more slots: {arguments}: {freest.tokens_per_s:,.0f} tokens/s, {_time(freest.wall_s)}")
    size = config.engine.tensor_parallel_size
    mine = [plan for plan in found if plan.tensor_parallel_size == size]
    if not mine:
        lines.append(f"this configuration's engine.tensor_parallel_size={size} does not fit")
    elif mine[0] is not best:
        lines.append(f"this configuration takes {mine[0].wall_s / best.wall_s:.1f} times as long by these figures")
    lines.append(
        "An estimate: memory and arithmetic at their data-sheet peaks, all slots filled to the end, no prefix in "
        "cache, room for every sequence at its full length."
    )
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _settings(plan: Plan) -> str:
    return f"engine.tensor_parallel_size={plan.tensor_parallel_size} engine.replicas={plan.num_replicas}"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
