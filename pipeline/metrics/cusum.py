"""A self-starting CUSUM for declines of a score over many runs: one score a run in, the state of the chart out.

    u = quantile of the standard normal at F(t),  t = sqrt((n - 1) / n) (x - mean) / sigma
    S = max(0, S - u - ALLOWANCE); S above the limit: the score has declined

where the mean and the standard deviation are those of the n - 1 runs before, and F is Student's t distribution with
n - 2 degrees of freedom. For independent normal scores u is standard normal from the third run on, and so no runs are
needed to set the chart up. Source: Hawkins 1987, Journal of the Royal Statistical Society D 36:299.

Three rules are added:

- sigma is the largest of the scores' own standard deviation over runs, of the one that the scores of the tasks imply if
  questions are independent (`parts`), and of a floor: a few runs that happen to be alike, or an engine that repeats
  itself, do not make a small step look large;
- u is at most `CLIP` in size, and a score that is further down does not enter mean and sigma: one bad run is the gate's
  to report, and neither raises the alarm by itself nor hides what follows;
- from the alarm on mean and sigma stay as they are, S is at most the limit, and the alarm lasts until S is back at 0.

Assumed: scores of an unchanged model are independent of each other, and normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALLOWANCE = 0.5
"""Half the step, in standard deviations, that the chart finds fastest."""

LIMIT = 7.0
"""Limit for the score over all domains, or for the only domain."""

DOMAIN_LIMIT = 9.0
"""Limit for each of several domains: together with the run at most 5% of years have a false alarm."""

CLIP = 4.0

NUM_REFERENCE = 2
"""Runs that only set mean and standard deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The state after a run: `mean` and `sigma` of the runs before (None: unknown yet), S and the alarm.

    `since` is the place of the first run of the present decline: the first since S was 0; None where S is 0.
    """

    mean: float | None
    sigma: float | None
    statistic: float
    since: int | None
    is_alarm: bool


def cusum(
    scores: Sequence[float], parts: Sequence[Sequence[float]] | None = None, floor: float = 0.0, limit: float = LIMIT
) -> list[Step]:
    """Return the state of the chart after each run.

    Args:
        scores: One score for each run, in the order of the runs.
        parts: For each run, scores of the tasks that the score is a mean of, each scaled so that its standard deviation
            is that of the score if questions are independent.
        floor: Standard deviation that a score has at least.
        limit: S above it is an alarm.
    """
    rows = np.column_stack([scores, scores if parts is None else np.asarray(parts)])
    steps: list[Step] = []
    num, mean, squares = 0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    statistic, since, is_alarm = 0.0, None, False
    for place, row in enumerate(rows):
        sigma, u = None, 0.0
        if num >= NUM_REFERENCE:
            variances = squares / (num - 1)
            sigma = max(floor, math.sqrt(max(variances[0], variances[1:].mean())))
            u = _normal(float(row[0] - mean[0]), sigma, num) if sigma else 0.0
            statistic = max(0.0, statistic - u - ALLOWANCE)
        is_alarm = statistic > limit or (is_alarm and statistic > 0)
        statistic = min(statistic, limit) if is_alarm else statistic
        since = None if statistic == 0 else place if since is None else since
        level = float(mean[0]) if num else None
        steps.append(Step(mean=level, sigma=sigma, statistic=statistic, since=since, is_alarm=is_alarm))
        if not is_alarm and u > -CLIP:
            num += 1
            change = row - mean
            mean = mean + change / num
            squares = squares + change * (row - mean)
    return steps


def _normal(change: float, sigma: float, num: int) -> float:
    """Return u for a score that differs by `change` from the mean of `num` others."""
    from scipy.special import ndtri, stdtr  # takes a tenth of a second to import

    distance = math.sqrt(num / (num + 1)) * change / sigma
    return math.copysign(min(-float(ndtri(stdtr(num - 1, -abs(distance)))), CLIP), distance)
