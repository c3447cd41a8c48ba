"""Validation of rows, and how their instruction is filled in."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.schema import TaskConfig
from pipeline.errors import DataError
from pipeline.prepare.question import fill, read_question

TASK = TaskConfig(dataset="x", domain="d")
MED = TaskConfig(dataset="x", domain="d", prompt_fields=("inputs",), strip=True)
names = st.text(string.ascii_letters + "_абв", min_size=1, max_size=6)


def read(row, task=TASK):
    return read_question("agro", task, "train", 7, row)


def test_an_instruction_is_filled_from_inputs_and_meta(make_row):
    row = make_row(5, instruction="№ {id}: {question} {categories}")
    assert read(row).text == "№ 5: Вопрос номер 5? {'topic': 'почва'}"


def test_a_task_without_meta_in_prompt_fields_does_not_know_meta(make_row):
    with pytest.raises(DataError) as error:
        read(make_row(5, instruction="{id}"), MED)
    assert str(error.value) == "agro train id=5: placeholder {id} is unknown: the row has option_a, question"


def test_only_a_task_with_strip_loses_its_outer_white_space(make_row):
    row = make_row(5, instruction="\n {question} \n", inputs={"question": " q "})
    assert (read(row).text, read(row, MED).text) == ("\n  q  \n", "q")


def test_a_name_in_both_inputs_and_meta_matters_only_where_both_are_used(make_row):
    row = make_row(5, instruction="{id}", inputs={"id": "five"})
    assert read(row, MED).text == "five"
    with pytest.raises(DataError) as error:
        read(row)
    assert str(error.value) == "agro train id=5: inputs and meta both have 'id': rename one of them"


def test_braces_in_values_are_kept(make_row):
    row = make_row(inputs={"question": "{option_a} {{x}} {0} } {", "option_a": "{question}"})
    assert read(row).text == "Вопрос: {option_a} {{x}} {0} } {\nA. {question}"


def test_doubled_braces_of_the_instruction_become_single_ones(make_row):
    assert read(make_row(instruction="{{{question}}} {{}}", inputs={"question": "q"})).text == "{q} {}"


def test_an_empty_answer_is_a_hidden_gold(make_row):
    assert (read(make_row(outputs="")).gold, read(make_row(outputs="B, C")).gold) == (None, "B, C")


def test_a_blank_answer_is_a_hidden_gold(make_row):
    assert read(make_row(5, outputs=" \n")).gold is None
    assert read(make_row(5, outputs=None)).gold is None


def test_a_key_with_the_value_none_counts_as_absent_and_is_not_in_the_doc(make_row):
    row = make_row(inputs={"question": "q", "option_a": "a", "option_e": None}, meta={"id": 1, "categories": None})
    question = read(row)
    assert (json.loads(question.doc)["inputs"], question.categories) == ({"question": "q", "option_a": "a"}, {})


def test_categories_become_strings(make_row):
    row = make_row(meta={"id": 1, "categories": {"level": 3, "open": True, "topic": "почва", "none": None}})
    assert read(row).categories == {"level": "3", "open": "True", "topic": "почва"}


def test_the_doc_is_the_whole_row_without_ascii_escapes(make_row):
    row = make_row(comment="ещё поле")
    question = read(row)
    assert json.loads(question.doc) == row
    assert "ещё поле" in question.doc


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


BAD_ROWS = [
    ({"meta": {"id": 5, "categories": {"a": float("nan")}}}, "id=5: meta.categories.a is nan: give a text"),
    ({"meta": {"id": 5, "categories": {"a": ["b"]}}}, "id=5: meta.categories.a is ['b']: give a text"),
    ({"meta": {"id": 5, "x": float("inf")}}, "id=5 cannot be written as JSON"),
    ({"meta": {"id": 5, "x": nested(5000)}}, "row 7 is nested too deep"),
    ({"instruction": ...}, "id=5: instruction is missing: give a text with {placeholders}"),
    ({"instruction": 3}, "id=5: instruction is 3: give a text with {placeholders}"),
    ({"inputs": ...}, "id=5: inputs is missing: give an object of texts"),
    ({"inputs": "question"}, "id=5: inputs is 'question': give an object of texts"),
    ({"inputs": {"question": 12}}, "id=5: inputs.question is 12: give a text"),
    ({"outputs": ...}, 'id=5: outputs is missing: give the right answer as a text; "" or null when it is hidden'),
    ({"outputs": ["A"]}, "id=5: outputs is ['A']: give the right answer as a text; \"\" or null when it is hidden"),
    ({"meta": ...}, "row 7: meta is missing: give an object with the row's id"),
    ({"meta": 5}, "row 7: meta is 5: give an object with the row's id"),
    ({"meta": {}}, "row 7: meta.id is missing: give an integer of 64 bits that is unique in the task"),
    ({"meta": {"id": "5"}}, "row 7: meta.id is '5': give an integer of 64 bits that is unique in the task"),
    ({"meta": {"id": True}}, "row 7: meta.id is True: give an integer of 64 bits that is unique in the task"),
    (
        {"meta": {"id": 2**63}},
        "row 7: meta.id is 9223372036854775808: give an integer of 64 bits that is unique in the task",
    ),
    ({"meta": {"id": 5, "categories": ["a"]}}, "id=5: meta.categories is ['a']: give an object of texts"),
    ({"instruction": "{option_z}"}, "id=5: placeholder {option_z} is unknown: the row has categories, id, option_a, "),
    ({"instruction": "{question.__class__}"}, "id=5: placeholder {question.__class__} reads into a value: only "),
    ({"instruction": "{question[0]}"}, "id=5: placeholder {question[0]} reads into a value: only plain names are "),
    ({"instruction": "{}"}, "id=5: placeholder {} is positional: give the name of an input"),
    ({"instruction": "{0}"}, "id=5: placeholder {0} is positional: give the name of an input"),
    ({"instruction": "{question!r}"}, "id=5: placeholder {question!r} has a format: only plain names are filled in"),
    ({"instruction": "{question:>999999999}"}, "id=5: placeholder {question:>999999999} has a format: only plain "),
    ({"instruction": "{question"}, "id=5: instruction has unbalanced braces (expected '}' before end of string): "),
    ({"instruction": "question}"}, "id=5: instruction has unbalanced braces (Single '}' encountered in format "),
    (
        {"inputs": {"question": "a\ud800", "option_a": ""}},
        "id=5: '\\ud800' is half of a character (a lone surrogate): correct or drop it",
    ),
    ({"instruction": "{" + "x" * 99 + "}"}, "id=5: placeholder {" + "x" * 57 + "...} is unknown: the row has "),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS, ids=[message[:48] for _, message in BAD_ROWS])
def test_an_invalid_row_is_one_line_with_the_task_the_id_and_the_fix(make_row, change, message):
    with pytest.raises(DataError) as error:
        read(make_row(5, **change))
    text = str(error.value)
    assert text.startswith(f"agro train {message}")
    assert "\n" not in text


@given(st.dictionaries(names, st.text(max_size=20), min_size=1), st.data())
def test_plain_placeholders_are_filled_as_format_fills_them(values, data):
    piece = st.one_of(
        st.sampled_from([f"{{{name}}}" for name in values]),
        st.text(max_size=10).map(lambda text: text.replace("{", "{{").replace("}", "}}")),
    )
    instruction = "".join(data.draw(st.lists(piece)))
    assert fill("row", instruction, values, {}) == instruction.format(**values)


@given(st.text(alphabet="{}ab.![0]: ", max_size=12))
def test_an_instruction_is_filled_as_format_fills_it_or_rejected(instruction):
    values = {"a": "1", "b": "2"}
    try:
        filled = fill("row", instruction, values, {})
    except DataError:
        return
    assert filled == instruction.format(**values)
