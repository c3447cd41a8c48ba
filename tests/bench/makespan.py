"""How close to the earliest possible end a night comes, by what is known of the lengths: a simulation.

    .venv/bin/python tests/bench/makespan.py            # 20 seeds, the tables of NOTES.md

8 replicas x 64 slots, 9,137 rows of lognormal lengths capped at 10,000 tokens, mean 2,000. The feeding is the generate
room's: blocks of a few rows, each to the replica with the fewest, one more as soon as a block is whole; within a
replica rows start in the order in which they came. Time is counted in tokens of a full engine.

What is assumed: every slot makes one token a step whatever its neighbours do (`CONSTANT`), so that the bound is
max(all tokens / slots, longest row); or a step of few rows is shorter, as reading the weights of a mixture of experts
is (`EXPERTS`), with the bound worked out for that. Rows of equal expectation are in random order. An earlier run's
lengths have tonight's distribution, and the logarithms of the two correlate.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.generate.feed import OVERSUBSCRIPTION, ROWS_PER_BLOCK

NUM_ROWS, MEAN_TOKENS, CAP_TOKENS = 9_137, 2_000, 10_000
SPREADS = (0.6, 0.8, 1.0, 1.2)
"""Standard deviations of the logarithm of a length before the cap; 1.0 is the headline."""

PROMPT_CORRELATION = 0.3
"""Of a prompt's length and its completion's; 0.35 on the demo's 214 rows, 0.44 of the logarithms."""

Step = Callable[[int], float]


def constant(_: int) -> float:
    """Return the duration of a step, whatever the rows in it."""
    return 1.0


def experts(num_rows: int, full: int = 64) -> float:
    """Return the duration of a step of so many rows, as a share of a full one, when memory is what limits it.

    Each row wakes 8 of 256 experts, at random; the experts are 34 billion weights, 2 billion are read by every step
    (about Qwen3.6-35B-A3B). Caches are left out.
    """

    def billions(rows: int) -> float:
        return 2 + 34 * (1 - (1 - 8 / 256) ** rows)

    return billions(num_rows) / billions(full)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Replicas, their slots, how they are fed, how long a step is, and when each is ready (tokens of a full engine)."""

    num_replicas: int = 8
    slots: int = 64
    rows_per_block: int = ROWS_PER_BLOCK
    oversubscription: float = OVERSUBSCRIPTION
    step: Step = constant
    ready_within: float = 0.0

    @property
    def blocks_per_replica(self) -> int:
        return 1 + math.ceil(self.oversubscription * self.slots / self.rows_per_block)

    def bound(self, lengths: Sequence[float]) -> float:
        """Return a time before which no order and no feeding can end."""
        all_slots = self.num_replicas * self.slots
        return max(sum(lengths) / all_slots * self.step(self.slots), max(lengths) * self.step(1))


@dataclass(slots=True)
class Replica:
    """One engine: rows that run, by the token clock of their end, and rows that wait."""

    cluster: Cluster
    ready: float = 0.0
    clock: float = 0.0
    at: float = 0.0
    num_blocks: int = 0
    waiting: deque[tuple[float, int]] = field(default_factory=deque)
    running: list[tuple[float, int]] = field(default_factory=list)

    def next_end(self) -> float:
        """Return when the next row ends if nothing else begins."""
        if not self.running:
            return math.inf
        return self.at + (self.running[0][0] - self.clock) * self.cluster.step(len(self.running))

    def advance(self, now: float) -> None:
        """Let the token clock run until `now`."""
        if self.running:
            self.clock += (now - self.at) / self.cluster.step(len(self.running))
        self.at = now

    def admit(self) -> None:
        """Start what fits."""
        while self.waiting and len(self.running) < self.cluster.slots:
            length, block = self.waiting.popleft()
            heapq.heappush(self.running, (self.clock + length, block))


def makespan(lengths: Sequence[float], cluster: Cluster) -> float:
    """Return when the last row ends if the rows start in this order."""
    step = cluster.ready_within / max(1, cluster.num_replicas - 1)
    replicas = [Replica(cluster, ready=number * step) for number in range(cluster.num_replicas)]
    size = cluster.rows_per_block
    blocks = deque(range(0, len(lengths), size))
    left = {block: len(lengths[block : block + size]) for block in blocks}
    coming = deque(sorted(replicas, key=lambda replica: replica.ready))
    here: list[Replica] = []
    now = 0.0
    while left:
        while coming and coming[0].ready <= now:
            here.append(coming.popleft())
            here[-1].at = now
        _feed(lengths, blocks, here, cluster, now)
        soonest = min(here, key=Replica.next_end)
        end = soonest.next_end()
        if coming and coming[0].ready < end:
            now = coming[0].ready
            continue
        now = end
        soonest.advance(now)
        _, block = heapq.heappop(soonest.running)
        soonest.clock = max(soonest.clock, _)
        left[block] -= 1
        if not left[block]:
            del left[block]
            soonest.num_blocks -= 1
        soonest.admit()
    return now


def _feed(lengths: Sequence[float], blocks: deque[int], here: list[Replica], cluster: Cluster, now: float) -> None:
    """Hand out blocks, each to the replica with the fewest, as long as one has room."""
    while blocks and here:
        replica = min(here, key=lambda each: each.num_blocks)
        if replica.num_blocks >= cluster.blocks_per_replica:
            return
        block = blocks.popleft()
        replica.num_blocks += 1
        replica.advance(now)
        replica.waiting.extend((length, block) for length in lengths[block : block + cluster.rows_per_block])
        replica.admit()
