"""A task is grouped by its categories, the wording, the number of options and the number of right answers."""

import hashlib
import json
import re

import duckdb
from builders import ROOT


def doc(instruction="Ответьте: {question}", options="abcd"):
    inputs = {"question": "?"} | {f"option_{letter}": "1" for letter in options}
    return json.dumps({"instruction": instruction, "inputs": inputs}, ensure_ascii=False)


def name(instruction):
    return hashlib.sha256(instruction.encode()).hexdigest()[:8]


def groups(run, group_by):
    rows = [row for row in run.metrics() if (row["group_by"], row["metric"]) == (group_by, "em")]
    return {row["group"]: row["num_total"] for row in rows}


def test_questions_with_the_same_wording_are_a_group_named_by_its_hash(run):
    run.ask("B", doc=doc("Выберите: {question}"))
    run.ask("B", doc=doc("Выберите: {question}"))
    run.ask("C", doc=doc("Ответьте: {question}"))
    run.score()
    assert groups(run, "instruction") == {name("Выберите: {question}"): 2, name("Ответьте: {question}"): 1}
    assert run.metric("em", group_by="instruction", group=name("Ответьте: {question}"))["value"] == 0.0


def test_the_number_of_options_does_not_change_the_wording(run):
    four = "Вопрос: {question}\nA. {option_a}\nB. {option_b}\nC. {option_c}\nD. {option_d}\nОтвет:"
    five = four.replace("{option_d}", "{option_d}\nE. {option_e}")
    for instruction in (four, five, four.replace("Ответ:", "Буква:"), four.replace("A. ", "A) ")):
        run.ask("B", doc=doc(instruction))
    run.score()
    assert sorted(groups(run, "instruction").values()) == [1, 1, 2]


def test_questions_are_grouped_by_the_number_of_their_options(run):
    run.ask("B", doc=doc(options="abcd"))
    run.ask("B", doc=doc(options="abcdef"))
    run.ask("B", doc=doc(options="abcdef"))
    run.score()
    assert groups(run, "num_options") == {"4": 1, "6": 2}
    assert [row["num_options"] for row in run.samples()] == [4, 6, 6]


def test_questions_are_grouped_by_one_or_several_right_answers(run):
    run.ask("B", gold="B")
    run.ask("A, B", gold="A, B")
    run.ask("C", gold="A, B")
    run.score()
    assert groups(run, "answer_kind") == {"single": 1, "multiple": 2}
    assert run.metric("correct", group_by="answer_kind", group="multiple")["value"] == 0.5


def test_a_hidden_gold_and_a_gold_without_letters_are_in_no_group_of_right_answers(run):
    run.ask("B", gold=None)
    run.ask("B", gold="сорок два")
    run.score()
    assert groups(run, "answer_kind") == {}
    assert [row["answer_kind"] for row in run.samples()] == [None, None]


def test_a_row_without_instruction_and_options_is_in_no_group(run):
    run.ask("B", doc='{"inputs": {"question": "?"}}')
    run.score()
    assert (groups(run, "instruction"), groups(run, "num_options")) == ({}, {})
    (sample,) = run.samples()
    assert (sample["instruction"], sample["num_options"]) == (None, None)


def test_a_failed_row_is_counted_in_the_groups_of_its_question(run):
    run.ask(None, doc=doc())
    run.change_last(error="engine died", finish_reason="error")
    run.score()
    (of_wording,) = [row for row in run.metrics() if (row["group_by"], row["metric"]) == ("instruction", "em")]
    assert (of_wording["num_total"], of_wording["num_failed"], of_wording["value"]) == (1, 1, None)
    assert groups(run, "answer_kind") == {"single": 1}


def test_a_category_with_the_name_of_a_built_in_group_has_a_prefix(run):
    run.ask("B", doc=doc(), categories={"num_options": "many", "categories.num_options": "few"})
    run.score()
    assert groups(run, "num_options") == {"4": 1}
    assert groups(run, "categories.num_options") == {"many": 1}
    assert groups(run, "categories.categories.num_options") == {"few": 1}


def test_the_query_of_the_docs_finds_the_text_of_a_wording(run):
    run.ask("B", doc=doc("Выберите: {question}\n{option_a}\n{option_b}\n{option_c}\nБуква:"))
    run.ask("C", doc=doc("Ответьте: {question}"))
    run.score()
    text = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    (query,) = [found for found in re.findall(r"```sql\n(.*?)```", text, flags=re.S) if "sha256" in found]
    rows = duckdb.sql(query.replace("outputs/run=*", run.store.root)).to_arrow_table().to_pylist()
    assert {(row["wording"], row["correct"]) for row in rows} == {
        ("Выберите: {question}\n{options}\nБуква:", 1),
        ("Ответьте: {question}", 0),
    }
