"""Paired tests agree with published values and have their nominal error rate and power."""

from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test, ttest_ind, ttest_rel

from pipeline.metrics import paired_tests
from pipeline.metrics.confidence import MOST_OUTCOMES, generator
from pipeline.metrics.paired_tests import Pairs, detectable, holm, paired_bootstrap, sign_flips, tango


def mcnemar(num_lost, num_gained):
    return sign_flips(np.ones(1), np.array([num_lost + num_gained]), float(num_gained - num_lost))


@pytest.mark.parametrize(
    ("num_lost", "num_gained", "exact"),
    [
        (150, 86, 3.716e-05),  # approval ratings, Agresti 1990, Categorical Data Analysis, p. 350; statsmodels' exact
        (28, 35, 0.45),  # as R's binom.test prints it
    ],
)
def test_the_test_of_binary_questions_is_mcnemars_with_half_of_the_observed_probability(num_lost, num_gained, exact):
    num = num_lost + num_gained
    own = comb(num, num_lost) / 2**num
    assert mcnemar(num_lost, num_gained) == pytest.approx(exact - own, rel=3e-3)


@pytest.mark.parametrize(("num_lost", "num_gained"), [(0, 1), (0, 6), (3, 9), (12, 2)])
def test_the_test_of_binary_questions_is_the_binomial_tail_counted_by_hand(num_lost, num_gained):
    num = num_lost + num_gained
    tail = sum(Fraction(comb(num, count), 2**num) for count in range(min(num_lost, num_gained)))
    own = Fraction(comb(num, min(num_lost, num_gained)), 2**num)
    assert mcnemar(num_lost, num_gained) == pytest.approx(float(2 * tail + own))


@pytest.mark.parametrize("num", [0, 7])
def test_runs_that_lost_as_many_questions_as_they_gained_do_not_differ(num):
    assert mcnemar(num, num) == 1.0


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0]), st.integers(-6, 6)), min_size=3, max_size=8),
)
@settings(deadline=None, max_examples=40)
def test_the_saddlepoint_is_close_to_the_exact_value(found):
    values, counts = np.unique([value for value, _ in found], return_counts=True)
    num = counts * 12
    observed = abs(sum(value * sign for value, sign in found))
    total = float(values @ num)
    exact = paired_tests._exact_sign_flips(values, num, observed, total)
    assume(0 < observed < 0.6 * total and exact > 1e-12)
    assert paired_tests._saddlepoint(values, num, observed) == pytest.approx(exact, rel=0.2, abs=0.06)


@pytest.mark.parametrize(
    ("num_lost", "num_gained", "num", "ends"),
    [(0, 0, 20, (-0.1611, 0.1611)), (12, 0, 12, (-1.0, -0.5150))],
)
def test_tangos_interval_has_a_width_where_nothing_or_everything_has_changed(num_lost, num_gained, num, ends):
    assert tango(num_lost, num_gained, num) == pytest.approx(ends, abs=1e-3)
    assert tango(num_gained, num_lost, num) == pytest.approx((-ends[1], -ends[0]), abs=1e-3)


