"""Confidence intervals of scores: counts of questions in, intervals out; NumPy only.

The sampling unit is the question: repeats are not independent, so a resample draws all repeats of a question together
(clustering; Miller 2024, Adding Error Bars to Evals, arXiv:2411.00640). The score of a task is a ratio: the sum of its
rows' values divided by their number. All functions are deterministic: equal samples have equal intervals.

The bootstrap works on counts of distinct outcomes, not on a list of questions. Drawing n questions with replacement
equals one draw from the multinomial distribution over the distinct outcomes, so a task of a million questions with 20
distinct F1 values costs as much as a task of a hundred questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]

LEVEL = 0.95
"""Confidence level: the share of intervals that contain the true value."""
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

NUM_RESAMPLES = 5_000
"""Resamples of a bootstrap; with this many, an interval end varies between seeds by 2% of the half width."""

MOST_OUTCOMES = 2_000
"""Distinct outcomes of a task up to which it is resampled; at this number resampling takes half a second.

A task with more outcomes has at least as many questions. The distribution of its mean is normal to within 1/sqrt(n)
(Berry and Esseen), so the normal approximation replaces the bootstrap.
"""

FEW_QUESTIONS = 50
"""Questions below which the percentiles of a bootstrap cover less than 95%: .91 to .94 at 20."""

MIN_CLUSTERS = 10
"""Clusters of questions below which a cluster-robust standard error is not given; see `clustered`."""

_CELLS = 1_000_000
"""Counts in memory at a time, 8 MB."""


def generator(*names: str | None) -> np.random.Generator:
    """Return a random generator seeded by the names: equal names give equal streams, other names give other streams."""
    return np.random.default_rng(crc32("\0".join(str(name) for name in names).encode()))


def wilson(mean: ArrayLike, num: ArrayLike) -> tuple[Floats, Floats]:
    """Return the ends of Wilson's score interval for proportions over `num` binary questions.

    Source: Wilson 1927, JASA 22:209, without continuity correction. It agrees with SciPy's, which accepts one integer
    number of successes at a time. For means of values from 0 to 1 it is conservative: no such values vary more than
    binary ones.

    Args:
        mean: Proportions, from 0 to 1.
        num: Numbers of questions, at least 1; same shape as `mean`.
    """
    p, n = np.clip(np.asarray(mean, float), 0, 1), np.asarray(num, float)
    scale = 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z / scale * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return np.minimum(p, np.maximum(0, centre - half)), np.maximum(p, np.minimum(1, centre + half))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """A mean from 0 to 1, its interval, and `draws`, its bootstrap distribution; None when that has no spread."""

    mean: float
    low: float
    high: float
    draws: Floats | None


def bootstrap(totals: Floats, scored: Floats, num: Counts, rng: np.random.Generator) -> Estimate:
    """Return the mean of a task's rows with its percentile interval over resamples of the questions.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. Below `FEW_QUESTIONS` questions the
    percentiles are too close together, and the interval is Wilson's for the effective number of questions: the number
    of independent binary questions whose mean has the same standard error (Kish 1965, Survey Sampling, on the design
    effect). Where all questions have the same score, or there is only one question, it is Wilson's for their number.

    Args:
        totals: Sum of the values of a question's repeats, one entry per distinct outcome.
        scored: Number of these repeats, at least 1; same shape.
        num: Questions with this outcome, at least 1; same shape.
        rng: See `generator`.
    """
    mean = float(num @ totals / (num @ scored))
    if np.ptp(totals / scored) < 1e-12:
        ends = wilson(mean, num.sum())
        return Estimate(mean=mean, low=float(ends[0]), high=float(ends[1]), draws=None)
    draws = np.concatenate([(drawn @ totals) / (drawn @ scored) for drawn in resamples(num, rng)])
    low, high = interval(draws)
    if num.sum() < FEW_QUESTIONS:
        low, high = (float(end) for end in wilson(mean, _effective_questions(mean, totals, scored, num)))
    return Estimate(mean=mean, low=low, high=high, draws=draws)


def _effective_questions(mean: float, totals: Floats, scored: Floats, num: Counts) -> float:
    """Return the number of independent binary questions with the standard error of this mean, which is not 0."""
    num_questions, num_rows = num.sum(), num @ scored
    squares = float(num @ (totals - mean * scored) ** 2) * num_questions / (num_questions - 1)
    return max(1.0, float(mean * (1 - mean) * num_rows**2 / squares))


def normal(mean: float, stderr: float, rng: np.random.Generator) -> Estimate:
    """Return the normal approximation of `bootstrap`, for a task with more than `MOST_OUTCOMES` distinct outcomes."""
    draws = rng.normal(mean, stderr, NUM_RESAMPLES)
    return Estimate(mean=mean, low=max(0.0, mean - Z * stderr), high=min(1.0, mean + Z * stderr), draws=draws)


def clustered(mean: float, stderr: float | None, num_clusters: int) -> Estimate | None:
    """Return a mean with the interval of a cluster-robust standard error; None below `MIN_CLUSTERS` clusters.

    The interval is Wilson's for the effective number of questions (see `bootstrap`), which is made smaller so that the
    quantile of Student's t distribution with num_clusters - 1 degrees of freedom replaces that of the normal one
    (Cameron and Miller 2015, Journal of Human Resources 50:317, section VI). tests/bench/coverage.py measures it.

    Args:
        mean: The mean, from 0 to 1.
        stderr: Its cluster-robust standard error; None if all clusters have the same mean.
        num_clusters: Number of clusters.
    """
    from scipy.special import stdtrit  # takes a tenth of a second to import

    if num_clusters < MIN_CLUSTERS:
        return None
    num = num_clusters if stderr is None else max(1e-6, mean * (1 - mean)) / stderr**2
    low, high = wilson(mean, num * (Z / float(stdtrit(num_clusters - 1, (1 + LEVEL) / 2))) ** 2)
    return Estimate(mean=mean, low=float(low), high=float(high), draws=None)


def resamples(num: Counts, rng: np.random.Generator) -> Iterator[Counts]:
    """Yield how often each outcome is drawn in `NUM_RESAMPLES` resamples: arrays of shape [resamples, outcomes].

    Args:
        num: Questions with each outcome.
        rng: See `generator`.
    """
    num_questions = int(num.sum())
    step = max(1, _CELLS // len(num))
    for start in range(0, NUM_RESAMPLES, step):
        yield rng.multinomial(num_questions, num / num_questions, size=min(step, NUM_RESAMPLES - start))


def interval(draws: Floats) -> tuple[float, float]:
    """Return the ends of the central 95% of the draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval_of_mean(parts: Sequence[Estimate], weights: Sequence[float]) -> tuple[float, float]:
    """Return the interval of a weighted mean of tasks, each resampled independently; a single task keeps its own.

    If a task has no bootstrap distribution, the half widths are combined as independent errors, by the root of the sum
    of their squares: MOVER, Zou and Donner 2008, Statistics in Medicine 27:1693.

    Args:
        parts: The tasks' estimates.
        weights: Their weights, which sum to 1.
    """
    if len(parts) == 1:
        return parts[0].low, parts[0].high
    drawn = [weight * part.draws for part, weight in zip(parts, weights, strict=True) if part.draws is not None]
    if len(drawn) == len(parts):
        return interval(np.sum(drawn, axis=0))
    means, lows, highs = np.array([(part.mean, part.low, part.high) for part in parts]).T
    mean = float(np.dot(weights, means))
    below, above = np.linalg.norm(weights * (means - lows)), np.linalg.norm(weights * (highs - means))
    return float(mean - below), float(mean + above)


def is_wide(row: Mapping[str, Any]) -> bool:
    """Return whether truncated, empty and failed rows may move a score by more than sampling error does.

    Args:
        row: `bound_low`, `bound_high`, `ci_low` and `ci_high` of a metric. Its bounds are wide when they are further
            apart than the ends of its 95% interval, or when they differ and it has no interval.
    """
    if row["bound_low"] is None:
        return False
    bounds_width = row["bound_high"] - row["bound_low"]
    interval_width = row["ci_high"] - row["ci_low"] if row["ci_low"] is not None else 0.0
    return bool(bounds_width > interval_width)
