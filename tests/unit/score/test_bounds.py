"""Bounds are the lowest and highest score possible had truncated, empty and failed rows been answered differently."""

import pytest


def bounds(row):
    return row["bound_low"], row["bound_high"]


def test_answered_rows_are_certain(run):
    run.ask("B")
    run.ask("C")
    run.ask("не знаю")  # an answer without letters
    run.score()
    row = run.metric("correct")
    assert bounds(row) == (row["value"], row["value"])
    assert row["num_doubtful"] == 0


def test_a_truncated_row_counts_as_wrong_in_the_lower_and_as_right_in_the_upper_bound(run):
    run.ask("B")
    run.ask("C")
    run.ask("Рассмотрим")
    run.change_last(finish_reason="length")
    run.ask("Ответ: B. Кроме того")  # uncertain despite its answer, which the missing end may retract
    run.change_last(finish_reason="length")
    run.score()
    assert bounds(run.metric("correct")) == (0.25, 0.75)
    assert bounds(run.metric("score")) == (0.25, 0.75)
    assert run.metric("correct")["value"] == 0.5
    assert run.metric("correct")["num_doubtful"] == 2


def test_an_empty_row_is_uncertain_even_if_the_exact_metrics_score_it_as_right(run):
    run.ask("", gold="A")
    run.ask("B")
    run.score()
    assert run.metric("em")["value"] == 1.0
    assert bounds(run.metric("em")) == (0.5, 1.0)


@pytest.mark.parametrize("metric", ["em", "f1", "score", "correct"])
def test_a_failed_row_is_in_the_bounds_but_not_in_the_score(run, metric):
    run.ask("B")
    run.ask(None)
    run.change_last(error="engine died", finish_reason="error")
    run.score()
    assert run.metric(metric)["value"] == 1.0
    assert bounds(run.metric(metric)) == (0.5, 1.0)


def test_a_failed_row_whose_gold_has_no_letter_is_not_in_the_bounds_of_the_letters_metric(run):
    run.ask("B")
    run.ask(None, gold="сорок два")
    run.change_last(error="engine died", finish_reason="error")
    run.score()
    assert bounds(run.metric("correct")) == (1.0, 1.0)
    assert bounds(run.metric("em")) == (0.5, 1.0)


def test_if_all_rows_failed_the_bounds_are_0_and_1(run):
    run.ask(None)
    run.change_last(error="engine died", finish_reason="error")
    run.score()
    assert run.metric("score")["value"] is None
    assert bounds(run.metric("score")) == (0.0, 1.0)


def test_each_group_has_its_own_bounds(run):
    run.ask("B", categories={"topic": "soil"})
    run.ask("", categories={"topic": "seed"})
    run.score()
    assert bounds(run.metric("correct", group_by="topic", group="soil")) == (1.0, 1.0)
    assert bounds(run.metric("correct", group_by="topic", group="seed")) == (0.0, 1.0)


def test_a_domains_bounds_are_the_means_of_its_tasks(run):
    run.domains = {"agro": "agriculture", "aqua": "agriculture"}
    run.ask("B")
    run.ask("", task="aqua")
    run.ask("C", task="aqua")
    run.score()
    assert bounds(run.metric("correct", task="agriculture", level="domain")) == (0.5, 0.75)
    assert bounds(run.metric("correct", task="all", level="run")) == (0.5, 0.75)


def test_each_uncertain_repeat_counts_separately(run):
    run.repeats = 4
    run.ask("B", "B", "C", "")
    run.score()
    assert bounds(run.metric("correct")) == (0.5, 0.75)
    assert bounds(run.metric("pass@1")) == (0.5, 0.75)
    assert bounds(run.metric("pass@4")) == (1.0, 1.0)
    assert bounds(run.metric("majority")) == (None, None)
