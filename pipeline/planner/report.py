"""Prints how to spread the model of a configuration over GPUs.

In: a configuration and `PlanOptions`. Out: a table on a console, a row for each tensor parallel size, the fastest
first. Only the model's config.json is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.planner.model_shape import read_shape
from pipeline.planner.roofline import GPUS, Plan, Workload, plans
from pipeline.prepare.chat_template import model_directory
from pipeline.runs import past_runs

WORTH_REPORTING = 0.95
"""With other slots, a plan is reported only if it takes less than this fraction of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The GPUs and the workload to plan for; a None is taken from the configuration or from a past run."""

    gpu: str
    num_gpus: int | None
    gpus_per_node: int | None
    num_rows: int
    num_prompt_tokens: int
    num_output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """The GPUs and the workload of a plan; `origin` is where the length of a completion comes from."""

    gpu: str
    num_gpus: int
    gpus_per_node: int
    num_rows: int
    num_prompt_tokens: int
    num_output_tokens: int
    origin: str


def assumed(config: Config, options: PlanOptions) -> Assumed:
    """Return the options, completed from the configuration and from the newest run of its model with a mean length."""
    engine = config.engine
    num_configured = engine.replicas * engine.gpus_per_replica if isinstance(engine.replicas, int) else 8
    num_gpus = options.num_gpus or num_configured
    num_output_tokens, origin = options.num_output_tokens, "as given"
    if num_output_tokens is None:
        default = min(2_000, config.generation.max_gen_toks), "assumed"
        num_output_tokens, origin = _past_mean(config) or default
    return Assumed(
        gpu=options.gpu,
        num_gpus=num_gpus,
        gpus_per_node=options.gpus_per_node or min(num_gpus, 8),
        num_rows=options.num_rows,
        num_prompt_tokens=options.num_prompt_tokens,
        num_output_tokens=num_output_tokens,
        origin=origin,
    )


def _past_mean(config: Config) -> tuple[int, str] | None:
    """Return the mean tokens of a past run's completions and the run's name, or None.

    The run is the newest that recorded them, among the few that `past_runs.of_model` yields. The mean is cut to this
    configuration's `max_gen_toks`, as in the schedule's history, since the past run may have had a larger budget.
    """
    for run in past_runs.of_model(config, []):
        counts = run.manifest.counts
        if counts is not None and counts.num_samples and counts.num_output_tokens:
            mean = max(1, round(counts.num_output_tokens / counts.num_samples))
            return min(mean, config.generation.max_gen_toks), f"of run {run.run_id}"
    return None


def show(config: Config, options: PlanOptions, console: Console) -> None:
    """Print the plans for the configuration's model.

    Raises:
        ConfigError: The model fits on no group of the GPUs, or there is no plan for how the configuration runs it.
        ModelError: The model cannot be found or downloaded, or its config.json does not give its shape.
    """
    _require_plannable(config)
    basis = assumed(config, options)
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
    (unlimited, *_) = plans(*at, replace(work, max_num_seqs=basis.num_rows))
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
    _advise(found, unlimited, config, console)


def _require_plannable(config: Config) -> None:
    """Check that the planner's formulas cover how the configuration runs its model.

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
    """Return a number in the largest unit that it reaches: "35.0 B", "572.9 k", or without a unit below a thousand."""
    for unit, scale in ((giga, 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.{digits}f} {unit}"
    return f"{number:.0f} "


def _advise(found: list[Plan], unlimited: Plan, config: Config, console: Console) -> None:
    """Print the fastest plan with the configuration's slots, that without limit, and how the configuration compares."""
    best, slots = found[0], config.engine.max_num_seqs
    lines = [f"fastest with engine.max_num_seqs={slots}: {_settings(best)}"]
    if unlimited.wall_s < WORTH_REPORTING * best.wall_s:
        arguments = f"{_settings(unlimited)} engine.max_num_seqs={unlimited.num_running}"
        lines.append(f"with more slots: {arguments}: {unlimited.tokens_per_s:,.0f} tokens/s, {_time(unlimited.wall_s)}")
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
