"""Simulates what longest-first order is worth; prints tables, most of which are in NOTES.md, and the targets.

PYTHONPATH=tests .venv/bin/python -m bench.longest_first              # 10 seeds, a minute or two
PYTHONPATH=tests .venv/bin/python -m bench.longest_first first-run    # the table of a model's first run alone
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from statistics import mean

from bench.makespan import NUM_REPLICAS, NUM_ROWS, OURS, SLOTS, Cluster, constant, experts, ratios
from bench.results import Target

from pipeline.generate.blocks import BlockPlan

SPREADS = (0.4, 0.6, 0.8, 1.0, 1.2)
"""Standard deviations of a length's logarithm before the cap. The demo's is 0.63; with reasoning it is larger."""

ORDERS = {
    "file order": 0.0,
    "prompt length, correlation 0.3": 0.3,
    "history, correlation 0.5": 0.5,
    "history, correlation 0.7": 0.7,
    "history, correlation 0.9": 0.9,
    "perfect oracle": 1.0,
}
"""Sources of the order with their correlation to the actual lengths. For prompt lengths the demo has about 0.3."""

FIRST_RUN = {
    "file order": 0.0,
    "prompt length, correlation 0.3": 0.3,
    "another model, correlation 0.5": 0.5,
    "another model, correlation 0.7": 0.7,
    "the same model, correlation 0.9": 0.9,
}
"""Sources of the order of a model's first run, and for comparison that of the next one."""

PROMISED_SPREAD = 1.0
"""The spread at which the targets are checked."""


def tables() -> Iterator[str]:
    """Yield the lines of the tables."""
    for title, settings in (
        ("One token a slot and step", {"step": constant}),
        ("A step of few rows is shorter (experts)", {"step": experts}),
        ("One token a slot and step; the replicas become ready over 1,800 steps", {"ready_within": 1_800.0}),
        (
            "4 replicas of 256 slots, as in conf/mera.yaml; one token a slot and step",
            {"num_replicas": 4, "slots": 256},
        ),
    ):
        slots, num_replicas = settings.get("slots", SLOTS), settings.get("num_replicas", NUM_REPLICAS)
        cluster = Cluster(plan=BlockPlan.of(NUM_ROWS, slots, num_replicas), **settings)
        yield f"\n{title}: mean (worst) makespan / bound by the spread of the lengths"
        yield from _by_spread(cluster)
    yield from first_run()
    yield "\nHow rows are handed out, spread 1.0; late: the replicas become ready over 1,800 steps"
    yield from _by_block_plan()


def first_run() -> Iterator[str]:
    """Yield the lines of the table of a model's first run, on the clusters of this file and of conf/mera.yaml."""
    shapes = {"8 replicas x 64 slots": (NUM_REPLICAS, SLOTS), "4 replicas x 256 slots": (4, 256)}
    clusters = {
        f"{name}{suffix}": Cluster(num_replicas=num, slots=slots, plan=BlockPlan.of(NUM_ROWS, slots, num), step=step)
        for name, (num, slots) in shapes.items()
        for suffix, step in (("", constant), (", experts", experts))
    }
    yield f"\nA model's first run, spread {PROMISED_SPREAD}: mean (worst) makespan / bound"
    cells = {
        name: [ratios(correlation, PROMISED_SPREAD, cluster) for cluster in clusters.values()]
        for name, correlation in FIRST_RUN.items()
    }
    yield from _table(list(clusters), cells)


def _by_spread(cluster: Cluster) -> Iterator[str]:
    cells = {name: [ratios(correlation, spread, cluster) for spread in SPREADS] for name, correlation in ORDERS.items()}
    yield from _table([f"{spread}" for spread in SPREADS], cells)


def _by_block_plan() -> Iterator[str]:
    plans = {"row by row, 1.25 a slot": BlockPlan(1, math.ceil(1.25 * SLOTS))}
    plans |= {
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
            ratios(correlation, 1.0, Cluster(plan=each, **settings))
            for correlation in (0.0, 0.9, 1.0)
            for settings in late.values()
        ]
        for name, each in plans.items()
    }
    yield from _table([f"{name}{suffix}" for name in ("file order", "0.9", "oracle") for suffix in late], cells)


def _table(columns: Sequence[str], rows: dict[str, list[list[float]]]) -> Iterator[str]:
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(f'{mean(cell):.3f} ({max(cell):.3f})' for cell in cells)} |"


def targets() -> list[Target]:
    """Return the targets for makespan / bound with the simulated means over the seeds."""
    cluster = Cluster(plan=OURS)
    return [
        Target(
            size=f"makespan / bound, spread {PROMISED_SPREAD}",
            what=name,
            value=mean(ratios(ORDERS[name], PROMISED_SPREAD, cluster)),
            wanted=most,
            is_most=True,
        )
        for name, most in (
            ("history, correlation 0.9", 1.05),
            ("prompt length, correlation 0.3", 1.15),
            ("file order", 1.15),
        )
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["first-run"]:
        print("\n".join(first_run()))
        sys.exit()
    for line in tables():
        print(line, flush=True)
    for target in targets():
        print(f"- {target}")
