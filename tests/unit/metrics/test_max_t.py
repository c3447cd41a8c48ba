"""The tests of drops keep their level, exactly where that can be enumerated, and adjust for each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import comb

import numpy as np
import pytest

from pipeline.metrics import max_t
from pipeline.metrics.max_t import DropTest, TaskChanges, adjusted, changes, num_draws

SIZE = 20_000


def task_of(values: Sequence[Sequence[float]], num_metrics: int = 1) -> TaskChanges:
    """Return a task of questions with these scores by run, the new run first; all metrics are alike."""
    made = TaskChanges(num_metrics=num_metrics)
    made.add(np.repeat(np.array(values, float)[:, :, None], num_metrics, axis=2))
    return made


def p_of(tasks: Sequence[TaskChanges], tests: Sequence[DropTest], size: int = SIZE) -> list[float]:
    return adjusted(tasks, tests, [np.random.default_rng(number) for number in range(len(tasks))], size)


ONE = DropTest(metric=0, weights={0: 1.0})


@pytest.mark.parametrize(("num_lost", "num_gained"), [(6, 0), (9, 3), (4, 4), (2, 7)])
def test_with_one_baseline_run_the_test_is_mcnemars(num_lost: int, num_gained: int) -> None:
    task = task_of([(0, 1)] * num_lost + [(1, 0)] * num_gained + [(1, 1)] * 20)
    num = num_lost + num_gained
    exact = sum(comb(num, k) for k in range(num_lost, num + 1)) / 2**num
    assert p_of([task], [ONE])[0] == pytest.approx(exact, abs=0.012)


def test_the_p_value_is_the_share_of_relabelled_runs_with_such_a_drop() -> None:
    values = [(0, 1, 1, 1), (0, 1, 0, 1), (1, 1, 0, 1), (0, 0.5, 1, 1), (0, 1, 1, np.nan)]
    found, num = changes(np.array(values)[:, :, None])
    sums = [sum(float(found[k, run, 0]) for k, run in enumerate(runs)) for runs in product(*map(range, num))]
    of_runs = np.mean(np.array(sums) <= sums[0] + 1e-9)
    signs = [found[:, 0, 0] @ np.array(each) for each in product((1, -1), repeat=len(values))]
    of_signs = np.mean(np.array(signs) <= sums[0] + 1e-9)
    assert p_of([task_of(values)], [ONE])[0] == pytest.approx(max(of_runs, of_signs), abs=0.012)


def test_a_change_counts_in_units_of_its_questions_variance() -> None:
    found, num = changes(np.array([(0.0, 1, 1, 1), (0, 1, 0, 1), (0.5, 0.5, 0.5, 0.5)])[:, :, None])
    assert found[0, 0, 0] == pytest.approx(-1 / (0.75 * 0.25))
    assert found[1, 0, 0] == pytest.approx(-(2 / 3) / 0.25)
    assert not found[2].any()
    assert found.sum(axis=1) == pytest.approx(np.zeros((3, 1)))
    assert num.tolist() == [4, 4, 4]


def test_a_run_without_a_score_of_a_question_is_left_out_of_it() -> None:
    with_gap, num = changes(np.array([(0.0, np.nan, 1, 1)])[:, :, None])
    without, _ = changes(np.array([(0.0, 1, 1)])[:, :, None])
    assert num.tolist() == [3]
    assert with_gap[0, :3, 0] == pytest.approx(without[0, :, 0])
    assert with_gap[0, 3, 0] == 0


def test_questions_on_which_all_runs_agree_change_nothing() -> None:
    differing = [(0, 1, 1)] * 5 + [(1, 0, 1)] * 3
    agreeing = [(1, 1, 1)] * 50 + [(0, 0, 0)] * 50
    assert p_of([task_of(differing)], [ONE]) == pytest.approx(p_of([task_of(differing + agreeing)], [ONE]), abs=0.01)
    assert p_of([task_of(agreeing)], [ONE]) == [1.0]


def test_equal_tests_cost_nothing_and_different_ones_do() -> None:
    down, even = [(0, 1)] * 9 + [(1, 0)], [(0, 1)] * 5 + [(1, 0)] * 5
    alone = p_of([task_of(down)], [ONE])[0]
    twice = p_of([task_of(down, 2)], [ONE, DropTest(metric=1, weights={0: 1.0})])
    assert twice == pytest.approx([alone, alone], abs=0.005)
    first, second = p_of([task_of(down), task_of(even)], [ONE, DropTest(metric=0, weights={1: 1.0})])
    assert alone * 1.5 < first < second


def test_adjusted_p_values_are_at_least_those_of_the_tests_alone_and_in_the_order_of_the_statistics() -> None:
    tasks = [task_of([(0, 1)] * lost + [(1, 0)] * 4) for lost in (12, 9, 6)]
    tests = [DropTest(metric=0, weights={place: 1.0}) for place in range(3)]
    together = p_of(tasks, tests)
    alone = [p_of([task], [ONE])[0] for task in tasks]
    assert together == sorted(together)
    assert all(p >= single - 0.005 for p, single in zip(together, alone, strict=True))
    assert together[-1] == pytest.approx(alone[-1], abs=0.03)  # step-down: the last is compared with itself


def test_a_mean_over_tasks_finds_what_no_task_shows_alone() -> None:
    tasks = [task_of([(0, 1)] * 12 + [(1, 0)] * 5) for _ in range(4)]
    tests = [DropTest(metric=0, weights={place: 1.0}) for place in range(4)]
    tests.append(DropTest(metric=0, weights=dict.fromkeys(range(4), 0.25)))
    *single, mean = p_of(tasks, tests)
    assert mean < 0.01 < min(single)


@pytest.mark.parametrize("share_right", [0.95, 0.05])
def test_the_level_holds_for_skewed_questions_and_for_an_engine_that_repeats_itself(share_right: float) -> None:
    rng, size, num_false = np.random.default_rng(3), 400, {"independent": 0, "repeated": 0}
    p = np.clip(rng.normal(share_right, 0.03, 60), 0.01, 0.99)
    for _ in range(size):
        new, base = rng.random(60) < p, rng.random((60, 7)) < p[:, None]
        for name, runs in (("independent", base), ("repeated", np.repeat(base[:, :1], 7, axis=1))):
            task = task_of(np.column_stack([new, runs]))
            num_false[name] += adjusted([task], [ONE], [rng], 500)[0] < 0.05
    assert all(num / size <= 0.08 for num in num_false.values())


def test_many_questions_are_drawn_from_the_normal_distribution_of_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).random((60, 4)) < 0.7
    exact = {null: task_of(values, 2).drawn(null, np.random.default_rng(1), SIZE) for null in max_t.NULLS}
    monkeypatch.setattr(max_t, "MOST_OUTCOMES", 50)
    for null, draws in exact.items():
        normal = task_of(values, 2).drawn(null, np.random.default_rng(2), SIZE)
        assert normal.std(axis=0) == pytest.approx(draws.std(axis=0), rel=0.03)
        assert np.corrcoef(normal.T)[0, 1] == pytest.approx(1)


def test_a_smaller_level_gets_more_draws() -> None:
    assert [num_draws(alpha) for alpha in (0.05, 0.005, 0.001, 1e-9)] == [10_000, 10_000, 50_000, 200_000]