def test_holm_gives_the_values_of_statsmodels():
    """`multipletests(method="holm")` of statsmodels 0.15."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04, 0.20, 0.03, 0.005, 0.07]) == pytest.approx([0.05, 0.12, 0.2, 0.12, 0.03, 0.14])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm_below_alpha():
    families = np.random.default_rng(1).random((2_000, 8))
    alarms = sum(min(holm(family)) < 0.05 for family in families)
    assert 0.035 <= alarms / 2_000 <= 0.06


def right_answers(rng, num, base, new, correlation):
    """Return whether each question is right in two runs, with these shares of right answers and this correlation."""
    both = base * new + correlation * sqrt(base * (1 - base) * new * (1 - new))
    cell = rng.choice(4, size=num, p=[both, base - both, new - both, 1 - base - new + both])
    return np.isin(cell, [0, 1]).astype(float), np.isin(cell, [0, 2]).astype(float)


def test_the_standard_error_of_a_difference_is_that_of_the_per_question_differences():
    base, new = np.random.default_rng(2).choice([0, 0.5, 1], size=(2, 300))
    pairs = Pairs.of(base, new)
    assert pairs.difference == pytest.approx(new.mean() - base.mean())
    assert pairs.stderr == pytest.approx((new - base).std(ddof=1) / sqrt(300))
    change = paired_bootstrap([pairs], generator("a"))
    assert change.stderr == pytest.approx(pairs.stderr)
    assert change.difference - change.ci_low == pytest.approx(1.96 * pairs.stderr, rel=0.06)
    assert change.ci_high - change.difference == pytest.approx(1.96 * pairs.stderr, rel=0.06)


def test_identical_repeats_add_no_information():
    rng = np.random.default_rng(3)
    base, new = right_answers(rng, 200, 0.6, 0.5, 0.5)
    once = Pairs.of(base, new)
    four = Pairs(
        base_totals=4 * once.base_totals,
        base_scored=np.full(len(once.num), 4.0),
        new_totals=4 * once.new_totals,
        new_scored=np.full(len(once.num), 4.0),
        num=once.num,
    )
    assert (four.difference, four.stderr) == pytest.approx((once.difference, once.stderr))
    repeated, single = (paired_bootstrap([each], generator("a")) for each in (four, once))
    assert (repeated.p_value, repeated.stderr) == pytest.approx((single.p_value, single.stderr))
    assert (repeated.ci_low, repeated.ci_high) == pytest.approx((single.ci_low, single.ci_high), abs=0.01)


def test_equal_runs_do_not_differ_and_their_interval_has_a_width():
    values = np.array([0.0, 1.0, 1.0, 0.5])
    change = paired_bootstrap([Pairs.of(values, values)], generator("a"))
    assert (change.difference, change.stderr, change.p_value) == (0.0, None, 1.0)
    assert (change.ci_low, change.ci_high) == pytest.approx(tango(0, 0, 4))


def test_a_single_question_has_no_standard_error():
    change = paired_bootstrap([Pairs.of([0.0], [1.0])], generator("a"))
    assert (change.difference, change.stderr) == (1.0, None)


def test_a_domains_change_is_the_weighted_mean_of_its_tasks():
    rng = np.random.default_rng(4)
    tasks = [Pairs.of(*right_answers(rng, num, 0.7, 0.6, 0.4)) for num in (400, 100)]
    change = paired_bootstrap(tasks, generator("a"))
    assert change.difference == pytest.approx((tasks[0].difference + tasks[1].difference) / 2)
    assert change.stderr == pytest.approx(np.hypot(tasks[0].stderr, tasks[1].stderr) / 2)
    uneven = paired_bootstrap(tasks, generator("a"), [0.9, 0.1])
    assert uneven.difference == pytest.approx(0.9 * tasks[0].difference + 0.1 * tasks[1].difference)
    assert uneven.ci_high - uneven.ci_low == pytest.approx(2 * 1.96 * uneven.stderr, rel=0.06)


def test_a_small_p_value_is_close_to_that_of_the_t_test():
    """The values are those of SciPy's `ttest_rel` and, for two tasks, of Welch's test of their differences."""
    rng = np.random.default_rng(11)
    base, drops, others = rng.random(300), rng.normal(0.03, 0.1, 300), rng.normal(0.05, 0.1, 40)
    one = Pairs.of(base, base - drops)
    expected = ttest_rel(base, base - drops).pvalue
    assert 1e-9 < expected < 1e-5
    assert paired_bootstrap([one], generator("a")).p_value == pytest.approx(expected, rel=0.5, abs=0)
    two = [one, Pairs.of(np.zeros(40), -others)]
    expected = ttest_ind(drops, -others, equal_var=False).pvalue  # half of the sum has the same p-value as the sum
    assert 1e-9 < expected < 1e-4
    assert paired_bootstrap(two, generator("a")).p_value == pytest.approx(expected, rel=0.8, abs=0)


def test_a_p_value_is_that_of_scipys_permutations_of_signs():
    rng = np.random.default_rng(12)
    changes = rng.normal(0.03, 0.1, 60)
    change = paired_bootstrap([Pairs.of(np.zeros(60), changes)], generator("a"))
    theirs = permutation_test((changes,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
    assert change.p_value == pytest.approx(theirs.pvalue, rel=0.15)


@pytest.mark.parametrize("num_changed", [2, 3, 8, 40])
def test_the_p_value_of_questions_that_all_fell_is_that_of_their_signs(num_changed):
    fell = np.where(np.arange(num_changed) == 0, 0.9, 1.0)
    change = paired_bootstrap([Pairs.of(np.ones(num_changed), 1 - fell)], generator("a"))
    assert change.p_value == pytest.approx(0.5**num_changed)


def test_5_of_100_paired_bootstraps_of_equal_models_are_significant():
    rng, alarms = np.random.default_rng(5), 0
    for number in range(500):
        difficulty = rng.random(100)
        noise = rng.random((2, 100))
        base, new = np.round(1.2 * difficulty + 0.8 * noise) / 2  # 0, 0.5 or 1, correlated by the difficulty
        alarms += paired_bootstrap([Pairs.of(base, new)], generator(str(number))).p_value < 0.05
    assert 0.025 <= alarms / 500 <= 0.08  # the standard error of the share is 0.01


def test_the_normal_approximation_for_many_outcomes_has_the_same_interval():
    base, new = np.random.default_rng(6).random((2, MOST_OUTCOMES + 1))
    pairs = Pairs.of(base, new)
    change = paired_bootstrap([pairs], generator("a"))
    assert change.ci_high - change.ci_low == pytest.approx(2 * 1.96 * pairs.stderr, rel=0.05)


def test_the_detectable_change_is_found_8_times_in_10_also_after_adjustment():
    rng, num = np.random.default_rng(7), 510
    flips = 0.07
    size = detectable(flips / num, 1 / num, num_tests=6)
    lost, gained = (flips + size) / 2 + size / 2, (flips + size) / 2 - size / 2
    found = 0
    for _ in range(2_000):
        numbers = rng.multinomial(num, [lost, gained, 1 - lost - gained])
        found += 6 * mcnemar(int(numbers[0]), int(numbers[1])) < 0.05
    assert found / 2_000 == pytest.approx(0.8, abs=0.04)


def test_the_detectable_change_is_above_0_where_no_question_has_flipped():
    size = detectable(0.0, 1 / 20)
    assert size == pytest.approx(2.8016**2 / (20 + 2.8016**2), rel=1e-3)
    assert detectable(0.0, 1.0, num_tests=1_000) < 1.0
