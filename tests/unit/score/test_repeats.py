"""Metrics of several completions of a question: pass@k, the majority answer and the agreement of pairs."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest


def names(run):
    return {row["metric"] for row in run.metrics()}


def test_one_repeat_has_only_the_four_metrics(run):
    run.ask("B")
    run.score()
    assert names(run) == {"em", "f1", "score", "correct"}


@pytest.mark.parametrize(("repeats", "ks"), [(2, {1, 2}), (4, {1, 2, 4}), (5, {1, 2, 4, 5})])
def test_k_doubles_up_to_all_repeats(run, repeats, ks):
    run.repeats = repeats
    run.ask(*["B"] * repeats)
    run.score()
    assert names(run) - {"em", "f1", "score", "correct", "majority", "agreement"} == {f"pass@{k}" for k in ks}


@pytest.mark.parametrize("contents", ["BCCCC", "BBCCC", "BBBBC", "BBBBB", "CCCCC"])
def test_pass_at_k_is_the_share_of_subsets_of_k_with_a_right_answer(run, contents):
    run.repeats = 5
    run.ask(*contents)
    run.score()
    for k in (1, 2, 4, 5):
        expected = np.mean(["B" in subset for subset in combinations(contents, k)])
        assert run.metric(f"pass@{k}")["value"] == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_a_task_is_the_mean_over_its_questions(run):
    run.repeats = 4
    run.ask(*"BCCC")
    run.ask(*"CCCC")
    run.ask(*"BBBB")
    run.score()
    row = run.metric("pass@2")
    assert (row["value"], row["num_scored"], row["num_total"]) == (pytest.approx((0.5 + 0 + 1) / 3), 3, 12)
    assert row["ci_low"] < row["value"] < row["ci_high"]
    assert row["stderr"] == pytest.approx(np.std([0.5, 0, 1], ddof=1) / np.sqrt(3))


def test_a_question_with_fewer_than_k_repeats_that_did_not_fail_has_no_pass_at_k(run):
    run.repeats = 4
    run.ask(*"BCC", None)
    run.change_last(error="engine died", finish_reason="error")
    run.ask(*"CCCC")
    run.score()
    assert (run.metric("pass@2")["value"], run.metric("pass@2")["num_scored"]) == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert (run.metric("pass@4")["value"], run.metric("pass@4")["num_scored"]) == (0.0, 1)


@pytest.mark.parametrize(
    ("contents", "majority"),
    [
        (["B", "B", "C", "D"], 1.0),
        (["B", "C", "C", "D"], 0.0),
        (["Ответ: B", "**B**", "C", "C"], 1.0),  # a tie, of which the earliest repeat has B
        (["C", "B", "B", "C"], 0.0),
        (["B", "не знаю", "не знаю", "не знаю"], 1.0),  # without a letter there is no vote
        (["не знаю"] * 4, 0.0),
    ],
)
def test_the_majority_is_the_most_frequent_answer_and_a_tie_goes_to_the_earliest_repeat(run, contents, majority):
    run.repeats = 4
    run.ask(*contents)
    run.completions.reverse()
    run.score()
    assert run.metric("majority")["value"] == majority


def test_a_failed_repeat_has_no_vote_and_the_majority_is_null_if_all_failed(run):
    run.repeats = 2
    run.ask("B", None)
    run.change_last(error="engine died", finish_reason="error")
    run.ask(None, None)
    run.completions[-2:] = [replace(row, error="engine died", finish_reason="error") for row in run.completions[-2:]]
    run.score()
    row = run.metric("majority")
    assert (row["value"], row["num_scored"], row["num_failed"]) == (1.0, 1, 3)
    assert run.metric("agreement")["value"] is None


@pytest.mark.parametrize(
    ("contents", "agreement"),
    [("BBBB", 1.0), ("BBBC", 1 / 2), ("BBCC", 1 / 3), ("ABCD", 0.0)],
)
def test_agreement_is_the_share_of_pairs_with_the_same_answer(run, contents, agreement):
    run.repeats = 4
    run.ask(*contents)
    run.score()
    expected = np.mean([first == second for first, second in combinations(contents, 2)])
    assert run.metric("agreement")["value"] == pytest.approx(agreement) == pytest.approx(expected)


def test_repeats_without_an_answer_agree_with_each_other_only(run):
    run.repeats = 3
    run.ask("не знаю", "", "B")
    run.score()
    assert run.metric("agreement")["value"] == pytest.approx(1 / 3)


def test_failed_repeats_are_not_counted_in_the_agreement(run):
    run.repeats = 4
    run.ask("B", "C", None, None)
    run.completions[-2:] = [replace(row, error="engine died", finish_reason="error") for row in run.completions[-2:]]
    run.score()
    assert run.metric("agreement")["value"] == 0.0


def test_agreement_needs_no_gold(run):
    run.repeats = 2
    run.ask("B", "B", gold=None, split="test")
    run.ask("B", "C", gold=None, split="test")
    run.score()
    row = run.metric("agreement", split="test")
    assert (row["value"], row["num_scored"]) == (0.5, 2)
    assert run.metric("majority", split="test")["value"] is None


def test_repeats_are_averaged_into_domains_and_groups_as_the_other_metrics_are(run):
    run.repeats = 2
    run.domains = {"agro": "agriculture", "aqua": "agriculture"}
    run.ask("B", "C", categories={"topic": "soil"})
    run.ask("C", "C", categories={"topic": "seed"})
    run.ask("B", "B", task="aqua")
    run.score()
    assert run.metric("pass@2", group_by="topic", group="soil")["value"] == 1.0
    assert run.metric("pass@2", task="agriculture", level="domain")["value"] == 0.75
    assert run.metric("majority", task="agriculture", level="domain")["value"] == 0.75


def test_the_scores_of_repeats_are_means_over_rows(run):
    run.repeats = 2
    run.ask("B", "Ответ: B")
    run.ask("C", None)
    run.change_last(error="engine died", finish_reason="error")
    run.score()
    assert run.metric("f1")["value"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert run.metric("f1")["num_scored"] == 3


def test_each_split_has_the_metrics_of_its_own_number_of_repeats(run):
    run.repeats = {"train": 4, "test": 1}
    run.ask(*"BBCC")
    run.ask(*"CCCC")
    run.ask("B", split="test")
    run.ask("C", split="test")
    run.score()
    of_split = {split: {row["metric"] for row in run.metrics() if row["split"] == split} for split in ("train", "test")}
    single = {"em", "f1", "score", "correct"}
    assert of_split == {
        "train": single | {"majority", "agreement", "pass@1", "pass@2", "pass@4"},
        "test": single,
    }
    assert (run.metric("correct")["value"], run.metric("correct", split="test")["value"]) == (0.25, 0.5)
    alone = run.metric("correct", split="test")  # Wilson's interval, as with one repeat everywhere
    assert (alone["ci_low"], alone["ci_high"]) == (pytest.approx(0.0945, abs=1e-4), pytest.approx(0.9055, abs=1e-4))


def test_completions_beyond_the_repeats_of_their_split_are_a_bug(run):
    run.repeats = {"train": 2}
    run.ask("B", "B")
    run.ask("B", "B", split="test")
    with pytest.raises(RuntimeError, match="num_beyond_repeats=1"):
        run.score()
