"""Tokens and time are estimated from a past run; the tests write the past runs by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from builders import make_prompt, publish_prompts, record_manifest, settings

from pipeline.config import loading
from pipeline.records import PROMPT_SCHEMA, SAMPLE_SCHEMA, to_table
from pipeline.runs.estimate import expect
from pipeline.storage.artifacts import Artifact, ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

PROMPTS = [make_prompt(number) for number in range(1, 5)]


@pytest.fixture
def prompts(tmp_path: Path) -> Artifact:
    """The prompts of the next run: 1 to 4 of agro_bench."""
    run = ArtifactStore.open(str(tmp_path / "next"))
    publish_prompts(run, PROMPTS)
    return run.require_artifact("prompts", PROMPT_SCHEMA)


@pytest.fixture
def write_past_run(tmp_path: Path) -> Callable[..., ArtifactStore]:
    """Write runs of 1 to 4 with 100, 200, 300 and 400 tokens, which took 100 s on one engine that started in 20 s."""

    def make(
        run_id: str, *overrides: str, ended_at: str = "2026-11-20T00:00:00Z", question: str = "Что?", **changes: Any
    ):
        run = ArtifactStore.open(f"{tmp_path}/outputs/run={run_id}")
        rows = [
            sample(replace(make_prompt(number, question=question)), tokens=100 * number, length=number == 4)
            for number in range(1, 5)
        ]
        run.create()
        with run.publish("samples", SAMPLE_SCHEMA) as store:
            table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
            store.write_parts("task=agro_bench/split=test", SAMPLE_SCHEMA, [table], 100)
        run.write_text("config.yaml", loading.dump(settings(f"run_id={run_id}", "engine.endpoint.model=m", *overrides)))
        content = {
            "ended_at": ended_at,
            "counts": {"num_output_tokens": 1000},
            "timings_s": {"generate": 120.0},
            "engine": {"a": {"engine_start_s": 20.0}},
        }
        record_manifest(run, "complete", **content | changes)
        return run

    return make


def sample(prompt: Any, *, tokens: int, length: bool) -> dict[str, Any]:
    row = dict.fromkeys(SAMPLE_SCHEMA.names)
    row |= {name: getattr(prompt, name) for name in ("id", "messages", "prompt_sha256")}
    finish_reason = "length" if length else "stop"
    return row | {
        "repeat": 0,
        "categories": [],
        "finish_reason": finish_reason,
        "num_output_tokens": tokens,
        "attempts": 1,
        "generated_s": tokens / 10,
    }


def config(tmp_path: Path, *overrides: str) -> Any:
    return settings(f"output_dir={tmp_path}/outputs", "engine.endpoint.model=m", *overrides)


def test_the_lengths_of_the_same_prompts_are_expected(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    write_past_run("before", "generation.max_gen_toks=400")
    found, unread = expect(config(tmp_path, "generation.max_gen_toks=400", "generation.repeats=2"), prompts)
    assert found is not None
    assert unread == []
    (task,) = found.tasks
    assert (task.task, task.num_rows, task.num_same, task.mean_tokens, task.truncated) == (
        "agro_bench", 4, 4, 250.0, 0.25,
    )  # fmt: skip
    assert (found.run_id, found.max_gen_toks, found.num_replicas) == ("before", 400, 1)
    assert found.tokens_per_s == pytest.approx(1000 / 100)
    assert found.num_tokens == 2000
    assert found.seconds == pytest.approx(20 + 2000 / 10)


def test_no_more_is_expected_than_the_budget_allows(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    write_past_run("before")
    found, _ = expect(config(tmp_path, "generation.max_gen_toks=150"), prompts)
    assert found is not None
    assert found.num_tokens == 100 + 3 * 150


def test_a_run_of_the_same_prompts_comes_before_a_newer_one_of_others(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    write_past_run("same", ended_at="2026-11-19T00:00:00Z")
    write_past_run("other", ended_at="2026-11-20T00:00:00Z", question="Где?")
    found, _ = expect(config(tmp_path), prompts)
    assert found is not None
    assert found.run_id == "same"


def test_without_the_same_prompts_the_tasks_mean_is_expected(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    write_past_run("other", question="Где?")
    found, _ = expect(config(tmp_path, "generation.max_gen_toks=1000", "model.context_size=2000"), prompts)
    assert found is not None
    assert (found.run_id, found.tasks[0].num_same, found.tasks[0].mean_tokens) == ("other", 0, 250.0)


@pytest.mark.parametrize(
    "difference", [["engine.endpoint.model=another"], ["engine.endpoint.base_url=http://127.0.0.1:8/v1"]]
)
def test_a_run_of_another_model_gives_no_estimate(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore], difference: list[str]
) -> None:
    write_past_run("before", *difference)
    assert expect(config(tmp_path), prompts) == (None, [])


def test_an_incomplete_run_gives_no_estimate(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    record_manifest(write_past_run("before"), "failed", ended_at="2026-11-20T00:00:00Z")
    assert expect(config(tmp_path), prompts) == (None, [])


def test_without_any_run_nothing_is_expected(tmp_path: Path, prompts: Artifact) -> None:
    assert expect(config(tmp_path), prompts) == (None, [])


def test_a_task_that_the_past_run_lacks_makes_the_sum_unknown(
    tmp_path: Path, write_past_run: Callable[..., ArtifactStore]
) -> None:
    write_past_run("before")
    run = ArtifactStore.open(str(tmp_path / "two"))
    run.create()
    other = replace(make_prompt(9), task="med_bench")
    with run.publish("prompts", PROMPT_SCHEMA) as store:
        table = to_table([PROMPTS[0], other], PROMPT_SCHEMA)
        store.write_parts("task=any/split=test", PROMPT_SCHEMA, [table], 10)
    found, _ = expect(config(tmp_path), run.require_artifact("prompts", PROMPT_SCHEMA))
    assert found is not None
    assert {each.task: each.mean_tokens for each in found.tasks} == {"agro_bench": 100.0, "med_bench": None}
    assert (found.num_tokens, found.seconds) == (None, None)


def test_the_speed_of_a_resumed_run_is_capped(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    # A row takes 0.1 s a token: 64 requests at once make at most 640 tokens/s.
    write_past_run("before", timings_s={"generate": 20.5})
    found, _ = expect(config(tmp_path), prompts)
    assert found is not None
    assert found.tokens_per_s == pytest.approx(640)


def test_a_manifest_without_times_gives_only_tokens(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    write_past_run("before", timings_s={}, engine={})
    found, _ = expect(config(tmp_path), prompts)
    assert found is not None
    assert (found.num_tokens is not None, found.seconds, found.num_replicas) == (True, None, None)


def test_a_damaged_run_is_reported_and_another_is_used(
    tmp_path: Path, prompts: Artifact, write_past_run: Callable[..., ArtifactStore]
) -> None:
    write_past_run("good", ended_at="2026-11-18T00:00:00Z")
    (Path(write_past_run("torn").root) / "manifest.json").write_text("{")
    (Path(write_past_run("old").root) / "config.yaml").write_text("nothing: here\n")
    part = Path(write_past_run("cut").root) / "samples/task=agro_bench/split=test/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    found, unread = expect(config(tmp_path), prompts)
    assert found is not None
    assert found.run_id == "good"
    assert sorted(line.split(" ")[0].rpartition("=")[2] for line in unread) == ["cut", "old", "torn"]
