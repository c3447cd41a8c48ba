"""The CUSUM finds a decline over many runs, once, and neither one bad run nor a quiet engine raises its alarm."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.cusum import LIMIT, cusum

SIGMA = 0.006


def scores(num: int, seed: int = 1, level: float = 0.7) -> list[float]:
    drawn: list[float] = np.random.default_rng(seed).normal(level, SIGMA, num).tolist()
    return drawn


def alarms(values: list[float]) -> list[int]:
    return [place for place, step in enumerate(cusum(values)) if step.is_alarm]


def test_two_runs_only_set_the_reference() -> None:
    first, second, third = cusum([0.7, 0.71, 0.705])
    assert (first.mean, first.sigma, first.statistic) == (None, None, 0.0)
    assert (second.sigma, third.mean, third.sigma) == (None, pytest.approx(0.705), pytest.approx(0.01 / 2**0.5))


def test_an_unchanged_score_raises_few_alarms() -> None:
    assert sum(bool(alarms(scores(200, seed))) for seed in range(40)) <= 4


def test_a_step_down_raises_the_alarm_within_days_and_dates_its_beginning() -> None:
    found = []
    for seed in range(20):
        values = scores(60, seed) + scores(15, 100 + seed, level=0.7 - 2.5 * SIGMA)
        late = [place for place in alarms(values) if place >= 60]
        assert late
        found.append((late[0], cusum(values)[late[0]].since))
    assert np.median([place for place, _ in found]) <= 65
    assert np.median([since for _, since in found]) == pytest.approx(60, abs=3)


def test_a_slow_decline_raises_the_alarm_although_no_run_differs_much_from_the_one_before() -> None:
    values = [score - 0.0005 * max(0, place - 60) for place, score in enumerate(scores(120))]
    assert alarms(values)


def test_a_rise_raises_no_alarm() -> None:
    assert alarms(scores(40) + scores(40, 2, level=0.75)) == []


def test_one_bad_run_raises_no_alarm_and_does_not_hide_a_later_step() -> None:
    values = scores(50)
    values[30] -= 0.2
    assert alarms(values) == []
    assert cusum(values)[-1].sigma == pytest.approx(SIGMA, rel=0.25)


def test_the_alarm_lasts_while_the_score_is_down_and_ends_after_it_is_back() -> None:
    values = scores(40) + scores(60, 2, level=0.7 - 3 * SIGMA) + scores(60, 3)
    steps = cusum(values)
    raised = next(place for place, step in enumerate(steps) if step.is_alarm)
    assert all(step.is_alarm for step in steps[raised:100])
    assert all(step.mean == steps[raised].mean for step in steps[raised:100])
    assert max(step.statistic for step in steps) == LIMIT
    assert not steps[-1].is_alarm
    ended = next(place for place in range(100, 160) if not steps[place].is_alarm)
    assert 110 <= ended <= 130


def test_scores_that_never_varied_do_not_make_one_changed_answer_a_decline() -> None:
    values = [0.7] * 20 + [0.699] * 10
    assert cusum(values, floor=0.001)[-1].is_alarm is False
    assert cusum([0.7] * 30)[-1].statistic == 0.0


def test_the_tasks_widen_a_standard_deviation_that_a_few_runs_show_too_small() -> None:
    narrow = cusum([0.7, 0.7001, 0.69])
    wide = cusum([0.7, 0.7001, 0.69], parts=[[0.7, 0.72], [0.71, 0.7], [0.69, 0.69]])
    assert (wide[2].sigma or 0) > (narrow[2].sigma or 0)
    assert wide[2].sigma == pytest.approx(((0.01**2 / 2 + 0.02**2 / 2) / 2) ** 0.5)
