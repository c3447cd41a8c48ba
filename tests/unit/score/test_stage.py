"""The score stage over real files: every completion becomes one sample, and unknown values are null."""

from dataclasses import replace

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import DataError
from pipeline.records import METRIC_SCHEMA, SAMPLE_SCHEMA
from pipeline.score import join, stage
from pipeline.score.row_scores import read_doc
from pipeline.storage.artifacts import ArtifactStore

PARTS = ["response", "answer", "extraction", "em", "f1", "correct"]


def parts(sample):
    return [sample[name] for name in PARTS]


def test_a_right_answer_is_a_sample_with_its_scores(run):
    run.ask("\n B")
    run.score()
    (sample,) = run.samples()
    assert parts(sample) == ["B", "B", "bare_letters", 1.0, 1.0, 1.0]


def test_a_sample_has_the_columns_of_its_prompt_and_its_completion(run):
    run.ask("Думаю.</think>B")
    run.change_last(reasoning="Думаю.", content="B", replica="r7", num_output_tokens=5, attempts=2)
    run.score()
    (sample,) = run.samples()
    assert (sample["id"], sample["repeat"], sample["prompt_sha256"], sample["messages"]) == (1, 0, "s", "[]")
    assert (sample["prompt"], sample["gold"], sample["categories"]) == ("Q", "B", [{"key": "topic", "value": "soil"}])
    assert (sample["completion"], sample["reasoning"], sample["response"]) == ("Думаю.</think>B", "Думаю.", "B")
    assert (sample["replica"], sample["num_output_tokens"], sample["attempts"]) == ("r7", 5, 2)


def test_samples_and_metrics_have_exactly_their_schemas(run):
    run.ask("B")
    run.score()
    (file,) = run.store.files("samples", ".parquet")
    assert file == "samples/task=agro/split=train/part-00000.parquet"
    assert pq.ParquetFile(run.store.path(file)).schema_arrow.equals(SAMPLE_SCHEMA)
    assert pq.ParquetFile(run.store.path("metrics.parquet")).schema_arrow.equals(METRIC_SCHEMA)


def test_the_exact_metrics_compare_the_whole_response_and_the_letters_metric_its_letters(run):
    run.ask("Ответ: B")
    run.score()
    assert parts(run.samples()[0])[1:] == ["B", "answer_prefix", 0.0, pytest.approx(2 / 3), 1.0]


def test_an_empty_response_to_the_gold_a_is_right_by_the_exact_metrics_and_wrong_by_the_letters_metric(run):
    run.ask("", gold="A")
    run.score()
    assert parts(run.samples()[0]) == ["", None, "empty", 1.0, 1.0, 0.0]


def test_with_a_hidden_gold_the_scores_are_null_and_the_answer_is_extracted(run):
    run.ask("B", gold=None, split="test")
    run.score()
    assert parts(run.samples("task=agro/split=test")[0]) == ["B", "B", "bare_letters", None, None, None]


def test_a_failed_row_has_no_response_no_answer_and_no_scores(run):
    run.ask(None)
    run.change_last(error="HTTP 500", finish_reason="error")
    run.score()
    assert parts(run.samples()[0]) == [None, None, "failed", None, None, None]


def test_unclosed_reasoning_is_an_empty_response_without_an_answer(run):
    run.ask(None, gold="C")
    run.change_last(completion="Ответ: C", reasoning="Ответ: C", finish_reason="length")
    run.score()
    assert parts(run.samples()[0]) == ["", None, "truncated", 0.0, 0.0, 0.0]


def test_a_gold_that_is_no_option_leaves_the_letters_metric_null(run):
    run.ask("B", gold="сорок два")
    run.score()
    assert parts(run.samples()[0])[3:] == [0.0, 0.0, None]


def test_several_right_letters_are_compared_as_a_set(run):
    run.ask("C, B", gold="B, C")
    run.score()
    assert parts(run.samples()[0])[3:] == [0.0, 1.0, 1.0]


def test_samples_are_sorted_by_id_and_repeat_whatever_the_order_of_the_completions(run):
    run.repeats = 2
    for _ in range(3):
        run.ask("A", "B")
    run.completions.reverse()
    run.score()
    assert [(row["id"], row["repeat"], row["response"]) for row in run.samples()] == [
        (key, repeat, "AB"[repeat]) for key in (1, 2, 3) for repeat in (0, 1)
    ]


def test_the_same_id_in_two_tasks_is_two_questions(run):
    run.domains = {"agro": "agriculture", "aqua": "agriculture"}
    run.ask("A")
    run.ask("B", task="aqua")
    run.prompts[1] = replace(run.prompts[1], id=1)
    run.change_last(id=1)
    run.score()
    assert [row["response"] for row in run.samples()] == ["A"]
    assert [row["response"] for row in run.samples("task=aqua/split=train")] == ["B"]


