"""A run reproduced with a scripted engine: same samples, differences reported, and the recorded run unchanged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import ENDPOINT, settings
from scripted import ScriptedFactory

from pipeline.cli import resolve
from pipeline.config.loading import compose
from pipeline.errors import DataError
from pipeline.generate.cluster import cluster
from pipeline.orchestrator import execute
from pipeline.records import SAMPLE_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """Share one local Ray among the tests of this file."""
    with cluster(settings()):
        yield


@pytest.fixture
def first(tmp_path: Path) -> ArtifactStore:
    """Return a complete run of two questions of each split, from a data set that a test may change."""
    shutil.copytree("data/demo/med_bench", tmp_path / "med")
    overrides = ["run_id=one", f"output_dir={tmp_path}/outputs", "limit=2", "seed=77", "only=[med_bench]"]
    return execute(settings(*overrides, f"tasks.med_bench.dataset={tmp_path}/med"), ScriptedFactory(answer="B"))


def reproduce(*arguments: str, answer: str = "B") -> ArtifactStore:
    config, reproduction = resolve([*arguments, ENDPOINT[1]])
    return execute(config, ScriptedFactory(answer=answer), reproduction)


def content(run: ArtifactStore) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.read_text("manifest.json"))
    return found


def samples(run: ArtifactStore) -> list[dict[str, Any]]:
    """Return the samples without the columns that differ between sessions."""
    table = run.require_artifact("samples", SAMPLE_SCHEMA).dataset().to_table().sort_by("id")
    return table.drop_columns(["replica", "queued_s", "generated_s"]).to_pylist()


def files(run: ArtifactStore) -> dict[str, bytes]:
    return {name: Path(run.path(name)).read_bytes() for name in run.files()}


def test_a_reproduced_run_has_the_same_samples_and_leaves_the_first_unchanged(
    first: ArtifactStore, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files(first)
    second = reproduce(f"from={first.root}")
    assert second.root.startswith(f"{first.root}-again-")
    assert samples(second) == samples(first)
    assert files(first) == before
    agreement = "4 questions of both runs: 4 same prompts, 4 same completions"
    recorded = content(second)["again"]
    assert (recorded["run"], recorded["overridden"], recorded["agreement"]) == (first.root, [], agreement)
    assert recorded["differences"] == [line for line in recorded["differences"] if line.startswith("codebase")]
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line == f"again: {first.root}"]
    assert f"again: {agreement}" in lines


def test_overrides_and_different_completions_are_reported(
    first: ArtifactStore, capfd: pytest.CaptureFixture[str]
) -> None:
    second = reproduce(f"from={first.root}/manifest.json", "limit=1", "run_id=two", answer="C")
    recorded = content(second)["again"]
    assert recorded["overridden"] == ["limit is 1, recorded 2"]
    assert recorded["agreement"] == "2 questions of both runs: 2 same prompts, 0 same completions"
    assert "again: overridden: limit is 1, recorded 2" in capfd.readouterr().out.splitlines()
    assert content(second)["run_id"] == "two"


def test_a_changed_data_set_fails_before_a_prompt_is_rendered_and_resumes_once_restored(
    first: ArtifactStore, tmp_path: Path
) -> None:
    file = tmp_path / "med/test.jsonl"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("A", "B", 1), encoding="utf-8")
    arguments = (f"from={first.root}", "run_id=two")
    with pytest.raises(DataError, match=r"tasks\.med_bench\.dataset=.* holds other rows than when"):
        reproduce(*arguments)
    assert not (tmp_path / "outputs/run=two/prompts").exists()
    file.write_text(text, encoding="utf-8")
    assert samples(reproduce(*arguments)) == samples(first)


def test_a_run_records_its_templates_fingerprint_and_its_warnings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = compose(["conf=demo", "limit=1", "only=[med_bench]", f"output_dir={tmp_path}", "run_id=one"])
    expected = f"sha256:{'0' * 64}"
    warned = replace(config, prompt=replace(config.prompt, expected_fingerprint=expected, fingerprint_policy="warn"))
    manifest = content(execute(warned, ScriptedFactory()))
    (warning,) = (each for each in manifest["warnings"] if "fingerprint" in each)
    assert warning.startswith(f"prompt.expected_fingerprint={expected}: ")
    assert manifest["template_fingerprint"] in warning
    assert manifest["template_fingerprint"] == manifest["datasets"]["template_fingerprint"]
    assert f"warning: {warning}" in capfd.readouterr().out.splitlines()
    quiet = content(reproduce(f"from={tmp_path}/run=one", "prompt.expected_fingerprint=null", "run_id=two"))
    assert not [each for each in quiet["warnings"] if "fingerprint" in each]
    assert quiet["template_fingerprint"] == manifest["template_fingerprint"]


def test_the_template_of_a_server_is_unknown(first: ArtifactStore) -> None:
    assert content(first)["template_fingerprint"] is None
    assert not [each for each in content(first)["warnings"] if "fingerprint" in each]
    assert "engine.kind=endpoint" in ENDPOINT
