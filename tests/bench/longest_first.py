"""What longest first is worth, simulated: tables, most of which are in NOTES.md, and the promises.

PYTHONPATH=tests .venv/bin/python -m bench.longest_first        # 10 seeds, a minute or two
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean

from bench.makespan import NUM_REPLICAS, NUM_ROWS, OURS, SLOTS, Cluster, constant, experts, ratios
from bench.results import Target

from pipeline.generate.blocks import BlockPlan

SPREADS = (0.4, 0.6, 0.8, 1.0, 1.2)
"""Standard deviations of a length's logarithm before the cap. The demo's is 0.63; reasoning spreads wider."""

ORDERS = {
    "file order": 0.0,
    "prompt length, correlation 0.3": 0.3,
    "history, correlation 0.5": 0.5,
    "history, correlation 0.7": 0.7,
    "history, correlation 0.9": 0.9,
    "perfect oracle": 1.0,
}
"""What the order is made of, with its correlation to what comes. 0.3 is about the demo's for a prompt's length."""

PROMISED_SPREAD = 1.0
"""The spread that the promises are held to; the tables have others as well."""


def tables() -> Iterator[str]:
    """Yield the lines of NOTES.md."""
    for title, settings in (
        ("One token a slot and step", {"step": constant}),
        ("A step of few rows is shorter (experts)", {"step": experts}),
        ("One token a slot and step; the replicas become ready over 1,800 steps", {"ready_within": 1_800.0}),
        ("128 slots a replica, as in conf/mera.yaml; one token a slot and step", {"slots": 128}),
    ):
        cluster = Cluster(portions=BlockPlan.of(NUM_ROWS, settings.get("slots", SLOTS), NUM_REPLICAS), **settings)
        yield f"\n{title}: mean (worst) makespan / bound by the spread of the lengths"
        yield from _by_spread(cluster)
    yield "\nHow rows are handed out, spread 1.0; late: the replicas become ready over 1,800 steps"
    yield from _by_portions()


def _by_spread(cluster: Cluster) -> Iterator[str]:
    cells = {name: [ratios(correlation, spread, cluster) for spread in SPREADS] for name, correlation in ORDERS.items()}
    yield from _table([f"{spread}" for spread in SPREADS], cells)


def _by_portions() -> Iterator[str]:
    portions = {"row by row, 1.25 a slot": BlockPlan(1, math.ceil(1.25 * SLOTS))}
    portions |= {
        f"{rows} rows a block, {times} a slot": BlockPlan(rows, 1 + math.ceil(times * SLOTS / rows))
        for rows, times in ((4, 2), (4, 2.5), (4, 3), (8, 4), (16, 6), (32, 8))
    }
    late = {
        "": {},
        " late": {"ready_within": 1_800.0, "greedy": False},
        " late, greedy": {"ready_within": 1_800.0},
    }
    cells = {
        name: [
            ratios(correlation, 1.0, Cluster(portions=each, **settings))
            for correlation in (0.0, 0.9, 1.0)
            for settings in late.values()
        ]
        for name, each in portions.items()
    }
    yield from _table([f"{name}{word}" for name in ("file order", "0.9", "oracle") for word in late], cells)


def _table(columns: Sequence[str], rows: dict[str, list[list[float]]]) -> Iterator[str]:
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(f'{mean(cell):.3f} ({max(cell):.3f})' for cell in cells)} |"


def targets() -> list[Target]:
    """Return what is promised of the makespan and what the simulation gives, on average over the seeds."""
    cluster = Cluster(portions=OURS)
    return [
        Target(
            size=f"makespan / bound, spread {PROMISED_SPREAD}",
            what=name,
            value=mean(ratios(ORDERS[name], PROMISED_SPREAD, cluster)),
            wanted=wanted,
            is_most=True,
        )
        for name, wanted in (
            ("history, correlation 0.9", 1.05),
            ("prompt length, correlation 0.3", 1.15),
            ("file order", 1.15),
        )
    ]


if __name__ == "__main__":
    for line in tables():
        print(line, flush=True)
    for target in targets():
        print(f"- {target}")
