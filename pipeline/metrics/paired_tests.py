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
from numpy.typing import ArrayLike, NDArray

from pipeline.metrics.confidence import MOST_OUTCOMES, NUM_RESAMPLES, Counts, Floats, interval, resamples

ALPHA = 0.05
"""Significance level: the accepted share of false positives among comparisons of equal models."""
POWER = 0.8

_NORMAL = NormalDist()


def mcnemar(num_lost: int, num_gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, 1.0 when no question has flipped.

    Under the null hypothesis a flipped question is lost or gained with equal probability. Source: McNemar 1947,
    Psychometrika 12:153, with the binomial distribution instead of chi-squared.

    Args:
        num_lost: Questions that are right in the base run and wrong in the new run.
        num_gained: Questions that are wrong in the base run and right in the new run.
    """
    if num_lost + num_gained == 0:
        return 1.0
    from scipy.stats import binomtest  # takes most of a second to import

    return float(binomtest(num_lost, num_lost + num_gained).pvalue)


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
    def has_changed(self) -> NDArray[np.bool_]:
        """Whether the mean of a question's repeats differs between the runs; shape [outcomes]."""
        return np.abs(self.new_totals / self.new_scored - self.base_totals / self.base_scored) > 1e-12

    @property
    def stderr(self) -> float | None:
        """Standard error of the difference, clustered by question; None for a single question.

        Source: Miller 2024, arXiv:2411.00640, on paired differences: the spread of the per-question differences.
        """
        num = int(self.num.sum())
        if num < 2:
            return None
        spread = self._residuals(self.new_totals, self.new_scored) - self._residuals(self.base_totals, self.base_scored)
        return math.sqrt(float(self.num @ spread**2) * num / (num - 1))

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


def paired_bootstrap(
    tasks: Sequence[Pairs], rng: np.random.Generator, weights: Sequence[float] | None = None
) -> Change:
    """Return how a score has changed, by resampling the questions of each task, each with both runs' responses.

    The p-value is the share of resamples at least as far from the difference as the difference is from 0, with the
    observed difference counted as one more resample. Sources: Efron and Tibshirani 1993, An Introduction to the
    Bootstrap, section 16.4; the added one, Davison and Hinkley 1997, section 4.2. Where no resample is that far, it
    only shows that p is below 1 in `NUM_RESAMPLES`; Holm's adjustment and a small alpha need smaller values, which come
    from `_t_test`. The p-value is never below that of the sign test, `_sign_test`.

    Args:
        tasks: One entry for a task's score; several for a domain or run.
        rng: See `pipeline.metrics.confidence.generator`.
        weights: Weights of the tasks, which sum to 1; equal by default.
    """
    shares = np.full(len(tasks), 1 / len(tasks)) if weights is None else np.asarray(weights, float)
    difference = float(sum(share * task.difference for share, task in zip(shares, tasks, strict=True)))
    draws = np.sum([share * task.resampled(rng) for share, task in zip(shares, tasks, strict=True)], axis=0)
    errors = [task.stderr for task in tasks]
    known = [share * error for share, error in zip(shares, errors, strict=True) if error is not None]
    low, high = interval(draws)
    num_beyond = np.count_nonzero(np.abs(draws - difference) >= abs(difference) - 1e-12)
    p_value = float(1 + num_beyond) / (NUM_RESAMPLES + 1)
    stderr = float(np.linalg.norm(known)) if len(known) == len(errors) else None
    if difference and float(np.ptp(draws)) < 1e-12:  # all questions changed alike, so all resamples are equal
        p_value = _sign_test(tasks)
    elif num_beyond == 0 and stderr:
        p_value = min(p_value, _t_test(tasks, known, difference, stderr))
    p_value = max(p_value, _sign_test(tasks))
    return Change(
        difference=difference,
        stderr=stderr,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
    )


def _t_test(tasks: Sequence[Pairs], errors: Sequence[float], difference: float, stderr: float) -> float:
    """Return the p-value, by Student's t, of a difference beyond the reach of the resamples.

    Source: the t-test of paired differences; for several tasks, degrees of freedom by Satterthwaite 1946, Biometrics
    Bulletin 2:110.

    Args:
        tasks: The tasks' questions.
        errors: Each task's contribution to the standard error, which is the root of the sum of their squares.
        difference: The change of the score.
        stderr: Its standard error, above 0.
    """
    from scipy.stats import t

    variances = np.square(errors)
    freedom = variances.sum() ** 2 / sum(variances**2 / [float(task.num.sum()) - 1 for task in tasks])
    return float(2 * t.sf(abs(difference) / stderr, freedom))


def _sign_test(tasks: Sequence[Pairs]) -> float:
    """Return the smallest two-sided p-value of a sign test: all changed questions fell, or all rose."""
    num_changed = sum(int(task.num[task.has_changed].sum()) for task in tasks)
    return min(1.0, 2 * 0.5**num_changed)


def detectable(stderr: float | None, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest true difference that a paired test detects with this power; None when `stderr` is 0 or None.

    Source: Miller 2024, arXiv:2411.00640, on power analysis.

    Args:
        stderr: Standard error of the difference. It is 0 when no question has flipped, and then gives no estimate of
            the variance between runs.
        alpha: Significance level of the two-sided test.
        power: Probability that the test detects a true difference of this size.
    """
    return (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)) * stderr if stderr else None


def power_of_mcnemar(base: float, new: float, correlation: float, num_questions: int, alpha: float = ALPHA) -> float:
    """Return the power of McNemar's test: the probability that it detects the difference of two proportions.

    Source: Connor 1987, Biometrics 43:207, solved for the power: with d = new - base and s the share of questions that
    flip, (|d| sqrt(n) - z sqrt(s)) / sqrt(s - d^2) is the standard normal quantile of the power.

    Args:
        base: Share of questions that the base model answers correctly, above 0 and below 1.
        new: Share of questions that the new model answers correctly, above 0 and below 1.
        correlation: Correlation between the models of answering a question correctly, from -1 to 1.
        num_questions: Number of questions.
        alpha: Significance level of the two-sided test.

    Raises:
        ValueError: No two binary variables with these proportions have this correlation.
    """
    both = base * new + correlation * math.sqrt(base * (1 - base) * new * (1 - new))
    if not max(0, base + new - 1) <= both <= min(base, new) + 1e-12:
        raise ValueError(f"shares of {base} and {new} cannot have a correlation of {correlation}")
    difference, flipped = abs(new - base), base + new - 2 * both
    spread = math.sqrt(max(flipped - difference**2, 0))
    distance = difference * math.sqrt(num_questions) - _NORMAL.inv_cdf(1 - alpha / 2) * math.sqrt(flipped)
    return _NORMAL.cdf(distance / spread) if spread else float(distance > 0)
