"""With a category of dependent questions, standard errors and intervals are those of its groups, not of questions."""

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.metrics.confidence import MIN_CLUSTERS, wilson


def ask_topics(run, num_topics, *, each=4, **changes):
    """Ask questions of topics, of which the even ones are answered right."""
    for topic in range(num_topics):
        for _ in range(each):
            run.ask("C" if topic % 2 else "B", categories={"topic": f"t{topic}"}, **changes)


@pytest.mark.parametrize("metric", ["em", "f1", "score", "correct"])
def test_questions_that_share_everything_count_as_one(run, metric):
    run.cluster = "topic"
    ask_topics(run, 20)
    run.score()
    row = run.metric(metric)
    assert row["value"] == pytest.approx(0.5)
    assert row["stderr"] == pytest.approx(np.sqrt(0.25 / 19))  # of 20 topics, not of 80 questions
    low, high = wilson(0.5, 20)
    assert row["ci_low"] < low < high < row["ci_high"]


def test_with_a_category_of_single_questions_the_error_is_that_of_independent_ones(run):
    run.cluster = "topic"
    ask_topics(run, 30, each=1)
    run.score()
    assert run.metric("em")["stderr"] == pytest.approx(np.sqrt(0.25 / 29))


def test_questions_without_the_category_are_clusters_of_their_own(run):
    run.cluster = "topic"
    ask_topics(run, 10)
    for content in ["B"] * 5 + ["C"] * 5:
        run.ask(content, categories={})
    run.score()
    # residuals of 0.5: 10 sums of 2, and 10 of a single question
    expected = np.sqrt(20 / 19 * (10 * 2**2 + 10 * 0.5**2)) / 50
    assert run.metric("em")["stderr"] == pytest.approx(expected)


def test_the_error_is_that_of_a_sum_over_repeats(run):
    run.cluster, run.repeats = "topic", 2
    for topic in range(12):
        for content in ("B", "C" if topic % 3 else "B"):
            run.ask(content, "B", categories={"topic": f"t{topic}"})
    run.score()
    values = np.array([[2, 1 + (topic % 3 == 0)] for topic in range(12)])
    residuals = (values - values.mean()).sum(axis=1)
    assert run.metric("correct")["stderr"] == pytest.approx(np.sqrt(12 / 11 * (residuals**2).sum()) / values.size / 2)


def test_domains_and_the_run_have_the_error_of_their_tasks(run):
    run.cluster, run.domains = "topic", {"agro": "agriculture", "med": "medicine"}
    ask_topics(run, 20)
    ask_topics(run, 20, task="med")
    run.score()
    assert run.metric("score", task="all", level="run")["stderr"] == pytest.approx(np.sqrt(0.25 / 19 / 2))
    domain, task, whole = (
        run.metric("score", task=name, level=level)
        for name, level in (("medicine", "domain"), ("med", "task"), ("all", "run"))
    )
    assert [domain[name] for name in ("ci_low", "ci_high")] == [task[name] for name in ("ci_low", "ci_high")]
    assert task["ci_low"] < whole["ci_low"] < 0.5 < whole["ci_high"] < task["ci_high"]


def test_too_few_clusters_have_neither_an_error_nor_an_interval(run):
    run.cluster = "topic"
    ask_topics(run, MIN_CLUSTERS - 1)
    run.score()
    for row in (run.metric("score"), run.metric("score", task="all", level="run")):
        assert row["value"] is not None
        assert [row[name] for name in ("stderr", "ci_low", "ci_high")] == [None] * 3
    assert run.metric("score", group_by="topic", group="t0")["ci_low"] is not None


def test_clusters_that_are_all_alike_have_an_interval_and_no_error(run):
    run.cluster = "topic"
    for topic in range(12):
        for _ in range(5):
            run.ask("B", categories={"topic": f"t{topic}"})
    run.score()
    row = run.metric("em")
    assert (row["stderr"], row["ci_high"]) == (None, 1.0)
    assert row["ci_low"] < wilson(1, 12)[0]


def test_a_category_that_no_question_has_is_refused_with_those_there_are(run):
    run.cluster = "subject"
    ask_topics(run, 3)
    with pytest.raises(ConfigError, match=r"^tasks.agro.cluster='subject': no question has .* one of .*topic, or null"):
        run.score()
