"""How close to the earliest possible end a night comes, by what is known of the lengths: a simulation.

8 replicas x 64 slots, 9,137 rows of lognormal lengths capped at 10,000 tokens, mean 2,000. Rows are fed as the
generate room feeds them: blocks, each to the replica that has the fewest, one more as soon as a block is whole;
within a replica rows start in their order. Time is counted in steps of a full engine.

Assumed: an earlier run's lengths have tonight's distribution, and their logarithms correlate with tonight's; what a
step costs is told by a function of the rows in it. With `constant` a slot makes one token a step whatever happens
beside it, so that nothing ends before max(all tokens / slots, longest row). With `experts` a step of few rows is
shorter, as it is when the weights of a mixture of experts have to be read; the bound then takes the fastest step for
the longest row and full steps for all tokens.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pipeline.generate.blocks import BlockPlan

Floats = npt.NDArray[np.float64]

NUM_ROWS, MEAN_TOKENS, CAP_TOKENS = 9_137, 2_000, 10_000
NUM_REPLICAS, SLOTS = 8, 64
NUM_SEEDS = 10


def constant(num_rows: int) -> float:  # noqa: ARG001
    """Return how long a step takes: always the same."""
    return 1.0


def experts(num_rows: int) -> float:
    """Return how long a step of so many rows takes, as a share of a full one, when reading weights is all there is.

    A row wakes 8 of 256 experts, taken as random. All experts are 32.2 billion weights (40 layers of 256, three
    matrices of 2048 x 512 each) and the rest 2.4: Qwen3.6-35B-A3B. Caches are left out.
    """

    def billions(rows: int) -> float:
        return 2.4 + 32.2 * (1 - (1 - 8 / 256) ** rows)

    return billions(num_rows) / billions(SLOTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Replicas, how they are fed, what a step costs, and over how many steps of a full engine they become ready.

    Until all are ready each gets what it gets at first, or, when they are `greedy`, all that it can queue.
    """

    num_replicas: int = NUM_REPLICAS
    slots: int = SLOTS
    portions: BlockPlan
    step: Callable[[int], float] = constant
    ready_within: float = 0.0
    greedy: bool = True

    def bound(self, lengths: Sequence[float]) -> float:
        """Return a time before which the rows cannot end, whatever their order."""
        full = sum(lengths) / (self.num_replicas * self.slots) * self.step(self.slots)
        return max(full, max(lengths) * self.step(1))


@dataclass(slots=True)
class Replica:
    """One engine at the time `at`: its count of tokens a row, rows that run by the count at their end, rows that wait.

    A row is known by its block.
    """

    cluster: Cluster
    at: float
    tokens: float = 0.0
    num_blocks: int = 0
    running: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[tuple[float, int]] = field(default_factory=deque)

    def next_end(self) -> float:
        """Return when the next row ends, if nothing begins before."""
        if not self.running:
            return math.inf
        return self.at + (self.running[0][0] - self.tokens) * self.cluster.step(len(self.running))

    def take(self, block: int, lengths: Sequence[float], now: float) -> None:
        """Take a block of rows of these lengths."""
        self.num_blocks += 1
        self.waiting.extend(zip(lengths, repeat(block)))
        self._move_to(now)
        self._admit()

    def end_row(self) -> int:
        """Let time go on until the next row ends; return its block."""
        self._move_to(self.next_end())
        self.tokens, block = heapq.heappop(self.running)
        self._admit()
        return block

    def _move_to(self, now: float) -> None:
        if self.running:
            self.tokens += (now - self.at) / self.cluster.step(len(self.running))
        self.at = now

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.cluster.slots:
            length, block = self.waiting.popleft()
            heapq.heappush(self.running, (self.tokens + length, block))


def makespan(lengths: Sequence[float], cluster: Cluster) -> float:
    """Return when the last row ends, when rows of these lengths are fed in this order."""
    size, most = cluster.portions.rows_per_block, cluster.portions.blocks_per_replica
    at_first = most if cluster.greedy else max(1, cluster.slots // size)
    blocks = {first: lengths[first : first + size] for first in range(0, len(lengths), size)}
    left = {block: len(rows) for block, rows in blocks.items()}
    to_feed = deque(blocks)
    delay = cluster.ready_within / max(1, cluster.num_replicas - 1)
    coming = deque(Replica(cluster, at=number * delay) for number in range(cluster.num_replicas))
    ready: list[Replica] = []
    now = 0.0
    while left:
        while coming and coming[0].at <= now:
            ready.append(coming.popleft())
        room = at_first if coming else most
        while to_feed and (fewest := min(ready, key=lambda each: each.num_blocks)).num_blocks < room:
            block = to_feed.popleft()
            fewest.take(block, blocks[block], now)
        soonest = min(ready, key=Replica.next_end)
        if coming and coming[0].at <= soonest.next_end():
            now = coming[0].at
            continue
        block = soonest.end_row()
        now = soonest.at
        left[block] -= 1
        if not left[block]:
            del left[block]
            soonest.num_blocks -= 1
    return now


def lengths_of(scores: Floats, spread: float) -> Floats:
    """Return the lognormal lengths of normal scores: capped, and with the wanted mean after the cap."""

    def capped_mean(mu: float) -> float:
        low = (math.log(CAP_TOKENS) - mu) / spread
        below = NormalDist().cdf(low - spread)
        return math.exp(mu + spread**2 / 2) * below + CAP_TOKENS * (1 - NormalDist().cdf(low))

    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if capped_mean(middle) < MEAN_TOKENS else (low, middle)
    return np.clip(np.round(np.exp(low + spread * scores)), 1, CAP_TOKENS)


def ordered(rng: np.random.Generator, correlation: float, spread: float, num_rows: int = NUM_ROWS) -> list[float]:
    """Return lengths in the order of a guess that correlates with them, the longest guess first."""
    scores = rng.standard_normal(num_rows)
    guess = correlation * scores + math.sqrt(1 - correlation**2) * rng.standard_normal(num_rows)
    lengths: list[float] = lengths_of(scores, spread)[np.argsort(-guess, kind="stable")].tolist()
    return lengths


@cache
def ratios(
    correlation: float, spread: float, cluster: Cluster, num_seeds: int = NUM_SEEDS, num_rows: int = NUM_ROWS
) -> list[float]:
    """Return makespan / bound for each seed."""
    orders = (ordered(np.random.default_rng(seed), correlation, spread, num_rows) for seed in range(num_seeds))
    return [makespan(lengths, cluster) / cluster.bound(lengths) for lengths in orders]


OURS = BlockPlan.of(NUM_ROWS, SLOTS, NUM_REPLICAS)