def test_a_large_task_is_split_into_files_that_hold_all_rows_in_order(run):
    run.repeats = 2
    for _ in range(5):
        run.ask("B", "C")
    run.prompts.reverse()
    run.score(rows_per_file=5)  # two questions of two repeats each
    files = run.store.files("samples", ".parquet")
    assert [name[-18:] for name in files] == [f"part-0000{number}.parquet" for number in range(3)]
    assert [row["id"] for row in run.samples()] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_partition_names_in_the_path_of_the_run_are_ignored(run):
    run.ask("B")
    run.store = run.store.child("task=other/split=dev/run=test")
    run.store.create()
    run.score()
    assert run.metric("em")["value"] == 1.0


def test_a_run_in_object_storage_is_scored_the_same(run):
    run.ask("B")
    run.store = ArtifactStore(pafs.PyFileSystem(pafs.FSSpecHandler(MemoryFileSystem())), f"/bucket{run.store.root}")
    run.store.create()
    run.score()
    run.score()
    assert [row["response"] for row in run.samples()] == ["B"]
    files = run.store.files()
    assert "metrics.parquet" in files
    assert not [name for name in files if ".metrics" in name]


def test_if_scoring_fails_the_previous_samples_and_metrics_stay(run):
    run.ask("B")
    run.score()
    run.change_last(content="C")
    run.prompts[0] = replace(run.prompts[0], doc="no JSON")
    with pytest.raises(DataError, match="a row of prompts/ has a doc that is not JSON: 'no JSON'"):
        run.score()
    assert [row["response"] for row in run.samples()] == ["B"]
    assert run.metric("em")["value"] == 1.0


def test_rescoring_replaces_the_samples_and_metrics(run):
    run.ask("B")
    run.score()
    run.change_last(content="C")
    run.score()
    assert [row["response"] for row in run.samples()] == ["C"]
    assert run.metric("em")["value"] == 0.0
    assert sorted(run.store.files()) == [
        "completions/_stage.json",
        "completions/part-00000.parquet",
        "metrics.parquet",
        "prompts/_stage.json",
        "prompts/part-00000.parquet",
        "samples/_stage.json",
        "samples/task=agro/split=train/part-00000.parquet",
    ]


def test_scoring_twice_gives_the_same_bytes(run):
    for number in range(50):
        run.ask("Ответ: B" if number % 3 else "B")
    run.score()
    first = (run.store.local / "metrics.parquet").read_bytes()
    run.score()
    assert (run.store.local / "metrics.parquet").read_bytes() == first


def _lose(run):
    run.completions.pop()


def _double(run):
    run.completions.append(run.completions[0])


def _invent(run):
    run.completions.append(replace(run.completions[0], id=99))


def _swap_one_for_a_double(run):
    run.completions[1] = run.completions[0]


def _double_prompt(run):
    run.prompts.append(run.prompts[0])


def _repeat_too_often(run):
    run.change_last(repeat=1)


def _answer_another_prompt(run):
    run.change_last(prompt_sha256="another")


@pytest.mark.parametrize("keys_at_once", [join.KEYS_AT_ONCE, 1])
@pytest.mark.parametrize(
    ("damage", "count"),
    [
        (_lose, "num_lost=1"),
        (_double, "num_completions_twice=1"),
        (_invent, "num_unasked=1"),
        (_swap_one_for_a_double, "num_lost=1"),
        (_double_prompt, "num_prompts_twice=1"),
        (_repeat_too_often, "num_beyond_repeats=1"),
        (_answer_another_prompt, "num_other_prompt=1"),
    ],
)
def test_completions_that_do_not_match_the_prompts_raise_with_the_counts(run, damage, count, keys_at_once, monkeypatch):
    monkeypatch.setattr(join, "KEYS_AT_ONCE", keys_at_once)
    for _ in range(3):
        run.ask("B")
    damage(run)
    with pytest.raises(RuntimeError, match=count):
        run.score()
    assert not run.store.exists("samples")


@pytest.mark.parametrize("missing", ["prompts", "completions"])
def test_a_missing_artifact_is_named_with_the_fix(run, missing):
    run.ask("B")
    run.publish()
    run.store.remove(missing)
    with pytest.raises(DataError, match=rf"{missing} is missing: .*run_id"):
        stage.score(run.store, run.config)


def test_rows_of_a_task_that_is_not_configured_are_rejected(run):
    run.ask("B")
    run.domains = {"other": "medicine"}
    with pytest.raises(DataError, match="rows of task 'agro'"):
        run.score()


def test_the_options_are_the_inputs_that_hold_text():
    found = read_doc('{"inputs": {"question": "?", "option_a": "1", "option_b": "2", "option_c": " "}}')
    assert (found.options, found.num_options) == ("AB", 2)


def test_a_row_without_options_may_have_up_to_eight():
    found = read_doc('{"inputs": {"question": "?"}}')
    assert (found.options, found.num_options) == ("ABCDEFGH", None)
