"""Shared fixtures: the project's directory, small runs and an S3 server; disables the network for the hub."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import ROOT, publish_prompts, s3_server

from pipeline.config.schema import Config
from pipeline.prepare import prepare, subprocess_stage
from pipeline.records import Prompt
from pipeline.storage.artifacts import ArtifactStore

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray's workers are separate processes that import the scripted engine from tests/ too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


@pytest.fixture(autouse=True)
def prepare_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the prepare stage in this process, because a subprocess would import everything once more.

    Runs started as commands still prepare in a subprocess, as does tests/unit/prepare/test_subprocess_stage.py.
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


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the recorded driver library of 8 GPUs, for LD_LIBRARY_PATH."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    directory = tmp_path_factory.mktemp("driver")
    library = str(directory / "libnvidia-ml.so.1")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(ROOT / "tests/nvml/nvml.c")], check=True)
    return directory


@pytest.fixture
def run_with_prompts(tmp_path: Path) -> Callable[[list[Prompt]], ArtifactStore]:
    """Return a function that makes a run's directory with these prompts."""

    def make(prompts: list[Prompt]) -> ArtifactStore:
        run = ArtifactStore.open(str(tmp_path / "run=test"))
        publish_prompts(run, prompts)
        return run

    return make


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to the project's directory, where the README's commands run."""
    monkeypatch.chdir(ROOT)
    return ROOT


@pytest.fixture(scope="module")
def s3_query() -> Iterator[str]:
    """Serve S3 on loopback; yield the query of a URI that selects this server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("EC2_METADATA_DISABLED", "true")):
            patch.setenv(f"AWS_{name}", value)
        with s3_server() as query:
            yield query
