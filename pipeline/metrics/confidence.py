"""How sure a score is, given that its questions are a sample: counts in, intervals out; NumPy only.

The unit is the question: the repeats of one are no new questions, so they stay together whenever questions are drawn
(Miller 2024, Adding Error Bars to Evals, arXiv:2411.00640). A score of one task is a ratio, the sum of its
rows' values by their number. All of it is deterministic: equal samples have equal intervals.

A bootstrap needs no list of questions here. Which questions are drawn matters only through what they scored, and
drawing n questions with replacement draws from the multinomial distribution over the different outcomes: a task of a
million questions with 20 different F1 costs as much as one of a hundred.
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
"""Share of such intervals that hold the true value."""
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

NUM_RESAMPLES = 5_000
"""Resamples of a bootstrap; an end of the interval then moves by 2% of its half width from one seed to another."""

MOST_OUTCOMES = 2_000
"""Different outcomes up to which a task is resampled, half a second each; one with more has still more questions.

The distribution of a mean over so many is normal to within 1/sqrt(n) (Berry and Esseen), so it is drawn as that.
"""

_CELLS = 1_000_000
"""Counts held at a time, 8 MB."""


def generator(*names: str | None) -> np.random.Generator:
    """Return the random numbers of what the names name: the same each time, and others for each."""
    return np.random.default_rng(crc32("\0".join(str(name) for name in names).encode()))


def wilson(mean: ArrayLike, num: ArrayLike) -> tuple[Floats, Floats]:
    """Return the ends of Wilson's score interval for shares of `num` yes-or-no questions.

    Source: Wilson 1927, JASA 22:209, without continuity correction. SciPy's, which takes one whole number of successes
    at a time, agrees. It also covers means of values from 0 to 1, widely, for none of these vary more than yes and no.

    Args:
        mean: Shares, from 0 to 1.
        num: Numbers of questions, at least 1; of the shape of `mean`.
    """
    p, n = np.clip(np.asarray(mean, float), 0, 1), np.asarray(num, float)
    scale = 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z / scale * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return np.minimum(p, np.maximum(0, centre - half)), np.maximum(p, np.minimum(1, centre + half))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """A mean from 0 to 1 with its interval, and `draws`, its bootstrap distribution; None when it has no spread."""

    mean: float
    low: float
    high: float
    draws: Floats | None


def bootstrap(totals: Floats, scored: Floats, num: Counts, rng: np.random.Generator) -> Estimate:
    """Return the mean of a task's rows with its percentile interval over resamples of the questions.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. A task of a few dozen questions has
    a somewhat narrow one. Where all questions scored the same, or there is but one, resamples are all equal, and
    Wilson's interval stands in.

    Args:
        totals: Sum of the values of a question's repeats, for each different outcome.
        scored: Number of these repeats, at least 1.
        num: Questions with this outcome, at least 1.
        rng: See `generator`.
    """
    mean = float(num @ totals / (num @ scored))
    if np.ptp(totals / scored) < 1e-12:
        ends = wilson(mean, num.sum())
        return Estimate(mean=mean, low=float(ends[0]), high=float(ends[1]), draws=None)
    draws = np.concatenate([(drawn @ totals) / (drawn @ scored) for drawn in resamples(num, rng)])
    low, high = interval(draws)
    return Estimate(mean=mean, low=low, high=high, draws=draws)


def normal(mean: float, stderr: float, rng: np.random.Generator) -> Estimate:
    """Return what `bootstrap` would, of a task that has too many different outcomes for it."""
    draws = rng.normal(mean, stderr, NUM_RESAMPLES)
    return Estimate(mean=mean, low=max(0.0, mean - Z * stderr), high=min(1.0, mean + Z * stderr), draws=draws)


def resamples(num: Counts, rng: np.random.Generator) -> Iterator[Counts]:
    """Give how often each outcome is drawn in `NUM_RESAMPLES` resamples: arrays of [resamples, outcomes].

    Args:
        num: Questions with each outcome.
        rng: See `generator`.
    """
    num_questions = int(num.sum())
    step = max(1, _CELLS // len(num))
    for start in range(0, NUM_RESAMPLES, step):
        yield rng.multinomial(num_questions, num / num_questions, size=min(step, NUM_RESAMPLES - start))


def interval(draws: Floats) -> tuple[float, float]:
    """Return the ends between which the middle 95% of the draws lie."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def interval_of_mean(parts: Sequence[Estimate], weights: Sequence[float]) -> tuple[float, float]:
    """Return the interval of a weighted mean of tasks, each resampled by itself; one task keeps its own.

    Where a task has no spread its interval cannot come from resamples. The half widths are then added as independent
    errors are: MOVER, Zou and Donner 2008, Statistics in Medicine 27:1693.

    Args:
        parts: The tasks' estimates.
        weights: Their weights, of which the sum is 1.
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
    """Return whether the rows that were cut, empty or failed may move a score by more than chance does.

    Args:
        row: `bound_low`, `bound_high`, `ci_low` and `ci_high` of a metric. Its bounds are wide when they are further
            apart than the ends of its 95% interval, or when it has bounds that differ and no interval.
    """
    if row["bound_low"] is None:
        return False
    doubt = row["bound_high"] - row["bound_low"]
    chance = row["ci_high"] - row["ci_low"] if row["ci_low"] is not None else 0.0
    return bool(doubt > chance)
