"""Lengths of prompts against Python's own statistics, and the rows that are picked."""

import statistics

import pytest

from pipeline.config.loading import compose
from pipeline.prepare import prepare
from pipeline.prepare.prompt_stats import MOST_IDS, lengths, pick
from pipeline.records import PROMPT_SCHEMA


@pytest.fixture
def stage(words, run, dataset, make_row, write_rows):
    """Prepare train rows 1 to 40 and test rows 101 to 160 of growing length; return the stage and its rows."""

    def make(*more):
        sized = [make_row(number, inputs={"question": "x" * number, "option_a": "да"}) for number in range(1, 161)]
        write_rows(dataset / "train.jsonl", sized[:40])
        write_rows(dataset / "test.jsonl", sized[100:][::-1])
        prepare(compose([*words, *more]), run)
        found = run.artifact("prompts", PROMPT_SCHEMA)
        return found, found.dataset().to_table().to_pylist()

    return make


def test_lengths_are_those_of_the_prompts_tokens(stage):
    found, rows = stage()
    for each in lengths(found, in_tokens=True):
        sizes = sorted(row["num_prompt_tokens"] for row in rows if row["split"] == each.split)
        assert (each.task, each.num_rows, each.least, each.most) == ("agro", len(sizes), sizes[0], sizes[-1])
        assert each.mean == pytest.approx(statistics.mean(sizes))
        assert each.median == statistics.median(sizes)
        assert each.p95 == sizes[-(-95 * len(sizes) // 100) - 1]
        assert (each.num_unfit, list(each.unfit_ids), each.num_failed) == (0, [], 0)


def test_rows_that_do_not_fit_are_counted_with_the_first_ids(stage):
    _, rows = stage()
    sizes = {row["id"]: row["num_prompt_tokens"] for row in rows}
    room = sizes[105] + 100  # generation.max_gen_toks is 100
    found, _ = stage(f"model.context_size={room}")
    train, test = sorted(lengths(found, in_tokens=True), key=lambda each: each.split == "test")
    assert (train.num_unfit, test.num_unfit) == (0, 55)
    assert list(test.unfit_ids) == list(range(106, 106 + MOST_IDS))


def test_rows_that_the_template_refuses_are_told_from_those_that_do_not_fit(stage, tmp_path):
    template = tmp_path / "picky.jinja"
    template.write_text("{% if 'xxxx' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}ok")
    found, _ = stage(f"prompt.chat_template={template}")
    train, test = sorted(lengths(found, in_tokens=True), key=lambda each: each.split == "test")
    assert (train.num_rows, train.num_failed, train.num_unfit) == (40, 37, 0)
    assert (test.num_failed, test.least, test.median) == (60, None, None)


def test_an_endpoints_prompts_are_measured_in_characters(stage, endpoint):
    found, rows = stage(*endpoint)
    (test,) = [each for each in lengths(found, in_tokens=False) if each.split == "test"]
    assert test.most == max(len(row["messages"]) for row in rows)


def test_prompts_are_picked_in_the_order_of_the_data_set(stage):
    found, _ = stage()
    assert [row["id"] for row in pick(found, "agro", ("train", "test"), 3, None)] == [1, 2, 3]
    assert [row["id"] for row in pick(found, "agro", ("test",), 2, None)] == [160, 159]
    assert [row["id"] for row in pick(found, "agro", ("train", "test"), 41, None)][-1] == 160
    assert pick(found, "agro", ("train",), 0, None) == []


def test_a_prompt_is_picked_by_its_id(stage):
    found, _ = stage()
    assert [(row["split"], row["id"]) for row in pick(found, "agro", ("train", "test"), 1, 130)] == [("test", 130)]
    assert pick(found, "agro", ("train", "test"), 1, 99) == []
