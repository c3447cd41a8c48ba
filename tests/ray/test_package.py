"""The wheel, installed into an empty environment, runs from an empty directory: conf/ and the demo's data are in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import ENDPOINT, ROOT

SOURCES = (
    "pipeline",
    "conf",
    "data/demo",
    "notebooks/views.sql",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the source, built without Git and without the network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(target), "."]
    done = subprocess.run(
        pip,
        cwd=source,
        env=os.environ | {"PIPELINE_COMMIT": "c0ffee-dirty"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("pipeline-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs Python with these arguments in an empty directory of its own.

    The environment has the wheel, and finds all other packages in that of the tests.
    """
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin/python"
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str, cwd: Path | None = None, path: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), *arguments],
            cwd=cwd or tmp_path_factory.mktemp("empty"),
            env=variables | ({"PYTHONPATH": path} if path else {}),
            capture_output=True,
            text=True,
            timeout=550,
            check=False,
        )

    return run


def test_the_wheel_has_what_a_run_needs_and_the_commit(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert json.loads(archive.read("pipeline/built_from.json")) == {"commit": "c0ffee", "modified": True}
    assert {f"pipeline/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")} <= names
    assert {"pipeline/data/demo/model/model.safetensors", "pipeline/data/demo/med_bench/test.jsonl"} <= names
    assert "pipeline/notebooks/views.sql" in names
    assert not [name for name in names if name.startswith("pipeline/data/") and name.endswith((".py", ".png"))]
    assert all(name.startswith("pipeline") for name in names)


def test_help_and_preview_run_from_an_empty_directory(installed: Run) -> None:
    shown = installed("-m", "pipeline.run", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "the configuration: bench, demo, mera, own, or a path" in " ".join(shown.stdout.split())
    # Only to import the parser would take as long as all else.
    shown = installed("-m", "pipeline.preview", "conf=demo", "n=0", "reasoning_parser=null")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "pipeline/data/demo/model  conf/model/demo.yaml" in shown.stdout
    assert re.search(r"med_bench +train +12 ", shown.stdout)


def test_the_demo_runs_from_an_empty_directory_with_a_scripted_engine(installed: Run, tmp_path: Path) -> None:
    words = [str(ROOT / "tests/scripted_run.py"), "{}", "conf=demo", *ENDPOINT, "limit=1", "run_id=one"]
    done = installed(*words, cwd=tmp_path, path=str(ROOT / "tests"))
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "outputs/run=one/manifest.json").read_text())
    assert manifest["codebase"] == {"commit": "c0ffee", "modified": True}
    assert manifest["counts"]["num_samples"] == 6
    listed = installed("-m", "pipeline.list", "sql=SELECT run, num_samples FROM runs", "json=true", cwd=tmp_path)
    assert (listed.stdout, listed.stderr) == ('{"run": "one", "num_samples": 6}\n', "")
    again = installed(*words, cwd=tmp_path, path=str(ROOT / "tests"))
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[1:] == done.stdout.splitlines()[1 - len(again.stdout.splitlines()) :]


@pytest.mark.slow
def test_the_demo_runs_from_an_empty_directory_with_vllm(installed: Run, tmp_path: Path) -> None:
    done = installed("-m", "pipeline.run", "conf=demo", "limit=3", "run_id=one", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "outputs/run=one/manifest.json").read_text())
    assert (manifest["counts"]["num_samples"], manifest["counts"]["num_failed"]) == (18, 0)
