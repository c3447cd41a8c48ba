"""Intervals agree with published values and with SciPy, and have their nominal coverage."""

import numpy as np
import pytest
from scipy import stats

from pipeline.metrics.confidence import (
    MOST_OUTCOMES,
    NUM_RESAMPLES,
    Estimate,
    bootstrap,
    generator,
    interval_of_mean,
    is_wide,
    normal,
    resamples,
    wilson,
)


def of_values(values, rng, repeats=1):
    """Bootstrap the mean of questions whose repeats all have the same score."""
    different, num = np.unique(values, return_counts=True)
    return bootstrap(different * repeats, np.full(len(different), float(repeats)), num, rng)


def half_width(estimate):
    return (estimate.high - estimate.low) / 2


@pytest.mark.parametrize(
    ("num_right", "num", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(num_right, num, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert [round(float(end), 4) for end in wilson(num_right / num, num)] == [low, high]


def test_wilson_agrees_with_scipy_for_many_at_once():
    pairs = [(right, num) for num in (1, 2, 12, 70, 2642) for right in {0, 1, num // 3, num}]
    right, num = np.array(pairs).T
    theirs = [stats.binomtest(int(k), int(n)).proportion_ci(method="wilson") for k, n in pairs]
    np.testing.assert_allclose(np.transpose(wilson(right / num, num)), theirs, atol=1e-12)


def test_the_bootstrap_agrees_with_scipys():
    values = np.random.default_rng(1).choice([0, 0.4, 0.5, 2 / 3, 1], size=60)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1)
    ours = of_values(values, generator("a"))
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(theirs.confidence_interval, abs=0.008)
    assert ours.draws.std() == pytest.approx(values.std() / np.sqrt(60), rel=0.03)


def test_95_of_100_bootstrap_intervals_contain_the_mean_of_a_skewed_score():
    scores, shares = np.array([0, 0.4, 2 / 3, 1]), np.array([0.1, 0.05, 0.05, 0.8])
    rng, truth = np.random.default_rng(2), float(scores @ shares)
    held = 0
    for number in range(500):
        estimate = of_values(rng.choice(scores, p=shares, size=250), generator("coverage", str(number)))
        held += estimate.low <= truth <= estimate.high
    assert 0.925 <= held / 500 <= 0.975  # the standard error of the share is 0.01


def test_coverage_holds_for_identical_repeats_when_clustered_by_question_but_not_by_row():
    rng, repeats = np.random.default_rng(3), 4
    held = {"questions": 0, "rows": 0}
    for number in range(300):
        right = rng.random(200) < 0.6  # all repeats of a question are right, or all wrong
        clustered = of_values(right.astype(float), generator("q", str(number)), repeats)
        naive = of_values(np.repeat(right, repeats).astype(float), generator("r", str(number)))
        held["questions"] += clustered.low <= 0.6 <= clustered.high
        held["rows"] += naive.low <= 0.6 <= naive.high
    assert 0.92 <= held["questions"] / 300 <= 0.98
    assert held["rows"] / 300 <= 0.75  # the interval is half as wide as it should be


def test_a_question_of_more_repeats_weighs_more():
    estimate = bootstrap(np.array([0.0, 4.0]), np.array([1.0, 4.0]), np.array([10, 10]), generator("a"))
    assert estimate.mean == 0.8
    assert estimate.low < 0.8 < estimate.high


def test_questions_with_equal_scores_have_wilsons_interval_and_no_draws():
    ones = bootstrap(np.array([1.0]), np.array([1.0]), np.array([8]), generator("a"))
    assert (ones.low, ones.high, ones.draws) == (pytest.approx(0.6756, abs=1e-4), 1.0, None)
    repeated = bootstrap(np.array([2.0, 4.0]), np.array([2.0, 4.0]), np.array([5, 3]), generator("a"))
    assert (repeated.low, repeated.high) == (ones.low, ones.high)


def test_the_normal_approximation_for_many_outcomes_agrees_with_the_bootstrap():
    values = np.random.default_rng(4).beta(2, 1, size=MOST_OUTCOMES)
    resampled = of_values(values, generator("a"))
    drawn = normal(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))), generator("a"))
    tolerance = 0.04 * half_width(resampled)
    assert (drawn.low, drawn.high) == pytest.approx((resampled.low, resampled.high), abs=tolerance)
    assert drawn.draws.std() == pytest.approx(resampled.draws.std(), rel=0.04)


def test_resamples_come_in_batches_and_each_has_the_number_of_questions():
    num = np.full(1500, 3)
    batches = list(resamples(num, generator("a")))
    assert len(batches) > 1
    assert max(batch.size for batch in batches) <= 1_000_000
    assert sum(len(batch) for batch in batches) == NUM_RESAMPLES
    assert {int(total) for batch in batches for total in batch.sum(axis=1)} == {4500}


def test_equal_names_give_equal_draws_and_other_names_give_other_draws():
    values = np.array([0.0, 0.5, 1.0, 1.0])
    same = [of_values(values, generator("agro", "test", None)).draws for _ in range(2)]
    np.testing.assert_array_equal(*same)
    other = of_values(values, generator("aqua", "test", None)).draws
    assert not np.array_equal(other, same[0])


def two_tasks():
    rng = np.random.default_rng(5)
    return [of_values(rng.random(num) < share, generator(str(num))) for num, share in ((400, 0.7), (100, 0.4))]


def test_the_interval_of_a_domain_combines_those_of_its_tasks():
    tasks = two_tasks()
    low, high = interval_of_mean(tasks, [0.5, 0.5])
    assert (low + high) / 2 == pytest.approx(np.mean([task.mean for task in tasks]), abs=0.01)
    assert (high - low) / 2 == pytest.approx(np.hypot(*map(half_width, tasks)) / 2, rel=0.03)


def test_a_domain_of_one_task_has_the_interval_of_the_task():
    task = Estimate(mean=0.5, low=0.4, high=0.7, draws=np.array([0.1, 0.9]))
    assert interval_of_mean([task], [1.0]) == (0.4, 0.7)


def test_a_task_without_draws_still_widens_the_interval_of_its_domain():
    constant = Estimate(mean=1.0, low=0.7, high=1.0, draws=None)
    other = Estimate(mean=0.5, low=0.1, high=0.8, draws=np.full(NUM_RESAMPLES, 0.5))
    low, high = interval_of_mean([constant, other], [0.5, 0.5])
    assert (low, high) == pytest.approx((0.75 - 0.25, 0.75 + 0.15))  # 0.5 * hypot(0.3, 0.4); 0.5 * hypot(0, 0.3)


@pytest.mark.parametrize(
    ("bounds", "interval", "wide"),
    [((0.4, 0.6), (0.45, 0.55), True), ((0.45, 0.55), (0.4, 0.6), False), ((0, 1), (None, None), True),
     ((None, None), (None, None), False), ((0.5, 0.5), (None, None), False)],
)  # fmt: skip
def test_bounds_are_wide_when_they_are_wider_than_the_interval(bounds, interval, wide):
    row = dict(zip(("bound_low", "bound_high", "ci_low", "ci_high"), (*bounds, *interval), strict=True))
    assert is_wide(row) is wide
