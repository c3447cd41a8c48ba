"""manifest.json and the metadata of artifacts: what is read back, what is kept, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.records import COMPLETION_SCHEMA, Counts
from pipeline.runs.manifest import (
    CompletionMetadata,
    EngineInfo,
    Manifest,
    NoArchive,
    PromptMetadata,
    Published,
    Schedule,
    completion_metadata,
    dump,
    prompt_metadata,
    read_manifest,
    write_manifest,
)
from pipeline.storage.artifacts import ArtifactStore

MANIFEST = Manifest(
    status="complete",
    run_id="one",
    started_at="2026-11-21T01:02:03Z",
    versions={"ray": "2.60.0"},
    datasets=PromptMetadata(dataset_revisions={"med_bench": "sha256:1"}, chat_template_sha256="2"),
    engine={"0": EngineInfo(vllm="0.32.0", num_layers=4, engine_start_s=1.5, restarts=1)},
    schedule=Schedule(history=None, num_known=0, num_rows=3),
    counts=Counts(num_samples=3, num_failed=1),
    published=Published(submission=NoArchive(file=None, reason="none")),
    config={"limit": 3},
)


@pytest.fixture
def run(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "run=one"))


def stored(run: ArtifactStore, content: Any) -> Manifest:
    run.write_text("manifest.json", content if isinstance(content, str) else json.dumps(content))
    found = read_manifest(run)
    assert found is not None
    return found


def test_a_manifest_is_read_as_it_was_written(run: ArtifactStore) -> None:
    assert read_manifest(run) is None
    write_manifest(run, MANIFEST)
    assert read_manifest(run) == MANIFEST


def test_what_an_older_run_lacks_is_unknown(run: ArtifactStore) -> None:
    found = stored(run, {"status": "complete", "counts": {"num_samples": 3}})
    assert (found.run_id, found.gate, found.engine, found.num_failed) == (None, None, {}, 0)
    assert found.counts == Counts(num_samples=3)
    assert found.counts.num_failed is None


def test_keys_without_a_field_are_written_back(run: ArtifactStore) -> None:
    content = dump(MANIFEST) | {"someday": {"a": [1]}}
    content["engine"]["0"] |= {"mood": True, "unknown": None}
    write_manifest(run, stored(run, content))
    assert json.loads(run.read_text("manifest.json")) == content


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"status": "done"}, "status: "),
        ({"counts": {"num_samples": "many"}}, "counts.num_samples: "),
        ({"engine": {"0": {"num_layers": "four"}}}, "num_layers: "),
        ({"engine": []}, "engine: "),
        ({"datasets": {"dataset_revision.med_bench": {"a": 1}}}, "dataset_revisions.med_bench: "),
        ({"started_at": "yesterday"}, "started_at: "),
        ({"warnings": "one"}, "warnings: "),
    ],
)
def test_a_wrong_value_is_named(run: ArtifactStore, change: dict[str, Any], place: str) -> None:
    with pytest.raises(DataError) as error:
        stored(run, dump(MANIFEST) | change)
    assert "manifest.json is damaged: delete it to resume the run" in str(error.value)
    assert place in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]", '"complete"', "null", ""], ids=lambda text: text[:9])
def test_what_is_no_manifest_is_damaged(run: ArtifactStore, content: str) -> None:
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        stored(run, content)


def test_null_metadata_of_prompts_stays_unknown(run: ArtifactStore) -> None:
    flat = {"dataset_revision.med_bench": None, "model_revision": None, "warning.a": "line", "else": 1}
    assert prompt_metadata(run, flat) == PromptMetadata(warnings={"a": "line"})
    assert PromptMetadata(warnings={"a": "line"}).to_flat() == {"warning.a": "line"}


def test_older_completions_have_their_metadata_as_text(run: ArtifactStore) -> None:
    schedule, engine = {"history": "one", "num_known": 2, "num_rows": 3}, {"0": {"vllm": "0.32.0"}}
    found = completion_metadata(run, {"schedule": json.dumps(schedule), "engine": json.dumps(engine)})
    assert found == completion_metadata(run, {"schedule": schedule, "engine": engine})
    assert found == CompletionMetadata(schedule=Schedule(**schedule), engine={"0": EngineInfo(vllm="0.32.0")})
    assert completion_metadata(run, {}) == CompletionMetadata()


@pytest.mark.parametrize(
    "metadata",
    [{"schedule": [1]}, {"engine": {"0": {"num_layers": "many"}}}, {"engine": "{"}, {"engine": [1]}],
)
def test_damaged_metadata_of_completions_is_one_line(run: ArtifactStore, metadata: dict[str, Any]) -> None:
    with run.publish("completions", COMPLETION_SCHEMA, metadata):
        pass
    completions = run.require_artifact("completions", COMPLETION_SCHEMA)
    with pytest.raises(
        DataError, match=r"completions/_stage\.json is damaged: delete .*completions and run again"
    ) as error:
        completion_metadata(completions.store, completions.metadata)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a": ' * 100_000, "\ud800", "NaN"])
def test_metadata_that_is_nested_too_deep_or_no_json_is_damaged(tmp_path: Path, value: str) -> None:
    run = ArtifactStore.open(str(tmp_path))
    with pytest.raises(DataError, match=r"_stage\.json is damaged"):
        completion_metadata(run, {"engine": value})
