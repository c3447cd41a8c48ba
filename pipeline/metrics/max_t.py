"""One-sided tests of several drops at once: scores of questions over several runs in, adjusted p-values out.

A new run is compared with one or more baseline runs of the same questions. A question's change is the score of the new
run minus the mean of the others, divided by m (1 - m), where m is its mean over all runs: the variance of a
right-or-wrong answer with that mean. So a question that every run answers alike counts for more than one that comes and
goes (weights by the inverse of the variance). A statistic is a weighted sum of these changes over questions and tasks.

Two null distributions are drawn, and a drop counts only if it is significant under both:

    runs     each question takes one of its runs as the new one, all with equal probability. Exact, for any number of
             questions, if the runs of an unchanged model are exchangeable
    signs    each question's change keeps or changes its sign, with equal probability. Exact if the change is symmetric,
             also where all baseline runs gave the same answers and the new one was drawn again, as after an upgrade of
             the engine; then the first distribution is too narrow

With one baseline run both are the same, and for a binary score McNemar's exact test. One draw serves all metrics of a
question, and through the weighted sums all tasks, domains and the run, so the joint distribution of the statistics is
that of the draws. Sources: Romano and Wolf 2005, JASA 100:94 (step-down adjustment by the distribution of the maximum,
also for randomization tests); Lehmann and Romano 2005, Testing Statistical Hypotheses, chapter 15 (randomization).
Assumed: questions are independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.metrics.confidence import MOST_OUTCOMES, Counts, Floats

NUM_DRAWS = 10_000
MOST_DRAWS = 200_000

SMALLEST_ALPHA = 1e-5
"""Smallest level that `num_draws` serves: with `MOST_DRAWS` draws no p-value is below 5e-6."""

NULLS = ("runs", "signs")

_CELLS = 4_000_000
"""Numbers in memory at a time, 32 MB."""


def num_draws(alpha: float) -> int:
    """Return the number of draws for tests at a level: some 50 of them are beyond its critical value."""
    return int(min(max(NUM_DRAWS, 50 / alpha), MOST_DRAWS))


def changes(values: Floats) -> tuple[Floats, Counts]:
    """Return each question's change for each run that could be the new one, and the number of its runs.

    Args:
        values: Mean scores of a question's repeats, from 0 to 1, NaN where a run has none; shape [questions, runs,
            metrics], the new run first. Each question has a score in the new run and in another one.

    Returns:
        Changes of the shape of `values`, where the runs that have a score come first and the others are 0; they sum to
        0 over the runs. The number of runs has the shape [questions].
    """
    is_absent = np.isnan(values).all(axis=2)
    order = np.argsort(is_absent, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order[:, :, None], axis=1)
    num = (~np.isnan(ordered)).sum(axis=1, keepdims=True)
    mean = np.nansum(ordered, axis=1, keepdims=True) / np.maximum(num, 1)
    variance = mean * (1 - mean)
    scale = np.where((num > 1) & (variance > 1e-12), num / np.maximum(num - 1, 1) / np.maximum(variance, 1e-12), 0.0)
    return np.nan_to_num((ordered - mean) * scale, nan=0.0), (~is_absent).sum(axis=1)


@dataclass(slots=True, eq=False)
class TaskChanges:
    """The sums of a task's changes, filled in by `add`, and their null distributions.

    Shapes: `total` [metrics]; `covariance` by null [metrics, metrics]. Above `MOST_OUTCOMES` questions that differ
    between runs, their changes are not kept: the sums are then normal to within 1/sqrt(n), see `MOST_OUTCOMES`.
    """

    num_metrics: int
    total: Floats = field(init=False)
    covariance: dict[str, Floats] = field(init=False)
    _kept: list[tuple[Floats, Counts]] = field(default_factory=list)
    _num: int = 0

    def __post_init__(self) -> None:
        self.total = np.zeros(self.num_metrics)
        self.covariance = {null: np.zeros((self.num_metrics, self.num_metrics)) for null in NULLS}

    def add(self, values: Floats) -> None:
        """Add questions; see `changes`. Questions on which all runs agree add nothing and may be left out."""
        found, num = changes(values)
        self.total += found[:, 0].sum(axis=0)
        self.covariance["runs"] += np.einsum("qrm,qrn,q->mn", found, found, 1 / num)
        self.covariance["signs"] += np.einsum("qm,qn->mn", found[:, 0], found[:, 0])
        self._num += len(found)
        self._kept = [*self._kept, (found, num)] if self._num <= MOST_OUTCOMES else []

    def drawn(self, null: str, rng: np.random.Generator, size: int) -> Floats:
        """Return `size` draws of `total` under a null distribution; shape [size, metrics]."""
        if self._num > MOST_OUTCOMES:
            zeros = np.zeros(self.num_metrics)
            return rng.multivariate_normal(zeros, self.covariance[null], size, method="eigh")
        draws = np.zeros((size, self.num_metrics))
        step = max(1, _CELLS // max(1, self._num * self.num_metrics))
        for part in (draws[start : start + step] for start in range(0, size, step)):
            for found, num in self._kept:
                part += _signed(found, rng, len(part)) if null == "signs" else _relabelled(found, num, rng, len(part))
        return draws


def _relabelled(found: Floats, num: Counts, rng: np.random.Generator, size: int) -> Floats:
    """Return sums over questions of the change of a run drawn for each."""
    picked = (rng.random((size, len(found)), np.float32) * num).astype(np.intp)
    np.minimum(picked, num - 1, out=picked)  # a product may be rounded up
    picked += found.shape[1] * np.arange(len(found))
    return np.asarray(found.reshape(-1, found.shape[2]).take(picked, axis=0).sum(axis=1), float)


def _signed(found: Floats, rng: np.random.Generator, size: int) -> Floats:
    """Return sums over questions of the new run's change with a random sign."""
    signs = 2.0 * rng.integers(0, 2, (size, len(found)), np.int8) - 1
    return np.asarray(signs @ found[:, 0], float)


