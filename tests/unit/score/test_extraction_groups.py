"""metrics.parquet tells how often each rule read the letters, by one or several right answers, and how rightly."""

import pytest


def counts(run, group_by="extraction", metric="correct"):
    rows = [row for row in run.metrics() if (row["group_by"], row["metric"]) == (group_by, metric)]
    return {(row["task"], row["group"]): row["num_total"] for row in rows}


@pytest.fixture
def mixed(run):
    """Five rows with one right answer, three with several."""
    for response in ("B", "C", "Ответ: B", "Ответ: A или B", ""):
        run.ask(response)
    for response in ("A, C", "A) раз\nC) три", "Ответ: A (возможно, C)"):
        run.ask(response, gold="A, C")
    run.score()
    return run


def test_all_rows_of_a_task_are_counted_by_rule_and_by_reason(mixed):
    rules = {"bare_letters": 3, "answer_prefix": 1, "leading_option": 1, "no_letter": 1, "empty": 1, "conflict": 1}
    assert counts(mixed) == {("agro", rule): number for rule, number in rules.items()}
    assert sum(rules.values()) == mixed.metric("correct")["num_total"]


def test_they_are_split_by_one_and_several_right_answers(mixed):
    one, several = counts(mixed, "extraction.single"), counts(mixed, "extraction.multiple")
    assert {rule: number for (_, rule), number in one.items()} == {
        "bare_letters": 2, "answer_prefix": 1, "no_letter": 1, "empty": 1,
    }  # fmt: skip
    assert {rule: number for (_, rule), number in several.items()} == {
        "bare_letters": 1, "leading_option": 1, "conflict": 1,
    }  # fmt: skip


def test_the_value_is_the_mean_over_the_rows_of_the_rule_without_an_interval(mixed):
    row = mixed.metric("correct", group_by="extraction.single", group="bare_letters")
    assert (row["value"], row["num_scored"], row["num_no_answer"]) == (0.5, 2, 0)
    assert [row[name] for name in ("stderr", "ci_low", "ci_high", "bound_low", "bound_high")] == [None] * 5
    assert mixed.metric("em", group_by="extraction", group="leading_option")["value"] == 0.0
    assert mixed.metric("correct", group_by="extraction", group="leading_option")["value"] == 1.0


def test_without_a_gold_rows_are_counted_and_values_are_null(run):
    run.ask("B", gold=None)
    run.score()
    assert counts(run) == {("agro", "bare_letters"): 1}
    assert counts(run, "extraction.single") == {}
    assert run.metric("em", group_by="extraction", group="bare_letters")["value"] is None


def test_each_repeat_is_a_row_and_each_task_has_its_own(run):
    run.repeats = 2
    run.domains = {"agro": "agriculture", "aqua": "agriculture"}
    run.ask("B", "Ответ: B")
    run.ask("B", "B", task="aqua")
    run.score(rows_per_file=2)
    assert counts(run) == {("agro", "bare_letters"): 1, ("agro", "answer_prefix"): 1, ("aqua", "bare_letters"): 2}


def test_failed_rows_are_a_group_without_a_score(run):
    run.ask(None)
    run.change_last(error="HTTP 500", finish_reason="error")
    run.score()
    row = run.metric("correct", group_by="extraction", group="failed")
    assert (row["value"], row["num_scored"], row["num_failed"], row["num_doubtful"]) == (None, 0, 1, 1)


def test_a_category_with_the_name_of_these_groups_is_renamed(run):
    run.ask("B", categories={"extraction": "hand", "extraction.single": "yes"})
    run.score()
    assert counts(run) == {("agro", "bare_letters"): 1}
    assert counts(run, "categories.extraction") == {("agro", "hand"): 1}
    assert counts(run, "categories.extraction.single") == {("agro", "yes"): 1}


def test_a_conflict_records_the_letters_that_it_saw(mixed):
    seen = {row["response"]: row["seen_letters"] for row in mixed.samples()}
    assert seen["Ответ: A (возможно, C)"] == "A, C"
    assert seen["Ответ: B"] is None
