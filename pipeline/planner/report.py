"""Prints how to spread the model of a configuration over GPUs.

In: a configuration and `PlanOptions`. Out: two tables on a console, memory and speed, a row for each tensor parallel
size, the fastest first; why vLLM does not start at a size; the configuration to paste. Only config.json is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.planner.kv_cache import EDGE_BYTES, RESERVED_BYTES, CacheSettings
from pipeline.planner.model_shape import BYTES, Shape, read_shape
from pipeline.planner.roofline import FRONT_END_TOKENS_PER_S, GPUS, MAX_GRAPH_SEQS, Plan, Workload, plans
from pipeline.prepare.chat_template import model_directory
from pipeline.prepare.own_model import with_own_context
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
    config = with_own_context(config)
    directory, _ = model_directory(config)
    shape = read_shape(config, directory)
    work = Workload(
        num_rows=basis.num_rows,
        num_prompt_tokens=basis.num_prompt_tokens,
        num_output_tokens=basis.num_output_tokens,
    )
    settings = CacheSettings.of(config)
    at = (shape, GPUS[basis.gpu], basis.num_gpus, basis.gpus_per_node)
    found = plans(*at, settings, work)
    advised = plans(*at, replace(settings, max_num_seqs=None), work)
    _print(console, _heading(shape, basis, config))
    console.print(_memory_table(found))
    _print(console, [_reason(plan, settings) for plan in found if plan.cache.status != "fits"])
    console.print(_speed_table(found))
    _print(console, [*_advice(found, advised, config), *_notes(shape, found, settings, basis)])
    _print(console, _to_paste(_recommended(found, advised), found, settings, basis))


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _heading(shape: Shape, basis: Assumed, config: Config) -> list[str]:
    quantized = f" ({shape.quantization})" if shape.quantization else ""
    return [
        f"{shape.name}: {_scaled(shape.num_params, 2)} parameters, {_scaled(shape.num_active_params, 2)} active, "
        f"{_bytes(shape.weights_bytes)} of weights{quantized}",
        f"{shape.num_attention_layers} attention layers: {shape.kv_bytes_per_token:,} bytes of KV cache a token; "
        f"{shape.num_recurrent_layers} recurrent layers: {_bytes(shape.recurrent_bytes)} of state a sequence",
        f"{basis.num_gpus} x {basis.gpu}, {basis.gpus_per_node} a node, {config.engine.gpu_memory_utilization:.0%} "
        f"of each; {basis.num_rows:,} rows of {basis.num_prompt_tokens:,} + {basis.num_output_tokens:,} tokens "
        f"({basis.origin}); engine.max_num_seqs={config.engine.max_num_seqs}",
    ]


def _require_plannable(config: Config) -> None:
    """Check that the planner's formulas cover how the configuration runs its model.

    Raises:
        ConfigError: The engine is a server, has pipeline stages, quantizes the weights as it loads them, decodes
            speculatively, or has a KV cache of a precision that is not known here.
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
    if engine.extra.get("speculative_config"):
        raise ConfigError(
            f"plan=true: engine.extra.speculative_config={engine.extra['speculative_config']!r}: the draft's weights, "
            "its blocks and the share of accepted tokens are not in config.json; leave it out"
        )
    dtype = str(engine.extra.get("kv_cache_dtype", "auto"))
    if dtype not in ("auto", *BYTES):
        raise ConfigError(
            f"plan=true: engine.extra.kv_cache_dtype={dtype!r}: what a token takes then is not known here; "
            f"there are auto, {', '.join(BYTES)}"
        )


