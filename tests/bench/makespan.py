"""Simulates how close to the earliest possible end a run comes, depending on what is known about the lengths.

8 replicas x 64 slots, 9,137 rows of lognormal lengths capped at 10,000 tokens, mean 2,000. Rows are dispatched as in
the generate stage: in blocks, each to the replica that has the fewest, another one as soon as a block is complete.
Within a replica rows start in their order. The unit of time is a step of a full engine.

Assumptions: the lengths of the past run and of the simulated run have the same distribution, and their logarithms
correlate; the cost of a step is a function of the number of rows in it. With `constant` a slot generates one token per
step whatever the other slots do, so that no schedule ends before max(all tokens / slots, longest row). With `experts` a
step of few rows is shorter, as when the weights of a mixture of experts have to be read; the bound then uses the
fastest step for the longest row and full steps for all tokens.
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
    """Return the duration of a step, which does not depend on the number of rows."""
    return 1.0


def experts(num_rows: int) -> float:
    """Return the duration of a step of `num_rows` rows relative to a full one, if reading weights is the only cost.

    A row activates 8 of 256 experts, assumed to be random. All experts have 32.2 billion weights (40 layers of 256,
    three matrices of 2048 x 512 each), the rest 2.4 billion: Qwen3.6-35B-A3B. Caches are ignored.
    """

    def billions(rows: int) -> float:
        return 2.4 + 32.2 * (1 - (1 - 8 / 256) ** rows)

    return billions(num_rows) / billions(SLOTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Replicas, their block plan, the cost of a step, and the time over which they become ready.

    `ready_within` is in steps of a full engine. Until all replicas are ready, each gets only as many blocks as fill
    its slots, or, if `greedy`, as many as the plan allows.
    """

    num_replicas: int = NUM_REPLICAS
    slots: int = SLOTS
    plan: BlockPlan
    step: Callable[[int], float] = constant
    ready_within: float = 0.0
    greedy: bool = True

    def bound(self, lengths: Sequence[float]) -> float:
        """Return a lower bound of the makespan for any order of the rows."""
        full = sum(lengths) / (self.num_replicas * self.slots) * self.step(self.slots)
        return max(full, max(lengths) * self.step(1))


@dataclass(slots=True)
class Replica:
    """One engine at the time `at`.

    `tokens` counts the tokens per row since the start. `running` is a heap of (`tokens` at the row's end, block),
    `waiting` a queue of (length, block).
    """

    cluster: Cluster
    at: float
    tokens: float = 0.0
    num_blocks: int = 0
    running: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[tuple[float, int]] = field(default_factory=deque)

    def next_end(self) -> float:
        """Return the time at which the next row ends, if no row starts before."""
        if not self.running:
            return math.inf
        return self.at + (self.running[0][0] - self.tokens) * self.cluster.step(len(self.running))

    def take(self, block: int, lengths: Sequence[float], now: float) -> None:
        """Add a block of rows of these lengths."""
        self.num_blocks += 1
        self.waiting.extend(zip(lengths, repeat(block)))
        self._move_to(now)
        self._admit()

    def end_row(self) -> int:
        """Advance to the end of the next row; return its block."""
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
    """Return the time at which the last row ends, if rows of these lengths are dispatched in this order."""
    size, most = cluster.plan.rows_per_block, cluster.plan.blocks_per_replica
    at_first = most if cluster.greedy else max(1, cluster.slots // size)
    blocks = {first: lengths[first : first + size] for first in range(0, len(lengths), size)}
    left = {block: len(rows) for block, rows in blocks.items()}
    to_dispatch = deque(blocks)
    delay = cluster.ready_within / max(1, cluster.num_replicas - 1)
    coming = deque(Replica(cluster, at=number * delay) for number in range(cluster.num_replicas))
    ready: list[Replica] = []
    now = 0.0
    while left:
        while coming and coming[0].at <= now:
            ready.append(coming.popleft())
        limit = at_first if coming else most
        while to_dispatch and (fewest := min(ready, key=lambda each: each.num_blocks)).num_blocks < limit:
            block = to_dispatch.popleft()
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
    """Return the lognormal lengths of normal scores: capped, with mean `MEAN_TOKENS` after the cap."""

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
    """Return lengths in the order of an estimate that correlates with them, longest estimate first."""
    scores = rng.standard_normal(num_rows)
    estimate = correlation * scores + math.sqrt(1 - correlation**2) * rng.standard_normal(num_rows)
    lengths: list[float] = lengths_of(scores, spread)[np.argsort(-estimate, kind="stable")].tolist()
    return lengths


@cache
def ratios(
    correlation: float, spread: float, cluster: Cluster, num_seeds: int = NUM_SEEDS, num_rows: int = NUM_ROWS
) -> list[float]:
    """Return makespan / bound for each seed."""
    orders = (ordered(np.random.default_rng(seed), correlation, spread, num_rows) for seed in range(num_seeds))
    return [makespan(lengths, cluster) / cluster.bound(lengths) for lengths in orders]


OURS = BlockPlan.of(NUM_ROWS, SLOTS, NUM_REPLICAS)
