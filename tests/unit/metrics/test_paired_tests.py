"""Paired tests agree with published values and have their nominal error rate and power."""

from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from pipeline.metrics.confidence import MOST_OUTCOMES, generator
from pipeline.metrics.paired_tests import Pairs, detectable, holm, mcnemar, paired_bootstrap, power_of_mcnemar


@pytest.mark.parametrize(
    ("num_lost", "num_gained", "p_value"),
    [
        (150, 86, 3.716e-05),  # approval ratings, Agresti 1990, Categorical Data Analysis, p. 350; statsmodels' exact
        (28, 35, 0.45),  # as R's binom.test prints it
    ],
)
def test_mcnemar_gives_the_published_p_values(num_lost, num_gained, p_value):
    assert mcnemar(num_lost, num_gained) == pytest.approx(p_value, rel=2e-4)


@pytest.mark.parametrize(("num_lost", "num_gained"), [(0, 1), (0, 6), (3, 9), (7, 7), (12, 2)])
def test_mcnemar_is_the_binomial_tail_counted_by_hand(num_lost, num_gained):
    num = num_lost + num_gained
    tail = sum(comb(num, count) for count in range(min(num_lost, num_gained) + 1))
    assert mcnemar(num_lost, num_gained) == pytest.approx(float(min(1, Fraction(2 * tail, 2**num))))


def test_runs_in_which_no_question_flipped_do_not_differ():
    assert mcnemar(0, 0) == 1.0


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
    assert paired_bootstrap([four], generator("a")) == paired_bootstrap([once], generator("a"))


def test_equal_runs_do_not_differ():
    values = np.array([0.0, 1.0, 1.0, 0.5])
    change = paired_bootstrap([Pairs.of(values, values)], generator("a"))
    assert (change.difference, change.ci_low, change.ci_high, change.p_value) == (0.0, 0.0, 0.0, 1.0)


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


def test_a_p_value_beyond_the_resamples_is_that_of_the_t_test():
    """The values are those of SciPy's `ttest_rel` and, for two tasks, of Welch's test of their differences."""
    rng = np.random.default_rng(11)
    base, drops, others = rng.random(300), rng.normal(0.03, 0.1, 300), rng.normal(0.05, 0.1, 40)
    one = Pairs.of(base, base - drops)
    expected = ttest_rel(base, base - drops).pvalue
    assert 1e-9 < expected < 1e-5
    assert paired_bootstrap([one], generator("a")).p_value == pytest.approx(expected, rel=1e-6, abs=0)
    two = [one, Pairs.of(np.zeros(40), -others)]
    expected = ttest_ind(drops, -others, equal_var=False).pvalue  # half of the sum has the same p-value as the sum
    assert 1e-9 < expected < 1e-4
    assert paired_bootstrap(two, generator("a")).p_value == pytest.approx(expected, rel=1e-6, abs=0)


def test_the_p_value_of_questions_that_changed_almost_alike_is_that_of_the_sign_test():
    base = np.zeros(16)
    new = np.where(np.arange(16) < 14, -0.5 + 1e-4 * np.arange(16), 0)
    change = paired_bootstrap([Pairs.of(base, new)], generator("a"))
    assert change.p_value == pytest.approx(2 * 0.5**14)
    assert ttest_rel(base, new).pvalue < change.p_value < 1 / 5_001


@pytest.mark.parametrize("num_changed", [2, 3, 8])
def test_the_p_value_of_a_few_questions_that_changed_almost_alike_is_that_of_the_sign_test(num_changed):
    fell = np.where(np.arange(num_changed) == 0, 0.9, 1.0)
    change = paired_bootstrap([Pairs.of(np.ones(num_changed), 1 - fell)], generator("a"))
    assert change.p_value == pytest.approx(2 * 0.5**num_changed)


def test_a_p_value_within_the_resamples_is_their_share():
    rng = np.random.default_rng(12)
    base = rng.random(100)
    change = paired_bootstrap([Pairs.of(base, base + rng.normal(0.03, 0.1, 100))], generator("a"))
    assert change.p_value > 1 / 5_001
    assert change.p_value * 5_001 == pytest.approx(round(change.p_value * 5_001))


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


def test_the_power_is_the_published_one():
    """155 pairs of which 30% change one way and 15% the other: 80.1% by Connor 1987."""
    base, new, both = 0.45, 0.60, 0.30
    correlation = (both - base * new) / sqrt(base * (1 - base) * new * (1 - new))
    assert power_of_mcnemar(base, new, correlation, 155) == pytest.approx(0.801, abs=5e-4)
    assert power_of_mcnemar(new, base, correlation, 155) == pytest.approx(0.801, abs=5e-4)


def test_a_drop_of_3_points_on_2000_questions_is_detected_with_the_power_of_the_formula():
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(600):
        base, new = right_answers(rng, 2_000, 0.65, 0.62, 0.5)
        found += mcnemar(int(np.sum(base > new)), int(np.sum(base < new))) < 0.05
    expected = power_of_mcnemar(0.65, 0.62, 0.5, 2_000)
    assert 0.7 < expected < 0.9
    assert found / 600 == pytest.approx(expected, abs=0.05)


def test_without_correlation_the_power_is_lower():
    assert power_of_mcnemar(0.65, 0.62, 0.0, 2_000) < power_of_mcnemar(0.65, 0.62, 0.5, 2_000) - 0.2


def test_shares_with_an_impossible_correlation_are_rejected():
    with pytest.raises(ValueError, match=r"0\.9 and 0\.2 cannot have a correlation of 0\.8"):
        power_of_mcnemar(0.9, 0.2, 0.8, 100)


def test_a_difference_of_the_detectable_size_is_found_8_times_in_10():
    base, new = right_answers(np.random.default_rng(8), 2_000, 0.65, 0.62, 0.5)
    smallest = detectable(Pairs.of(base, new).stderr)
    assert power_of_mcnemar(0.65, 0.65 - smallest, 0.5, 2_000) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("stderr", [None, 0.0])
def test_without_a_flipped_question_the_detectable_difference_is_unknown(stderr):
    assert detectable(stderr) is None
