"""Reference answers that no answer can match are a warning; hidden ones of the test split are not."""

import pytest

from pipeline.config.loading import compose
from pipeline.prepare import checks, prepare
from pipeline.records import PROMPT_SCHEMA

OPTIONS = {"question": "Что?", "option_a": "да", "option_b": "нет", "option_c": " "}


@pytest.fixture
def warnings(arguments, dataset, make_row, write_rows, run):
    """Return a function that prepares a training split with these reference answers and returns its warnings."""

    def of(*references):
        rows = [make_row(10 + place, inputs=OPTIONS, outputs=outputs) for place, outputs in enumerate(references)]
        write_rows(dataset / "train.jsonl", rows)
        config = compose(arguments)
        prepare(config, run)
        lines = checks.warnings(config, run.artifact("prompts", PROMPT_SCHEMA))
        return [line for line in lines if line.startswith("odd-references")]

    return of


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("A", None),
        ("A, B", None),
        ("b", None),
        (" A ", None),
        ("да", None),
        ("В почве", None),
        (None, "1 reference answer hidden in train (null or empty): their rows have no score (id 11)"),
        (" ", "1 reference answer hidden in train"),
        ("А", "1 reference answer in letters of another alphabet, such as a Cyrillic А: no Latin answer matches them"),
        ("A, С", "1 reference answer in letters of another alphabet"),
        ("D", "1 reference answer with a letter that the row has no option for (id 11)"),
        ("A, C", "1 reference answer with a letter that the row has no option for"),
    ],
)
def test_an_odd_reference_answer_is_a_warning(warnings, reference, words):
    found = warnings("A", reference)
    if words is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"odd-references: agro: {words}")


def test_hidden_answers_of_the_test_split_are_as_they_should_be(warnings):
    assert warnings("A", "B") == []
