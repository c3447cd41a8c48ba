"""Nights of two models with scores, to list, draw and prune."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import ROOT
from cheap_nights import add_parts, declining, make_nights

NUM = 40


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 40 nights of a model with a regression and a slow decline, and 3 of another one; tests must not write."""
    output = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for run in make_nights(output, declining(NUM), model="worse", broken={25: "max_drop"})[:6]:
            add_parts(Path(run.root))
        make_nights(output, [0.5, 0.51, 0.5], model="small")
    return output


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """Copy the runs to a directory that a test may write into."""
    return Path(shutil.copytree(made, tmp_path / "outputs"))
