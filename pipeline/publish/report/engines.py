"""The report's table of what decided the engines' speed: the KV cache, batches, CUDA graphs, preemptions.

In: what each replica reported. Out: a column for all replicas with the same settings, so one where they are alike, and
one row for each figure. What depends on the free memory or the work, such as KV blocks, is a range within a column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.runs.manifest import EngineInfo

Replicas = Mapping[str, EngineInfo]

UNKNOWN = "–"

MOST_NAMES = 3
"""A column of more replicas is named by their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTable:
    """Column headings, and rows of a figure's name with a cell for each column."""

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def engine_table(engines: Replicas) -> EngineTable | None:
    """Return the table; None if no engine reported any of the figures, as an endpoint does not."""
    groups: dict[tuple[object, ...], dict[str, EngineInfo]] = {}
    for name, info in engines.items():
        if info.device is not None:  # else its engine never started
            groups.setdefault(_settings(info), {})[name] = info
    rows = [(label, [show(group) for group in groups.values()]) for label, show in _FIGURES]
    rows = [(label, cells) for label, cells in rows if set(cells) != {UNKNOWN}]
    if not groups or not rows:
        return None
    names = [", ".join(group) if len(group) <= MOST_NAMES else f"{len(group)} replicas" for group in groups.values()]
    return EngineTable(columns=names, rows=rows)


def _settings(info: EngineInfo) -> tuple[object, ...]:
    return (
        *(info.kv_block_size, info.prefix_caching, info.async_scheduling, info.max_num_seqs),
        *(info.max_num_batched_tokens, info.cuda_graph_mode, info.cuda_graph_sizes, info.moe_config),
    )


def _number(field: str, text: str = "{:,}") -> Callable[[Replicas], str]:
    """Return a function that shows the values of a field, as a range if they differ."""

    def show(replicas: Replicas) -> str:
        values = sorted({getattr(info, field) for info in replicas.values()} - {None})
        return "–".join(dict.fromkeys(text.format(value) for value in (values[0], values[-1]))) if values else UNKNOWN

    return show


def _switch(field: str) -> Callable[[Replicas], str]:
    def show(replicas: Replicas) -> str:
        value = getattr(next(iter(replicas.values())), field)
        return UNKNOWN if value is None else "on" if value else "off"

    return show


def _graphs(replicas: Replicas) -> str:
    info = next(iter(replicas.values()))
    if info.cuda_graph_sizes is None:
        largest = info.largest_cuda_graph
        return f"up to {largest:,} sequences" if largest is not None else "none" if info.cuda_graph_mode else UNKNOWN
    sizes = info.cuda_graph_sizes.split(", ")
    return f"{len(sizes)} sizes, {sizes[0]} to {sizes[-1]} sequences ({info.cuda_graph_mode})"


def _moe(replicas: Replicas) -> str:
    return next(iter(replicas.values())).moe_config or UNKNOWN


def _preemptions(replicas: Replicas) -> str:
    """Show the preemptions of all replicas, and which of them had any."""
    known = {name: info.num_preemptions for name, info in replicas.items() if info.num_preemptions is not None}
    if not known:
        return UNKNOWN
    by_name = ", ".join(f"{name}: {number:,}" for name, number in known.items() if number)
    num_rows = sum(info.num_preempted_rows or 0 for info in replicas.values())
    return f"{sum(known.values()):,}, of {num_rows:,} rows ({by_name})" if by_name else "0"


_FIGURES: tuple[tuple[str, Callable[[Replicas], str]], ...] = (
    ("KV cache, blocks", _number("num_kv_blocks")),
    ("tokens a block", _number("kv_block_size")),
    ("KV cache, tokens", _number("num_kv_tokens")),
    ("sequences of the longest length that fit", _number("kv_concurrency", "{:,.1f}")),
    ("KV cache in use at most", _number("peak_kv_cache_usage", "{:.0%}")),
    ("prefix caching", _switch("prefix_caching")),
    ("asynchronous scheduling", _switch("async_scheduling")),
    ("sequences at once, at most", _number("max_num_seqs")),
    ("tokens a step, at most", _number("max_num_batched_tokens")),
    ("CUDA graphs", _graphs),
    ("tuned MoE file", _moe),
    ("preemptions", _preemptions),
)
