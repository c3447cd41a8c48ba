"""Data sets that are odd as a whole: read where what they say is clear, else one line with the file and the fix."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.loading import compose
from pipeline.errors import DataError
from pipeline.prepare import prepare
from pipeline.records import PROMPT_SCHEMA


def _link(file):
    file.unlink()
    file.symlink_to("/nowhere")


def _fifo(file):
    file.unlink()
    os.mkfifo(file)


def _upper(file):
    file.rename(file.with_name("TEST.JSONL"))


def _twice(file):
    text = json.dumps(json.loads(file.read_text().splitlines()[0]))
    file.write_text(text[:-1] + ', "outputs": "B"}')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_link, r"there is no split 'test', only train \(test\.jsonl is a link to nothing\)"),
        (_fifo, r"\(test\.jsonl is no regular file\)"),
        (_upper, r"\(TEST\.JSONL is none of \.json, \.jsonl, \.parquet\)"),
        (_twice, r"test\.jsonl cannot be read: line 1 .*the key 'outputs' is given twice"),
    ],
)
def test_a_file_that_is_not_read_is_told_with_the_reason(arguments, dataset, run, spoil, words):
    spoil(dataset / "test.jsonl")
    with pytest.raises(DataError, match=words):
        prepare(compose(arguments), run)


def test_a_column_that_is_there_twice_is_refused(arguments, dataset, make_row, run):
    table = pa.Table.from_pylist([make_row(2)])
    pq.write_table(table.append_column("outputs", table["outputs"]), dataset / "test.parquet")
    (dataset / "test.jsonl").unlink()
    with pytest.raises(DataError, match=r"test\.parquet cannot be read: the key 'outputs' is given twice"):
        prepare(compose(arguments), run)


def test_splits_may_have_other_formats(arguments, dataset, make_row, write_rows, run):
    (dataset / "test.jsonl").unlink()
    write_rows(dataset / "test.parquet", [make_row(2, outputs=None)])
    prepare(compose(arguments), run)
    assert run.artifact("prompts", PROMPT_SCHEMA).num_rows == 2


@pytest.mark.parametrize("instruction", ["", " \n", "{empty}"])
def test_an_empty_question_is_refused(arguments, dataset, make_row, write_rows, run, instruction):
    write_rows(dataset / "train.jsonl", [make_row(7, instruction=instruction, inputs={"empty": " "})])
    with pytest.raises(DataError, match=r"agro train id=7: the question is empty"):
        prepare(compose(arguments), run)
