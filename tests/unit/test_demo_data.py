"""The demo data keep MERA's layout, and the demo model's directory is what the engine expects of it."""

import importlib
import itertools
import json
import re
import string
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

DEMO = Path(__file__).parents[2] / "data" / "demo"
MODEL = DEMO / "model"
TASKS = ("agro_bench", "aqua_bench", "med_bench")
SPLITS = ("train", "test")

Row = dict[str, Any]


def read(task: str, split: str) -> list[Row]:
    """Return the rows of one committed file."""
    return [json.loads(line) for line in (DEMO / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def rows_of(task: str) -> list[Row]:
    """Return the rows of both splits."""
    return [row for split in SPLITS for row in read(task, split)]


def placeholders(instruction: str) -> list[str]:
    """Return the names in braces, in order."""
    return [name for _, name, _, _ in string.Formatter().parse(instruction) if name is not None]


def options_of(row: Row) -> list[str]:
    """Return the keys of the options, in order."""
    return [key for key in row["inputs"] if key != "question"]


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    """Import the generator as the demo's scripts import each other: from their directory."""
    sys.path.insert(0, str(DEMO))
    yield importlib.import_module("generate")
    sys.path.remove(str(DEMO))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Load the committed tokenizer as any user's code would load it."""
    return AutoTokenizer.from_pretrained(MODEL, trust_remote_code=False)


def test_splits_are_large_enough_for_a_demo() -> None:
    assert sum(len(read(task, "test")) for task in TASKS) >= 150
    assert sum(len(read(task, "train")) for task in TASKS) >= 30


@pytest.mark.parametrize("task", TASKS)
def test_a_row_has_the_keys_of_the_layout(task: str) -> None:
    for row in rows_of(task):
        assert list(row) == ["instruction", "inputs", "outputs", "meta"]
        assert next(iter(row["inputs"])) == "question"
        assert all(isinstance(text, str) and text for text in row["inputs"].values())
        assert isinstance(row["meta"]["id"], int)
        assert len(row["meta"]["categories"]) == 2
        assert all(isinstance(value, str) and value for value in row["meta"]["categories"].values())


@pytest.mark.parametrize("task", TASKS)
def test_ids_are_unique_across_the_splits_of_a_task(task: str) -> None:
    ids = Counter(row["meta"]["id"] for row in rows_of(task))
    assert max(ids.values()) == 1


@pytest.mark.parametrize("task", TASKS)
def test_instruction_names_the_question_and_exactly_the_options_of_its_row(task: str) -> None:
    for row in rows_of(task):
        names = Counter(placeholders(row["instruction"]))
        names.pop("id", None)
        assert names == Counter(row["inputs"].keys())


def test_only_agro_and_aqua_take_a_placeholder_from_meta() -> None:
    asking = {task for task in TASKS for row in rows_of(task) if "id" in placeholders(row["instruction"])}
    assert asking == {"agro_bench", "aqua_bench"}


@pytest.mark.parametrize("task", TASKS)
def test_instructions_are_spread_evenly_over_the_questions(task: str) -> None:
    wordings = Counter(re.sub(r"[A-H][.)] \{option_[a-h]\}\n?", "", row["instruction"]) for row in rows_of(task))
    assert len(wordings) >= 3
    assert max(wordings.values()) - min(wordings.values()) <= 2


def test_some_med_instructions_need_stripping() -> None:
    instructions = [row["instruction"] for row in rows_of("med_bench")]
    assert any(text != text.lstrip() for text in instructions)
    assert any(text != text.rstrip() for text in instructions)
    assert any(text == text.strip() for text in instructions)


@pytest.mark.parametrize(
    ("task", "counts"), [("agro_bench", {4, 5, 6, 7, 8}), ("aqua_bench", {4, 5, 6, 7, 8}), ("med_bench", {4})]
)
def test_options_are_distinct_lettered_in_order_and_as_many_as_the_task_has(task: str, counts: set[int]) -> None:
    for row in rows_of(task):
        keys = options_of(row)
        assert keys == [f"option_{letter}" for letter in "abcdefgh"[: len(keys)]]
        assert len({row["inputs"][key] for key in keys}) == len(keys)
    assert {len(options_of(row)) for row in rows_of(task)} == counts


@pytest.mark.parametrize("task", TASKS)
def test_gold_is_canonical_and_names_options_of_its_row(task: str) -> None:
    for row in rows_of(task):
        letters = row["outputs"].split(", ")
        assert letters == sorted(set(letters))
        assert {f"option_{letter.lower()}" for letter in letters} <= set(options_of(row))


def test_med_has_one_correct_option_and_the_others_sometimes_several() -> None:
    several = {task: sum("," in row["outputs"] for row in rows_of(task)) for task in TASKS}
    assert several["med_bench"] == 0
    assert several["agro_bench"] > 0
    assert several["aqua_bench"] > 0


@pytest.mark.parametrize("task", TASKS)
def test_some_questions_have_braces_and_quotes(task: str) -> None:
    questions = [row["inputs"]["question"] for row in read(task, "test")]
    assert any("{" in text and "}" in text for text in questions)
    assert any('"' in text for text in questions)


def test_generator_reproduces_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(DEMO / "generate.py"), "--output", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    for task, split in itertools.product(TASKS, SPLITS):
        assert (tmp_path / task / f"{split}.jsonl").read_bytes() == (DEMO / task / f"{split}.jsonl").read_bytes()


def test_no_question_is_repeated(generator: ModuleType) -> None:
    for task in TASKS:
        identities = [generator.identity(row) for row in rows_of(task)]
        assert len(set(identities)) == len(identities)


def test_identity_ignores_instruction_id_and_order_of_options(generator: ModuleType) -> None:
    row = read("med_bench", "test")[0]
    inputs = row["inputs"]
    swapped = {**inputs, "option_a": inputs["option_b"], "option_b": inputs["option_a"]}
    other = {**row, "instruction": "{question}", "inputs": swapped, "meta": {"id": 0}}
    assert generator.identity(other) == generator.identity(row)
    assert generator.identity({**row, "inputs": {**inputs, "option_a": "0"}}) != generator.identity(row)


def test_training_rows_exclude_held_out_questions(generator: ModuleType) -> None:
    first = [generator.identity(example.row) for example in itertools.islice(generator.training_examples(1, set()), 60)]
    held_out = set(first[:30])
    kept = [
        generator.identity(example.row) for example in itertools.islice(generator.training_examples(1, held_out), 30)
    ]
    assert held_out.isdisjoint(kept)
    assert kept == first[30:]


def test_training_rows_of_the_model_are_not_in_the_demo(generator: ModuleType) -> None:
    train = importlib.import_module("train")  # in the path that the generator fixture adds
    demo = {generator.identity(row) for task in TASKS for row in rows_of(task)}
    taught = (generator.identity(example.row) for example in itertools.islice(train.taught_examples(), 600))
    assert demo.isdisjoint(taught)


def test_the_model_directory_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= set(files)
    assert sum(files.values()) < 5_000_000


@pytest.mark.parametrize(
    "text",
    [
        "В хозяйстве «Заря» было 67 т ржи.",
        "  spaces \t tabs\n\n\nlines\r\n ",
        "ЩЁЛОЧЬ ё Ъ 漢字 🐟 \u0301 \x00 \ufeff m³ ½",
        "{question} {0[1]} </s> <|im_start|>system<|im_end|><think></think>",
    ],
)
def test_the_tokenizer_round_trips_any_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tokenizer_round_trips_every_character_of_the_basic_plane(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "".join(chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_digit_is_always_a_token_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = [tokenizer.decode([token]) for token in tokenizer("было 1907 ц, осталось 42")["input_ids"]]
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("190742")


def test_think_tags_are_single_tokens_that_stay_in_decoded_text(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("<think>7</think>B<|im_end|>")["input_ids"]
    assert len(ids) == 5
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>7</think>B"


@pytest.mark.parametrize(
    ("kwargs", "ending"),
    [
        ({}, "<|im_start|>assistant\n<think>\n"),
        ({"enable_thinking": True}, "<|im_start|>assistant\n<think>\n"),
        ({"enable_thinking": False}, "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ],
)
def test_the_template_opens_the_reasoning_or_closes_it_at_once(
    tokenizer: PreTrainedTokenizerFast, kwargs: dict[str, bool], ending: str
) -> None:
    messages = [{"role": "system", "content": "Будь краток."}, {"role": "user", "content": " 2+2? \n"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **kwargs)
    assert text == f"<|im_start|>system\nБудь краток.<|im_end|>\n<|im_start|>user\n 2+2? \n<|im_end|>\n{ending}"


def test_the_template_omits_the_reasoning_of_previous_turns(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "assistant", "content": "<think>\nдва\n</think>\n\nB"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|im_start|>assistant\nB<|im_end|>\n"
