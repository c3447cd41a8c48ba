"""Runs to which something happens in a stage, and what they leave: rows that are lost, doubled or half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders import ENDPOINT, ROOT

from pipeline.errors import PipelineError
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, SAMPLE_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

ARTIFACTS = {"prompts": PROMPT_SCHEMA, "completions": COMPLETION_SCHEMA, "samples": SAMPLE_SCHEMA}
SCRIPT = {"answer": "B", "seconds": 1.0}
GENERATING_S = 4.0
"""How long that takes for the demo's questions, 64 at once, without Ray's start."""
GATE = ("gate.max_failed=0.5", "gate.max_truncated=0.5")


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code, and the lines of its standard error."""

    exit_code: int
    errors: list[str]


def run(output: Path, plan: Mapping[str, Any], *overrides: str, environment: Mapping[str, str] | None = None) -> Ended:
    """Run the demo's questions with a scripted engine; `plan` is what happens to the run (staged_run.py)."""
    script = SCRIPT | {"requests": str(output.parent / f"{output.name}.requests")}
    line = [sys.executable, str(ROOT / "tests/faults/staged_run.py"), json.dumps(plan), json.dumps(script)]
    line += ["conf=demo", *ENDPOINT, *GATE, f"output_dir={output}", *overrides]
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        line,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
    )
    return Ended(done.returncode, done.stderr.strip().splitlines())


def rows_of(store: ArtifactStore, name: str = "samples") -> list[tuple[Any, ...]]:
    """Return the keys and texts of an artifact's rows; none if it is not published."""
    artifact = store.artifact(name, ARTIFACTS[name])
    if artifact is None:
        return []
    dataset = artifact.dataset()
    columns = [each for each in ("task", "split", "id", "repeat", "response", "error") if each in dataset.schema.names]
    assert "task" in columns
    rows = dataset.to_table(columns=columns).to_pylist()
    return sorted(tuple(map(str, row.values())) for row in rows)


def half_written(directory: Path) -> list[str]:
    """Return the files of a run that exist and are not whole, whatever state the run is in.

    What is being written has a name, or is in a directory, that begins with a dot.
    """
    store, found = ArtifactStore.open(str(directory)), []
    for name, schema in ARTIFACTS.items():
        try:
            artifact = store.artifact(name, schema)
            if artifact is not None:
                artifact.dataset().to_table()
        except (PipelineError, OSError, ValueError) as error:
            found.append(f"{name}: {error}")
    for file in (file for file in directory.rglob("*.json") if "journal" not in file.parts):
        if any(part.startswith(".") for part in file.relative_to(directory).parts):
            continue
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found.append(file.name)
    found += [file.name for file in directory.glob("[!.]*.zip") if not _is_whole_zip(file)]
    pages = [directory / "report.html"]
    found += [page.name for page in pages if page.exists() and not page.read_text().rstrip().endswith("</html>")]
    return found


def _is_whole_zip(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def products(directory: Path) -> set[str]:
    """Return the names of a run's files, without its logs and what a resumed run may keep of its sessions."""
    kept = (file.relative_to(directory) for file in directory.rglob("*") if file.is_file())
    return {str(file) for file in kept if file.parts[0] not in ("logs", "journal", "work")}


def num_requests(output: Path) -> Counter[str]:
    """Return how often each row was requested."""
    file = output.parent / f"{output.name}.requests"
    return Counter(file.read_text().split()) if file.exists() else Counter()
