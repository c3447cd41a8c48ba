"""A directory in which nights of `fake_run.py` are held: the scripts of their runs, and a complete run to copy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from archives import run_of
from builders import ROOT
from night_of import run_night
from pairs import reply_right, train

from pipeline.errors import PipelineError


@dataclass(frozen=True)
class Nights:
    """`directory` is that of `fake_run.py`, `output` the output_dir."""

    directory: Path
    output: Path

    @property
    def file(self) -> Path:
        return self.directory / "night.yaml"

    @property
    def program(self) -> list[str]:
        return [sys.executable, "-S", str(ROOT / "tests/fake_run.py"), str(self.directory)]

    def script(self, name: str, **script: Any) -> None:
        """Write what a run does, and replaces what it did before."""
        (self.directory / f"{name}.json").write_text(json.dumps(script))

    def arguments(self, *arguments: str, night: str = "n") -> list[str]:
        return [f"night={night}", f"runs={self.file}", f"output_dir={self.output}", *arguments]

    def code(self, *arguments: str, night: str = "n", is_quick: bool = True) -> int:
        """Hold a night in this process; return its exit code."""
        try:
            run_night(self.program, self.arguments(*arguments, night=night), is_quick=is_quick)
        except PipelineError as error:
            return error.exit_code
        return 0

    def lines(self, name: str) -> list[str]:
        """Return what the runs have noted in a file: starts, working, signals."""
        file = self.directory / name
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def record(self, night: str = "n") -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.output / f"night={night}.json").read_text(encoding="ascii"))
        return content

    def runs(self, night: str = "n") -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.record(night)["runs"]
        return runs

    def of_each(self, what: str, night: str = "n") -> list[Any]:
        return [run[what] for run in self.runs(night)]


@pytest.fixture(scope="session")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with scores; the answers to half of its questions are right."""
    output = tmp_path_factory.mktemp("template")
    return Path(run_of(train(10), str(output), reply=reply_right).store.root)


@pytest.fixture
def nights(tmp_path: Path, complete_run: Path) -> Nights:
    """Runs a, b and c, which complete at once."""
    found = Nights(tmp_path / "fake", tmp_path / "output")
    found.directory.mkdir()
    shutil.copytree(complete_run, found.directory / "template")
    names: Sequence[str] = "abc"
    found.file.write_text("runs:\n" + "".join(f"  {name}: conf=demo\n" for name in names))
    for name in names:
        found.script(name)
    return found
