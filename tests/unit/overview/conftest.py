"""Nights of two models with scores, to list, draw and prune."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import ROOT
from cheap_nights import add_parts, declining, make_nights


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 40 nights of a model with a regression and a slow decline, and 3 of another one; tests must not write."""
    return _made(tmp_path_factory.mktemp("made"), 40)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 10 nights and 3 in the same way; the first 6 have large parts."""
    return _made(tmp_path_factory.mktemp("few"), 10)


def _made(output: Path, num: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for run in make_nights(output, declining(num), model="worse", broken={25: "max_drop"})[:6]:
            add_parts(Path(run.root))
        make_nights(output, [0.5, 0.51, 0.5], model="small")
    return output


@pytest.fixture
def output(few: Path, tmp_path: Path) -> Path:
    """Copy the few nights to a directory that a test may write into."""
    return Path(shutil.copytree(few, tmp_path / "outputs"))
