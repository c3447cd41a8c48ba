"""Complete runs, made without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import MakeRun, Reply, Scored, reply_b, run_of, run_of_demo
from carded import Carded

from pipeline.records import Prompt
from pipeline.storage.artifacts import ArtifactStore


@pytest.fixture
def make_run(tmp_path: Path, at_root: Path) -> MakeRun:  # noqa: ARG001
    """Return a function that writes a complete run of prompts; `overrides` change the demo's configuration."""

    def make(prompts: list[Prompt], *overrides: str, reply: Reply = reply_b, where: str | None = None) -> Scored:
        return run_of(prompts, where or str(tmp_path), *overrides, reply=reply)

    return make


@pytest.fixture
def demo_run(tmp_path: Path, at_root: Path) -> Scored:  # noqa: ARG001
    """A complete run of all the demo's questions, answered by a function of their ids."""
    return run_of_demo(str(tmp_path))


@pytest.fixture
def carded(tmp_path: Path, at_root: Path) -> Carded:
    assert at_root  # conf/ is found from the project's directory
    return Carded(ArtifactStore.open(str(tmp_path / "run=night")))
