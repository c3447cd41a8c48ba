"""Metrics are means over scored rows, with counts of the rows that are not scored."""

import pytest


def test_a_task_has_four_metrics_over_its_scored_rows(run):
    run.ask("B")
    run.ask("Ответ: B")
    run.score()
    values = {name: run.metric(name)["value"] for name in ("em", "f1", "score", "correct")}
    assert values == pytest.approx({"em": 0.5, "f1": 5 / 6, "score": 2 / 3, "correct": 1.0})


def test_scored_truncated_unanswered_and_failed_rows_are_counted_separately(run):
    run.ask("B")
    run.ask("не знаю")
    run.ask(None)
    run.change_last(finish_reason="length")
    run.ask("Рассмотрим")
    run.change_last(finish_reason="length")
    run.ask(None)
    run.change_last(error="engine died", finish_reason="error")
    run.score()
    row = run.metric("em")
    counts = {name: row[f"num_{name}"] for name in ("total", "scored", "truncated", "no_answer", "failed")}
    assert counts == {"total": 5, "scored": 4, "truncated": 2, "no_answer": 3, "failed": 1}
    assert row["value"] == 0.25  # a failed row is neither right nor wrong


def test_a_split_without_golds_is_null_at_every_level(run):
    run.ask("B", gold=None, split="test")
    run.score()
    assert {row["level"] for row in run.metrics()} == {"task", "domain", "run"}
    assert {row["value"] for row in run.metrics()} == {None}
    assert {(row["num_total"], row["num_scored"]) for row in run.metrics()} == {(1, 0)}


def test_splits_are_aggregated_separately(run):
    run.ask("B")
    run.ask("C", gold=None, split="test")
    run.score()
    assert run.metric("em")["value"] == 1.0
    assert run.metric("em", split="test")["value"] is None


def test_each_category_has_its_own_groups_that_add_up_to_the_task(run):
    run.ask("B", categories={"topic": "soil", "answers": "one"})
    run.ask("C", categories={"topic": "soil"})
    run.ask("B", categories={"topic": "seed"})
    run.score()
    assert run.metric("em", group_by="topic", group="soil")["value"] == 0.5
    assert run.metric("em", group_by="topic", group="seed")["num_total"] == 1
    assert run.metric("em", group_by="answers", group="one")["value"] == 1.0
    groups = [row for row in run.metrics() if row["group_by"] == "topic" and row["metric"] == "em"]
    assert sum(row["num_total"] for row in groups) == run.metric("em")["num_total"] == 3


def test_a_row_without_categories_is_in_the_task_and_in_no_group(run):
    run.ask("B", categories={})
    run.score()
    assert run.metric("em")["num_total"] == 1
    of_every_row = {None, "num_options", "answer_kind", "extraction", "extraction.single"}
    assert {row["group_by"] for row in run.metrics()} == of_every_row


def test_every_repeat_is_a_row_of_the_mean(run):
    run.repeats = 2
    run.ask("B", "C")
    run.ask("B", "B")
    run.score()
    assert run.metric("em")["value"] == 0.75
    assert run.metric("em")["num_total"] == 4


def test_a_domain_is_the_mean_of_its_tasks_however_many_rows_each_has(run):
    run.domains = {"agro": "agriculture", "aqua": "agriculture"}
    for content in ("B", "B", "B", "C"):
        run.ask(content)
    run.ask("C", task="aqua")
    run.score()
    row = run.metric("score", task="agriculture", level="domain")
    assert row["value"] == 0.375
    assert (row["num_total"], row["num_scored"]) == (5, 5)


def test_the_run_is_the_mean_of_its_domains(run):
    run.domains = {"agro": "agriculture", "aqua": "agriculture", "med": "medicine"}
    run.ask("B")
    run.ask("C", task="aqua")
    run.ask("B", task="med")
    run.score()
    assert run.metric("score", task="all", level="run")["value"] == 0.75
    assert run.metric("score", task="all", level="run")["num_total"] == 3


@pytest.mark.parametrize("gold", [None, "absent"])
def test_a_task_without_a_value_makes_its_domain_and_the_run_null(run, gold):
    run.domains = {"agro": "agriculture", "aqua": "agriculture", "med": "medicine"}
    run.ask("B")
    run.ask("B", task="med")
    if gold is None:
        run.ask("B", task="aqua", gold=None)
    run.score()
    assert run.metric("score", task="agriculture", level="domain")["value"] is None
    assert run.metric("score", task="medicine", level="domain")["value"] == 1.0
    assert run.metric("score", task="all", level="run")["value"] is None


def test_a_gold_without_letters_is_scored_by_the_exact_metrics_only(run):
    run.ask("B")
    run.ask("42", gold="42")
    run.score()
    assert run.metric("em")["num_scored"] == 2
    assert run.metric("correct")["num_scored"] == 1
    assert run.metric("correct")["value"] == 1.0


def test_the_metrics_are_the_same_over_one_file_and_over_many(run):
    run.repeats = 2
    for number in range(12):
        run.ask("B", "BC"[number % 2], categories={"topic": "soil" if number % 3 else "seed"})
    run.score()
    whole = run.metrics()
    run.score(rows_per_file=5)
    assert len(run.store.files("samples", ".parquet")) == 6
    assert run.metrics() == whole
