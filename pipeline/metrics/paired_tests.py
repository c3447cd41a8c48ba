"""Paired tests of two runs over the same questions: counts of questions in, p-values and intervals out.

Pairing removes the questions' difficulty from the comparison; two separate intervals do not, so runs with overlapping
intervals can differ significantly. NumPy and SciPy only; deterministic, like `pipeline/metrics/confidence.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from pipeline.metrics.confidence import MOST_OUTCOMES, NUM_RESAMPLES, Counts, Floats, Z, interval, resamples

ALPHA = 0.05
"""Significance level: the accepted share of false positives among comparisons of equal models."""
POWER = 0.8

MOST_SUMS = 300_000
"""Distinct sums of sign flips up to which their distribution is computed exactly."""

_NORMAL = NormalDist()


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's method, in the order given; compare each with alpha.

    The family-wise error rate then stays below alpha, whatever the number and dependence of the tests. Source: Holm
    1979, Scandinavian Journal of Statistics 6:65: the i-th smallest of m p-values is multiplied by m - i + 1, and the
    results are made monotone. SciPy implements false discovery rates only.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """The questions of one task, counted by their outcome in both runs; all arrays have the shape [outcomes].

    `*_totals` is the sum of the values of a question's repeats and `*_scored` their number, at least 1; `num` is the
    number of questions with this outcome. Questions scored in only one of the runs are excluded.
    """

    base_totals: Floats
    base_scored: Floats
    new_totals: Floats
    new_scored: Floats
    num: Counts

    @classmethod
    def of(cls, base: ArrayLike, new: ArrayLike) -> Pairs:
        """Count questions with one value each; `base` and `new` have the shape [questions], in the same order."""
        values = np.column_stack([np.asarray(base, float), np.asarray(new, float)])
        different, num = np.unique(values, axis=0, return_counts=True)
        ones = np.ones(len(different))
        return cls(base_totals=different[:, 0], base_scored=ones, new_totals=different[:, 1], new_scored=ones, num=num)

    @property
    def difference(self) -> float:
        """Mean over the new run's rows minus the mean over the base run's rows."""
        new, base = self.num @ self.new_totals, self.num @ self.base_totals
        return float(new / (self.num @ self.new_scored) - base / (self.num @ self.base_scored))

    @property
    def changes(self) -> Floats:
        """The change of the mean of a question's repeats; shape [outcomes]."""
        return np.asarray(self.new_totals / self.new_scored - self.base_totals / self.base_scored, float)

    @property
    def is_binary(self) -> bool:
        """Whether each question has one value in both runs, which is 0 or 1."""
        ones = np.all(self.base_scored == 1) and np.all(self.new_scored == 1)
        return bool(ones and np.all(np.isin(np.concatenate([self.base_totals, self.new_totals]), (0.0, 1.0))))

    @property
    def num_flipped(self) -> tuple[int, int]:
        """Numbers of questions whose mean has fallen and risen."""
        changes = self.changes
        return int(self.num[changes < -1e-12].sum()), int(self.num[changes > 1e-12].sum())

    @property
    def stderr(self) -> float | None:
        """Standard error of the difference, clustered by question; None for a single question or one change of all.

        Source: Miller 2024, arXiv:2411.00640, on paired differences: the spread of the per-question differences.
        """
        num = int(self.num.sum())
        if num < 2:
            return None
        spread = self._residuals(self.new_totals, self.new_scored) - self._residuals(self.base_totals, self.base_scored)
        squares = float(self.num @ spread**2) * num / (num - 1)
        return math.sqrt(squares) if squares > 1e-20 else None

    def _residuals(self, totals: Floats, scored: Floats) -> Floats:
        num_rows = self.num @ scored
        return np.asarray((totals - self.num @ totals / num_rows * scored) / num_rows, float)

    def resampled(self, rng: np.random.Generator) -> Floats:
        """Return the differences of `NUM_RESAMPLES` resamples of the questions."""
        stderr = self.stderr
        if stderr is not None and len(self.num) > MOST_OUTCOMES:  # see MOST_OUTCOMES
            return rng.normal(self.difference, stderr, NUM_RESAMPLES)
        return np.concatenate(
            [
                (drawn @ self.new_totals) / (drawn @ self.new_scored)
                - (drawn @ self.base_totals) / (drawn @ self.base_scored)
                for drawn in resamples(self.num, rng)
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A difference, new minus base, with its standard error, 95% interval and two-sided p-value."""

    difference: float
    stderr: float | None
    ci_low: float
    ci_high: float
    p_value: float


def sign_flips(values: Floats, num: Counts, observed: float) -> float:
    """Return the two-sided mid-p value of the sum of differences, when each of them is as likely with the other sign.

    Of the observed sum's own probability half is counted. For binary questions this is McNemar's test (McNemar 1947,
    Psychometrika 12:153); its mid-p value is closer to the level than the exact one (Fagerland, Lydersen and Laake
    2013, BMC Medical Research Methodology 13:91).

    The value is exact for few distinct sums, and else Lugannani and Rice's saddlepoint approximation, whose relative
    error stays small far in the tails, where a Monte Carlo test has no resolution. Sources: Fisher 1935, The Design of
    Experiments, section 21; Lugannani and Rice 1980, Advances in Applied Probability 12:475.

    Args:
        values: Distinct absolute differences above 0.
        num: Questions with each of them; same shape.
        observed: The sum of the questions' differences.
    """
    total = float(values @ num)
    if not total or abs(observed) < 1e-9 * total:
        return 1.0
    if float(np.log1p(num).sum()) <= math.log(MOST_SUMS):
        return _exact_sign_flips(values, num, abs(observed), total)
    return _saddlepoint(values, num, min(abs(observed), total))


def _exact_sign_flips(values: Floats, num: Counts, observed: float, total: float) -> float:
    from scipy.stats import binom

    sums, probabilities = np.zeros(1), np.ones(1)
    for value, count in zip(values, num, strict=True):
        positive = np.arange(count + 1)
        sums = np.add.outer(sums, value * (2.0 * positive - count)).ravel()
        probabilities = np.multiply.outer(probabilities, binom.pmf(positive, count, 0.5)).ravel()
    sums = np.abs(sums)
    is_equal = np.abs(sums - observed) <= 1e-9 * total
    return min(1.0, float(probabilities[(sums > observed) & ~is_equal].sum() + probabilities[is_equal].sum() / 2))


def _saddlepoint(values: Floats, num: Counts, observed: float) -> float:
    from scipy.optimize import brentq

    largest = float(values @ num)
    if observed > largest * (1 - 1e-9):  # all differences have one sign: half of the two points' probability
        return float(0.5 ** num.sum())

    def slope(at: float) -> float:
        return float(num @ (values * np.tanh(values * at)))

    high = 1.0 / float(values.max())
    while slope(high) < observed:
        high *= 2
    at = float(brentq(lambda point: slope(point) - observed, 0.0, high, xtol=1e-14, rtol=1e-12))
    scaled = values * at
    log_cosh = np.logaddexp(scaled, -scaled) - math.log(2)
    signed = math.sqrt(2 * (at * observed - float(num @ log_cosh)))
    curved = at * math.sqrt(float(num @ (values / np.cosh(np.minimum(scaled, 300.0))) ** 2))
    if signed < 1e-6:
        return 1.0
    density = math.exp(-(signed**2) / 2) / math.sqrt(2 * math.pi)
    return min(1.0, max(0.0, 2 * (_NORMAL.cdf(-signed) + density * (1 / curved - 1 / signed))))


def tango(num_lost: int, num_gained: int, num_questions: int) -> tuple[float, float]:
    """Return the 95% score interval of the change of a share over paired binary questions.

    Source: Tango 1998, Statistics in Medicine 17:891: the differences that a score test does not reject, with the
    constrained estimate in closed form. It has a width where no question has flipped.

    Args:
        num_lost: Questions that are right in the base run only.
        num_gained: Questions that are right in the new run only.
        num_questions: All questions, at least 1.
    """
    from scipy.optimize import brentq

    difference = (num_gained - num_lost) / num_questions

    def distance(delta: float) -> float:
        """Return the squared score statistic minus that of the level."""
        middle = -num_gained - num_lost + (2 * num_questions - num_gained + num_lost) * delta
        root = math.sqrt(max(0.0, middle**2 + 8 * num_questions * num_lost * delta * (1 - delta)))
        share_lost = max(0.0, (root - middle) / (4 * num_questions))
        variance = max(0.0, num_questions * (2 * share_lost + delta * (1 - delta)))
        score = num_gained - num_lost - num_questions * delta
        return score**2 / variance - Z**2 if variance > 1e-12 else (math.inf if abs(score) > 1e-9 else -(Z**2))

    def end(at: float) -> float:
        outside = at * (1 - 1e-12)
        return at if distance(outside) <= 0 else float(brentq(distance, difference, outside, xtol=1e-10))

    return end(-1.0), end(1.0)


def paired_bootstrap(
    tasks: Sequence[Pairs], rng: np.random.Generator, weights: Sequence[float] | None = None
) -> Change:
    """Return how a score has changed, by resampling the questions of each task, each with both runs' responses.

    The interval has the percentiles of the resamples (Efron and Tibshirani 1993, An Introduction to the Bootstrap,
    chapter 13). A single task of binary questions has Tango's interval; where a task's resamples are all equal, because
    no question or every question has changed, so has each task, and they are combined by MOVER, as in
    `pipeline.metrics.confidence.interval_of_mean`. The p-value is that of `sign_flips`: the questions' differences,
    weighted as in the score, are independent and symmetric around 0 for equal models. For different numbers of repeats
    they have mean 0 and are not symmetric, so the p-value is then approximate.

    Args:
        tasks: One entry for a task's score; several for a domain or run.
        rng: See `pipeline.metrics.confidence.generator`.
        weights: Weights of the tasks, which sum to 1; equal by default.
    """
    shares = np.full(len(tasks), 1 / len(tasks)) if weights is None else np.asarray(weights, float)
    difference = float(sum(share * task.difference for share, task in zip(shares, tasks, strict=True)))
    errors = [share * error for share, task in zip(shares, tasks, strict=True) if (error := task.stderr)]
    low, high = _interval(tasks, shares, difference, rng)
    return Change(
        difference=difference,
        stderr=float(np.linalg.norm(errors)) if len(errors) == len(tasks) else None,
        ci_low=low,
        ci_high=high,
        p_value=_sign_flips_of(tasks, shares),
    )


def _interval(
    tasks: Sequence[Pairs], shares: Floats, difference: float, rng: np.random.Generator
) -> tuple[float, float]:
    if len(tasks) == 1 and tasks[0].is_binary:
        return tango(*tasks[0].num_flipped, int(tasks[0].num.sum()))
    if all(task.stderr for task in tasks):
        return interval(
            np.sum([share * task.resampled(rng) for share, task in zip(shares, tasks, strict=True)], axis=0)
        )
    ends = np.array([_wide_interval(task) for task in tasks])
    below, above = (np.linalg.norm(shares * (end - [task.difference for task in tasks])) for end in ends.T)
    return difference - float(below), difference + float(above)


def _wide_interval(task: Pairs) -> tuple[float, float]:
    """Return Tango's interval, widened to the difference: a changed question counts as a whole one.

    A metric that is not from 0 to 1, such as a length, has no such interval: both ends are the difference.
    """
    if max(float(np.max(task.base_totals / task.base_scored)), float(np.max(task.new_totals / task.new_scored))) > 1:
        return task.difference, task.difference
    low, high = tango(*task.num_flipped, int(task.num.sum()))
    return min(low, task.difference), max(high, task.difference)


def _sign_flips_of(tasks: Sequence[Pairs], shares: Floats) -> float:
    weighted = [share / task.num.sum() * task.changes for share, task in zip(shares, tasks, strict=True)]
    changes, num = np.concatenate(weighted), np.concatenate([task.num for task in tasks])
    size = np.abs(changes)
    digits = np.round(size / max(float(size.max()), 1e-300), 9)  # equal but for rounding
    values, place = np.unique(digits, return_inverse=True)
    counts = np.bincount(place, weights=num).astype(np.int64)
    return sign_flips(values[values > 0], counts[values > 0], float(changes @ num) / max(float(size.max()), 1e-300))


def detectable(
    variance: float, share: float, *, num_tests: int = 1, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the smallest true change that is significant with this power after adjustment for the number of tests.

    It solves d = (z(1 - alpha / 2m) + z(power)) sqrt(v + (d - d^2) c). For one task of n binary questions of which a
    share s flips between equal models, v = s / n and c = 1 / n: a true change adds its own flips, so d is above 0 also
    where no question has flipped. Sources: Connor 1987, Biometrics 43:207; Miller 2024, arXiv:2411.00640, on power.

    Args:
        variance: v, the variance of the score's change between equal models: the squared weights of the tasks, each
            times the mean squared change of a question and divided by the task's number of questions.
        share: c, the sum of the squared weights divided by the numbers of questions.
        num_tests: m, the tests that are adjusted together, by Bonferroni, which is at most Holm's first step.
        alpha: Significance level of the two-sided tests.
        power: Probability that the test detects a true change of this size.
    """
    from scipy.optimize import brentq

    distance = _NORMAL.inv_cdf(1 - alpha / 2 / num_tests) + _NORMAL.inv_cdf(power)

    def excess(change: float) -> float:
        return change - distance * math.sqrt(variance + max(0.0, change - change**2) * share)

    return float(brentq(excess, 1e-9, 1.0)) if excess(1.0) > 0 else 1.0
