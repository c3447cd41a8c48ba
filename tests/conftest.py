"""What the tests share: the project's own configuration files from any directory, small runs, and no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import ROOT, publish_prompts, s3_server

from pipeline.config.schema import Config
from pipeline.prepare import prepare, subprocess_stage
from pipeline.records import Prompt
from pipeline.storage.artifacts import ArtifactStore

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray's workers are processes of their own: they find the scripted engine where the tests find it.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


@pytest.fixture(autouse=True)
def prepare_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs of this process prepare in it: their own would import all that this one has already.

    Runs that are commands prepare beside, and tests/unit/prepare/test_prepare_beside.py does.
    """

    def here(
        config: Config,
        run: ArtifactStore,
        *,
        on_metadata: Callable[[subprocess_stage.Metadata], None],
        meanwhile: object,  # noqa: ARG001
    ) -> None:
        prepare(config, run, on_metadata=on_metadata)

    monkeypatch.setattr(subprocess_stage, "prepare_in_subprocess", here)


@pytest.fixture
def run_with_prompts(tmp_path: Path) -> Callable[[list[Prompt]], ArtifactStore]:
    """Make a run's directory that holds these prompts."""

    def make(prompts: list[Prompt]) -> ArtifactStore:
        run = ArtifactStore.open(str(tmp_path / "run=test"))
        publish_prompts(run, prompts)
        return run

    return make


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the project's directory, as the README's commands do."""
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.fixture(scope="module")
def s3_query() -> Iterator[str]:
    """Serve S3 on loopback; give the query of a URI that leads there."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("EC2_METADATA_DISABLED", "true")):
            patch.setenv(f"AWS_{name}", value)
        with s3_server() as query:
            yield query