def _memory_table(found: list[Plan]) -> Table:
    """Return the KV cache of one GPU at each size; every figure but the tokens of a block is of one GPU."""
    names = ("TP", "weights", "left", "block", "pool block", "blocks", "demanded", "overhead at most", "vLLM")
    rows = [
        (
            str(plan.tensor_parallel_size),
            _gib(plan.weights_bytes_per_gpu),
            _gib(plan.cache.available_bytes),
            f"{plan.cache.layout.block_tokens:,} tokens",
            f"{plan.cache.layout.pool_block_bytes:,} B",
            f"{plan.cache.num_blocks:,}",
            _gib(plan.cache.demanded_bytes, 3),
            _gib(plan.cache.overhead_limit_bytes),
            plan.cache.status,
        )
        for plan in found
    ]
    return _table(names, rows)


def _speed_table(found: list[Plan]) -> Table:
    names = ("TP", "replicas", "blocks/seq", "memory/seq", "fit", "run", "step", "tokens/s", "time", "bound")
    rows = [
        (
            str(plan.tensor_parallel_size),
            str(plan.num_replicas),
            f"{plan.blocks_per_sequence:,}",
            _bytes(plan.tensor_parallel_size * plan.blocks_per_sequence * plan.cache.layout.pool_block_bytes),
            f"{plan.num_fitting:,}",
            f"{plan.num_running:,}",
            f"{plan.step_s * 1e3:.1f} ms" if plan.step_s >= 1e-4 else f"{plan.step_s * 1e6:.1f} µs",
            f"{plan.tokens_per_s:,.0f}",
            _time(plan.wall_s),
            plan.bound,
        )
        for plan in found
        if plan.starts
    ]
    return _table(names, rows)


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(*names, box=box.SIMPLE_HEAD)
    for column in table.columns[:-1]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def _reason(plan: Plan, settings: CacheSettings) -> str:
    """Return why it is open whether vLLM starts at a size, or why it does not, and what fits."""
    cache = plan.cache
    at = f"TP {plan.tensor_parallel_size} is {cache.status}: "
    if cache.available_bytes <= 0:
        weights = plan.weights_bytes_per_gpu
        share = weights + cache.available_bytes
        return f"{at}the weights take {_gib(weights)} of each GPU, of which the engine has {_gib(share)}"
    what = f"a sequence of model.context_size={settings.context_size:,} and the null block"
    if cache.limited_by_slots:
        what = f"engine.max_num_seqs={settings.max_num_seqs} slots with a block of state each"
    return (
        f"{at}after the weights and {what}, {_gib(max(0, cache.overhead_limit_bytes))} are left for activations, CUDA "
        f"graphs and the rest; {_gib(RESERVED_BYTES)} are assumed, and vLLM measures{_longest(plan, settings)}"
    )


def _longest(plan: Plan, settings: CacheSettings) -> str:
    cache = plan.cache
    if not cache.longest_context:
        return f"; with {_gib(RESERVED_BYTES)} no context fits"
    text = f"; with {_gib(RESERVED_BYTES)} the longest context that fits is {cache.longest_context:,}"
    if cache.limited_by_slots and settings.max_num_seqs and cache.num_blocks < settings.max_num_seqs:
        text += f", and engine.max_num_seqs is at most {cache.num_blocks:,}"
    return text


def _gib(number: float, digits: int = 2) -> str:
    return f"{number / 2**30:.{digits}f} GiB"


def _bytes(number: float) -> str:
    return f"{_scaled(number, 1, giga='G')}B"


