"""Every score has a standard error and a 95% interval; a null score has neither."""

import numpy as np
import pytest

from pipeline.metrics.confidence import MOST_OUTCOMES, Z, wilson
from pipeline.score.intervals import MOST_GROUPS


def ends(row):
    return row["ci_low"], row["ci_high"]


def ask_all(run, right, wrong, **changes):
    for content in ["B"] * right + ["Ответ: C"] * wrong:
        run.ask(content, **changes)


@pytest.mark.parametrize("metric", ["em", "correct"])
def test_a_share_of_right_answers_has_wilsons_interval(run, metric):
    ask_all(run, 15, 5)
    run.score()
    assert ends(run.metric(metric)) == pytest.approx(wilson(0.75, 20))
    assert run.metric(metric)["stderr"] == pytest.approx(np.sqrt(0.75 * 0.25 / 19))


@pytest.mark.parametrize("metric", ["f1", "score"])
def test_a_mean_of_fractions_has_a_bootstrap_interval(run, metric):
    for content in ["B"] * 30 + ["Ответ: B"] * 20 + ["C"] * 10:
        run.ask(content)
    run.score()
    values = np.repeat({"f1": [1, 2 / 3, 0], "score": [1, 1 / 3, 0]}[metric], [30, 20, 10])
    row = run.metric(metric)
    assert row["value"] == pytest.approx(values.mean())
    assert row["stderr"] == pytest.approx(values.std(ddof=1) / np.sqrt(60))
    assert ends(row) == pytest.approx(
        (row["value"] - 1.96 * row["stderr"], row["value"] + 1.96 * row["stderr"]), abs=0.02
    )


def test_a_group_has_the_interval_of_its_own_rows(run):
    ask_all(run, 9, 3, categories={"topic": "soil"})
    ask_all(run, 2, 6, categories={"topic": "seed"})
    run.score()
    assert ends(run.metric("em", group_by="topic", group="soil")) == pytest.approx(wilson(0.75, 12))
    soil, seed = (run.metric("f1", group_by="topic", group=group) for group in ("soil", "seed"))
    assert soil["ci_low"] > seed["value"]


def test_a_hidden_gold_has_no_score_standard_error_interval_or_bounds(run):
    run.repeats = 2
    run.ask("B", "C", gold=None, split="test")
    run.score()
    rows = [row for row in run.metrics() if row["metric"] != "agreement"]
    for name in ("value", "stderr", "ci_low", "ci_high", "bound_low", "bound_high"):
        assert {row[name] for row in rows} == {None}


def test_one_question_has_an_interval_and_no_standard_error(run):
    run.ask("B")
    run.score()
    row = run.metric("score")
    assert row["stderr"] is None
    assert ends(row) == pytest.approx(wilson(1, 1))


@pytest.mark.parametrize("metric", ["em", "f1", "score", "correct"])
def test_an_interval_has_a_width_even_if_all_questions_have_the_same_score(run, metric):
    ask_all(run, 10, 0)
    run.score()
    assert ends(run.metric(metric)) == (pytest.approx(0.7225, abs=1e-4), 1)


def test_identical_repeats_do_not_narrow_the_interval(run):
    run.repeats = 4
    for number in range(40):
        run.ask(*["B" if number % 4 else "C"] * 4)
    run.score()
    row = run.metric("em")
    low, high = ends(row)
    of_questions, of_rows = (np.subtract(*wilson(0.75, num)) for num in (40, 160))
    assert low - high == pytest.approx(of_questions, rel=0.1)
    assert low - high < 1.7 * of_rows
    assert row["stderr"] == pytest.approx(np.sqrt(0.75 * 0.25 / 39))


def test_the_standard_error_of_repeats_is_that_of_the_questions_means(run):
    run.repeats = 2
    contents = [("B", "B"), ("B", "C"), ("C", "C"), ("B", "Ответ: B"), ("C", "B")]
    for pair in contents:
        run.ask(*pair)
    run.score()
    f1 = {"B": 1, "C": 0, "Ответ: B": 2 / 3}
    means = np.array([np.mean([f1[content] for content in pair]) for pair in contents])
    assert run.metric("f1")["stderr"] == pytest.approx(means.std(ddof=1) / np.sqrt(5))


def test_a_domain_of_one_task_and_a_run_of_one_domain_have_the_interval_of_the_task(run):
    ask_all(run, 7, 4)
    run.score()
    for metric in ("em", "f1", "score", "correct"):
        task = run.metric(metric)
        for name, level in (("agriculture", "domain"), ("all", "run")):
            above = run.metric(metric, task=name, level=level)
            assert (above["stderr"], *ends(above)) == (task["stderr"], *ends(task))


def test_the_intervals_of_a_domain_and_the_run_combine_those_of_their_tasks(run):
    run.domains = {"agro": "agriculture", "aqua": "agriculture", "med": "medicine"}
    for task, right, wrong in (("agro", 60, 20), ("aqua", 10, 20), ("med", 40, 30)):
        ask_all(run, right, wrong, task=task)
    run.score()
    agro, aqua, med = (run.metric("em", task=task)["stderr"] for task in ("agro", "aqua", "med"))
    domain, whole = run.metric("em", "agriculture", level="domain"), run.metric("em", "all", level="run")
    assert domain["stderr"] == pytest.approx(np.hypot(agro, aqua) / 2)
    assert whole["stderr"] == pytest.approx(np.linalg.norm([agro / 4, aqua / 4, med / 2]))
    for row in (domain, whole):
        low, high = ends(row)
        assert (low + high) / 2 == pytest.approx(row["value"], abs=0.01)
        assert high - low == pytest.approx(2 * 1.96 * row["stderr"], rel=0.06)


def test_a_domain_with_a_task_without_a_value_has_no_interval(run):
    run.domains = {"agro": "agriculture", "aqua": "agriculture"}
    run.ask("B")
    run.score()
    row = run.metric("score", task="agriculture", level="domain")
    assert (row["value"], row["stderr"], *ends(row)) == (None, None, None, None)


def test_more_than_the_maximum_of_groups_have_the_normal_approximation(run):
    for number in range(MOST_GROUPS + 1):
        for content in ("B", "Ответ: B", "C"):
            run.ask(content, categories={"plot": str(number)})
    run.score()
    row = run.metric("f1", group_by="plot", group="7")
    assert ends(row) == pytest.approx((max(0, row["value"] - 1.96 * row["stderr"]), 1), abs=1e-4)
    assert ends(run.metric("em", group_by="plot", group="7")) == pytest.approx(wilson(1 / 3, 3))


def test_a_task_of_too_many_outcomes_to_resample_has_an_interval_and_so_has_its_domain(run):
    run.domains = {"agro": "agriculture", "aqua": "agriculture"}
    for length in range(MOST_OUTCOMES + 1):
        run.ask("B" + " x" * length)  # an F1 of 2 / (2 + length)
    for content in ("B", "Ответ: B", "C", "B"):
        run.ask(content, task="aqua")
    run.score()
    task, domain = run.metric("f1"), run.metric("f1", task="agriculture", level="domain")
    half = Z * task["stderr"]
    assert ends(task) == pytest.approx((task["value"] - half, task["value"] + half))
    assert domain["value"] - domain["ci_low"] == pytest.approx(1.96 * domain["stderr"], rel=0.3)  # of four questions
