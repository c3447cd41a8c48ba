"""Lengths of prompts compared with Python's `statistics`, and the selection of rows."""

import statistics

import pytest

from pipeline.config.loading import compose
from pipeline.prepare import prepare
from pipeline.prepare.prompt_stats import MAX_IDS, lengths, pick
from pipeline.records import PROMPT_SCHEMA


@pytest.fixture
def make_prompts(arguments, run, dataset, make_row, write_rows):
    """Prepare train rows 1 to 40 and test rows 101 to 160 of growing length; return the artifact and its rows."""

    def make(*overrides):
        sized = [make_row(number, inputs={"question": "x" * number, "option_a": "да"}) for number in range(1, 161)]
        write_rows(dataset / "train.jsonl", sized[:40])
        write_rows(dataset / "test.jsonl", sized[100:][::-1])
        prepare(compose([*arguments, *overrides]), run)
        found = run.artifact("prompts", PROMPT_SCHEMA)
        return found, found.dataset().to_table().to_pylist()

    return make


def test_lengths_are_counts_of_prompt_tokens(make_prompts):
    found, rows = make_prompts()
    for each in lengths(found, in_tokens=True):
        sizes = sorted(row["num_prompt_tokens"] for row in rows if row["split"] == each.split)
        assert (each.task, each.num_rows, each.least, each.most) == ("agro", len(sizes), sizes[0], sizes[-1])
        assert each.mean == pytest.approx(statistics.mean(sizes))
        assert each.median == statistics.median(sizes)
        assert each.p95 == sizes[-(-95 * len(sizes) // 100) - 1]
        assert (each.num_unfit, list(each.unfit_ids), each.num_failed) == (0, [], 0)


def test_rows_that_do_not_fit_are_counted_with_the_first_ids(make_prompts):
    _, rows = make_prompts()
    sizes = {row["id"]: row["num_prompt_tokens"] for row in rows}
    context_size = sizes[105] + 100  # generation.max_gen_toks is 100
    found, _ = make_prompts(f"model.context_size={context_size}")
    train, test = sorted(lengths(found, in_tokens=True), key=lambda each: each.split == "test")
    assert (train.num_unfit, test.num_unfit) == (0, 55)
    assert list(test.unfit_ids) == list(range(106, 106 + MAX_IDS))


def test_rows_on_which_the_template_fails_are_distinguished_from_those_that_do_not_fit(make_prompts, tmp_path):
    template = tmp_path / "picky.jinja"
    template.write_text(
        "{% if 'xxxx' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}{{ messages[0]['content'] }}"
    )
    found, _ = make_prompts(f"prompt.chat_template={template}")
    train, test = sorted(lengths(found, in_tokens=True), key=lambda each: each.split == "test")
    assert (train.num_rows, train.num_failed, train.num_unfit) == (40, 37, 0)
    assert (test.num_failed, test.least, test.median) == (60, None, None)


def test_an_endpoints_prompts_are_measured_in_characters(make_prompts, endpoint):
    found, rows = make_prompts(*endpoint)
    (test,) = [each for each in lengths(found, in_tokens=False) if each.split == "test"]
    assert test.most == max(len(row["messages"]) for row in rows)


def test_prompts_are_picked_in_the_order_of_the_data_set(make_prompts):
    found, _ = make_prompts()
    assert [row["id"] for row in pick(found, "agro", ("train", "test"), 3, None)] == [1, 2, 3]
    assert [row["id"] for row in pick(found, "agro", ("test",), 2, None)] == [160, 159]
    assert [row["id"] for row in pick(found, "agro", ("train", "test"), 41, None)][-1] == 160
    assert pick(found, "agro", ("train",), 0, None) == []


def test_a_prompt_is_picked_by_its_id(make_prompts):
    found, _ = make_prompts()
    assert [(row["split"], row["id"]) for row in pick(found, "agro", ("train", "test"), 1, 130)] == [("test", 130)]
    assert pick(found, "agro", ("train", "test"), 1, 99) == []