def _scaled(number: float, digits: int, giga: str = "B") -> str:
    """Return a number in the largest unit that it reaches: "35.0 B", "572.9 k", or without a unit below a thousand."""
    for unit, scale in ((giga, 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.{digits}f} {unit}"
    return f"{number:.0f} "


def _recommended(found: list[Plan], advised: list[Plan]) -> Plan:
    """Return the fastest plan with the configuration's slots, or with the advised ones where they pay."""
    best, other = _fastest(found), _fastest(advised)
    return other if other.wall_s < WORTH_REPORTING * best.wall_s else best


def _fastest(found: list[Plan]) -> Plan:
    """Return the fastest plan at which vLLM starts for certain, or else the fastest of those at the edge."""
    return next((plan for plan in found if plan.starts and plan.cache.status == "fits"), found[0])


def _advice(found: list[Plan], advised: list[Plan], config: Config) -> list[str]:
    """Return the fastest plan with the configuration's slots, one with others, and how the configuration compares."""
    best, other, slots = _fastest(found), _recommended(found, advised), config.engine.max_num_seqs
    lines = [f"fastest with engine.max_num_seqs={slots}: {_settings(best)}"]
    if other is not best:
        arguments = f"{_settings(other)} engine.max_num_seqs={other.num_running}"
        lines.append(f"with other slots: {arguments}: {other.tokens_per_s:,.0f} tokens/s, {_time(other.wall_s)}")
    size = config.engine.tensor_parallel_size
    mine = [plan for plan in found if plan.tensor_parallel_size == size]
    if not mine or not mine[0].starts:
        lines.append(f"this configuration's engine.tensor_parallel_size={size} does not fit")
    elif mine[0] is not best:
        ratio = mine[0].wall_s / best.wall_s
        edge = "" if mine[0].cache.status == "fits" else ", if vLLM starts"
        lines.append(f"this configuration takes {ratio:.1f} times as long by these figures{edge}")
    return lines


def _notes(shape: Shape, found: list[Plan], settings: CacheSettings, basis: Assumed) -> list[str]:
    lines = []
    if (settings.max_num_seqs or 0) > MAX_GRAPH_SEQS:
        lines.append(
            f"engine.max_num_seqs={settings.max_num_seqs}: vLLM has CUDA graphs for at most {MAX_GRAPH_SEQS} "
            "sequences; a larger step is slower than planned"
        )
    if _never_hits(found, settings, basis):
        block = min(plan.cache.layout.block_tokens for plan in found)
        lines.append(
            f"prefix caching compares whole blocks, here of {block:,} tokens or more: prompts of "
            f"{basis.num_prompt_tokens:,} tokens never hit, and {shape.num_cached_states} states a sequence are kept; "
            "engine.extra.enable_prefix_caching=false"
        )
    lines.append(
        "An estimate: memory and arithmetic at their data-sheet peaks, all slots filled to the end, no prefix in "
        f"cache, blocks for every sequence at its full length, {_gib(RESERVED_BYTES)} a GPU for all but weights and "
        f"cache (an edge: {_gib(EDGE_BYTES)} more or less), at most {FRONT_END_TOKENS_PER_S:,} tokens/s a replica."
    )
    return lines


def _never_hits(found: list[Plan], settings: CacheSettings, basis: Assumed) -> bool:
    """Return whether a recurrent model caches prefixes in blocks that are all longer than a prompt."""
    layouts = [plan.cache.layout for plan in found]
    is_recurrent = any(layout.num_recurrent_groups for layout in layouts)
    shortest = min(layout.block_tokens for layout in layouts)
    return settings.prefix_caching and is_recurrent and basis.num_prompt_tokens < shortest


def _to_paste(plan: Plan, found: list[Plan], settings: CacheSettings, basis: Assumed) -> list[str]:
    """Return the configuration of a plan, as YAML; its slots are no more than fit and have CUDA graphs."""
    slots = plan.num_running
    if plan in found and settings.max_num_seqs is not None:
        slots = min(settings.max_num_seqs, plan.num_fitting, MAX_GRAPH_SEQS)
    keys = [
        f"replicas: {plan.num_replicas}",
        f"tensor_parallel_size: {plan.tensor_parallel_size}",
        f"max_num_seqs: {slots}",
        f"gpu_memory_utilization: {settings.gpu_memory_utilization}",
    ]
    if _never_hits(found, settings, basis):
        keys.append("extra: {enable_prefix_caching: false}")
    return ["to paste into the configuration:", f"engine: {{{', '.join(keys)}}}"]


def _settings(plan: Plan) -> str:
    return f"engine.tensor_parallel_size={plan.tensor_parallel_size} engine.replicas={plan.num_replicas}"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
