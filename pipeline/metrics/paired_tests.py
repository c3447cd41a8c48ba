"""Whether two runs over the same questions differ: counts of questions in, p-values and intervals out.

Pairing takes the questions' difficulty out of the comparison, which two intervals side by side do not: runs whose
intervals overlap can differ for sure. NumPy and SciPy only; deterministic, as `pipeline/metrics/confidence.py` is.
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
"""Share of the comparisons of equal models that may be called different."""
POWER = 0.8

_NORMAL = NormalDist()


def mcnemar(num_lost: int, num_gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test, 1.0 when no question has flipped.

    Given that a question has flipped, equal models lose and gain it with the same probability. Source: McNemar 1947,
    Psychometrika 12:153, with the binomial distribution in the place of chi-squared.

    Args:
        num_lost: Questions that are right in the base run and wrong in the new one.
        num_gained: The other way round.
    """
    if num_lost + num_gained == 0:
        return 1.0
    from scipy.stats import binomtest  # takes most of a second to import

    return float(binomtest(num_lost, num_lost + num_gained).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that may each be compared with alpha, whatever their number and dependence.

    The chance that any comparison of equal models is called different then stays below alpha. Source: Holm 1979,
    Scandinavian Journal of Statistics 6:65: the i-th smallest of m times m - i + 1, and never below a smaller one's.
    SciPy has false discovery rates only.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """The questions of one task, counted by what they scored in both runs; all arrays have the shape [outcomes].

    `*_totals` is the sum of the values of a question's repeats and `*_scored` their number, at least 1; `num` is the
    questions with this outcome. A question that only one of the runs has scored has no place here.
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
        """Mean of the new run's rows minus that of the base's."""
        new, base = self.num @ self.new_totals, self.num @ self.base_totals
        return float(new / (self.num @ self.new_scored) - base / (self.num @ self.base_scored))

    @property
    def has_changed(self) -> NDArray[np.bool_]:
        """Whether the mean of a question's repeats is another in the new run; of the shape [outcomes]."""
        return np.abs(self.new_totals / self.new_scored - self.base_totals / self.base_scored) > 1e-12

    @property
    def stderr(self) -> float | None:
        """Standard error of the difference, clustered by question; None for a single question.

        Source: Miller 2024, arXiv:2411.00640, on paired differences: the spread of the questions' own differences.
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
    """Return how a score has changed, by resampling the questions of each task, with both runs' answers together.

    The p-value is the share of resamples whose distance from the difference is at least its distance from 0, itself
    counted. Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 16.4; one added as Davison and
    Hinkley 1997, section 4.2. Where no resample is so far, all that it says is "below 1 in `NUM_RESAMPLES`", and a
    family of Holm's or a small alpha asks for more: see `_beyond_resamples`. It is never below what the signs of so
    many changed questions can say, however alike they changed.

    Args:
        tasks: One for a task's score; those of a domain or run.
        rng: See `pipeline.metrics.confidence.generator`.
        weights: Of the tasks, with the sum 1; by default all the same.
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
    if difference and float(np.ptp(draws)) < 1e-12:  # all questions changed alike: resamples know no chance, signs do
        p_value = _of_signs(tasks)
    elif num_beyond == 0 and stderr:
        p_value = min(p_value, _beyond_resamples(tasks, known, difference, stderr))
    p_value = max(p_value, _of_signs(tasks))
    return Change(
        difference=difference,
        stderr=stderr,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
    )


def _beyond_resamples(tasks: Sequence[Pairs], errors: Sequence[float], difference: float, stderr: float) -> float:
    """Return the p-value of a difference that no resample is far enough for, by Student's t.

    Source: the t-test of paired differences, its degrees of freedom for several tasks as Satterthwaite 1946, Biometrics
    Bulletin 2:110, has them.

    Args:
        tasks: The tasks' questions.
        errors: What each task adds to the standard error, the root of the sum of their squares.
        difference: The change of the score.
        stderr: Its standard error, above 0.
    """
    from scipy.stats import t

    variances = np.square(errors)
    freedom = variances.sum() ** 2 / sum(variances**2 / [float(task.num.sum()) - 1 for task in tasks])
    return float(2 * t.sf(abs(difference) / stderr, freedom))


def _of_signs(tasks: Sequence[Pairs]) -> float:
    """Return the smallest p-value that the signs of the changed questions allow: all of them fell, or all rose."""
    num_changed = sum(int(task.num[task.has_changed].sum()) for task in tasks)
    return min(1.0, 2 * 0.5**num_changed)


def detectable(stderr: float | None, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest true difference that a paired test finds with this power.

    Source: Miller 2024, arXiv:2411.00640, on power analysis.

    Args:
        stderr: Standard error of the difference. It is 0 when no question has flipped, which tells nothing about how
            often other runs would: the answer is then None.
        alpha: Share of equal models that the two-sided test calls different.
        power: Share of models with this difference that it calls different.
    """
    return (_NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)) * stderr if stderr else None


def power_of_mcnemar(base: float, new: float, correlation: float, num_questions: int, alpha: float = ALPHA) -> float:
    """Return the probability that McNemar's test finds the difference of two shares.

    Source: Connor 1987, Biometrics 43:207, solved for the power: with d = new - base and s the share of questions that
    flip, (|d| sqrt(n) - z sqrt(s)) / sqrt(s - d^2) is the standard normal quantile of the power.

    Args:
        base: Share of questions that the base model gets right, above 0 and below 1.
        new: The new model's.
        correlation: Of being right on the same question, from -1 to 1.
        num_questions: Questions that both are asked.
        alpha: Share of equal models that the two-sided test calls different.

    Raises:
        ValueError: Shares so different cannot be so much correlated.
    """
    both = base * new + correlation * math.sqrt(base * (1 - base) * new * (1 - new))
    if not max(0, base + new - 1) <= both <= min(base, new) + 1e-12:
        raise ValueError(f"shares of {base} and {new} cannot have a correlation of {correlation}")
    difference, flipped = abs(new - base), base + new - 2 * both
    spread = math.sqrt(max(flipped - difference**2, 0))
    distance = difference * math.sqrt(num_questions) - _NORMAL.inv_cdf(1 - alpha / 2) * math.sqrt(flipped)
    return _NORMAL.cdf(distance / spread) if spread else float(distance > 0)
