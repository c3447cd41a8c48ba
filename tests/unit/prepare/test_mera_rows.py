"""MERA Industrial at its real size, from local copies in the hub's layout, with conf=mera."""

import json
from collections import Counter

import pytest

from pipeline.config.loading import compose
from pipeline.errors import DataError
from pipeline.prepare import prepare
from pipeline.records import PROMPT_SCHEMA

SIZES = {"agro_bench": (293, 2642), "aqua_bench": (110, 992), "med_bench": (510, 4590)}
NAMES = {"agro_bench": "ruTXTAgroBench", "aqua_bench": "ruTXTAquaBench", "med_bench": "ruTXTMedQFundamental"}


def make_row(task, row_id, is_test):
    """Return a synthetic row: 4 options in medicine, 4 to 8 elsewhere, and a question with braces."""
    num_options = 4 if task == "med_bench" else 4 + row_id % 5
    options = {f"option_{letter}": f"вариант {letter} №{row_id}" for letter in "abcdefgh"[:num_options]}
    lines = "\n".join(f"{key[-1].upper()}. {{{key}}}" for key in options)
    number = "" if task == "med_bench" else "№ {id}. "
    return {
        "instruction": f"  {number}{{question}}\n{lines}\nОтвет: ",
        "inputs": {"question": f"Что верно о {{поле}} {row_id}? " + "Условие опыта. " * (row_id % 10), **options},
        "outputs": "" if is_test else "A, C",
        "meta": {"id": row_id, "categories": {"topic": f"тема {row_id % 7}"}},
    }


@pytest.fixture
def mera(tmp_path, write_rows, tokenizer_dir):
    """The arguments of conf=mera with local copies of its data sets and the tests' tokenizer."""
    arguments = ["conf=mera", f"model.path={tokenizer_dir}", "prompt.expected_fingerprint=null"]
    for task, (num_train, num_test) in SIZES.items():
        directory = tmp_path / "MERA-evaluation" / NAMES[task]
        for split, first, num_rows in (("train", 1, num_train), ("test", num_train + 1, num_test)):
            rows = [make_row(task, row_id, split == "test") for row_id in range(first, first + num_rows)]
            write_rows(directory / "data" / f"{split}-00000-of-00001.parquet", rows)
        arguments.append(f"tasks.{task}.dataset={directory}")
    return arguments


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("at_root")
def test_the_whole_benchmark_is_prepared_by_its_rules(mera, run):
    prepare(compose(mera), run)
    rows = run.artifact("prompts", PROMPT_SCHEMA).dataset().to_table().to_pylist()
    sizes = {(task, split): n for task, both in SIZES.items() for split, n in zip(("train", "test"), both, strict=True)}
    assert Counter((row["task"], row["split"]) for row in rows) == sizes
    assert len({(row["task"], row["id"]) for row in rows}) == sum(sizes.values()) == 913 + 8224
    assert {row["error"] for row in rows} == {None}
    assert {(row["split"], row["gold"]) for row in rows} == {("train", "A, C"), ("test", None)}
    for row in rows:
        doc = json.loads(row["doc"])
        assert doc == make_row(row["task"], row["id"], row["split"] == "test")
        is_med = row["task"] == "med_bench"
        text = doc["instruction"].format(**doc["inputs"], **({} if is_med else doc["meta"]))
        assert json.loads(row["messages"]) == [{"role": "user", "content": text.strip() if is_med else text}]
        assert row["prompt"].endswith("<|im_start|>assistant\n<think>\n")


@pytest.mark.usefixtures("at_root")
def test_without_a_hub_the_first_data_set_is_reported_with_the_fix(run):
    with pytest.raises(DataError) as error:
        prepare(compose(["conf=mera"]), run)
    assert str(error.value).startswith("tasks.agro_bench.dataset='MERA-evaluation/ruTXTAgroBench': ")
    assert str(error.value).endswith(
        "Put a copy of the data set (train.jsonl, test.jsonl) in a directory and set tasks.agro_bench.dataset=<dir>"
    )