def max_t(observed: Floats, draws: Floats) -> list[float]:
    """Return step-down adjusted p-values of one-sided tests; a small statistic speaks against its null hypothesis.

    Source: Romano and Wolf 2005, JASA 100:94, algorithm of section 4: the i-th smallest statistic is compared with the
    distribution of the minimum over itself and all larger ones, and the results are made monotone. The observed value
    counts as one more draw (Davison and Hinkley 1997, section 4.2).

    Args:
        observed: Statistics in units of their standard deviations; shape [tests].
        draws: Their joint null distribution; shape [draws, tests].
    """
    order = np.argsort(observed, kind="stable")
    smallest = np.minimum.accumulate(draws[:, order[::-1]], axis=1)[:, ::-1]
    num_beyond = (smallest <= observed[order] + 1e-9).sum(axis=0)
    p_values = np.empty(len(observed))
    p_values[order] = np.maximum.accumulate((1 + num_beyond) / (len(draws) + 1))
    return [float(p) for p in p_values]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTest:
    """A test of one metric, by its number: the sum over tasks, by their place, of weight times total change."""

    metric: int
    weights: Mapping[int, float]


def adjusted(
    tasks: Sequence[TaskChanges], tests: Sequence[DropTest], rngs: Sequence[np.random.Generator], size: int
) -> list[float]:
    """Return the adjusted one-sided p-value of each test: the larger of those under the two null distributions.

    A test without any question that differs between runs has p = 1.

    Args:
        tasks: The tasks.
        tests: The tests; a mean over a task's questions has the weight 1 / number of questions.
        rngs: Random generators of the tasks.
        size: Number of draws.
    """
    found = [0.0] * len(tests)
    for null in NULLS:
        drawn = [task.drawn(null, rng, size) for task, rng in zip(tasks, rngs, strict=True)]
        for place, p in _of_null(tasks, tests, null, drawn).items():
            found[place] = max(found[place], p)
    return found


def _of_null(
    tasks: Sequence[TaskChanges], tests: Sequence[DropTest], null: str, drawn: Sequence[Floats]
) -> dict[int, float]:
    """Return the adjusted p-values under one null distribution by the tests' places."""
    observed: dict[int, float] = {}
    draws: list[Floats] = []
    for place, test in enumerate(tests):
        parts = [(weight, tasks[task], drawn[task][:, test.metric]) for task, weight in test.weights.items()]
        variance = sum(weight**2 * task.covariance[null][test.metric, test.metric] for weight, task, _ in parts)
        if variance > 0:
            scale = math.sqrt(variance)
            observed[place] = sum(weight * task.total[test.metric] for weight, task, _ in parts) / scale
            draws.append(np.sum([weight / scale * column for weight, _, column in parts], axis=0))
    p_values = max_t(np.array(list(observed.values())), np.stack(draws, axis=1)) if draws else []
    return dict.fromkeys(range(len(tests)), 1.0) | dict(zip(observed, p_values, strict=True))
