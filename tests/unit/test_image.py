"""The Dockerfile copies files that exist and that .dockerignore lets through, and its images do not run as root."""

from __future__ import annotations

import json
import re
import subprocess
from fnmatch import fnmatch

import pytest
from builders import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in re.sub(r"\\\n", " ", TEXT).splitlines() if line and not line.startswith("#")]


def stages() -> dict[str, list[str]]:
    """Return the instructions of each stage by its name."""
    found: dict[str, list[str]] = {}
    for line in LINES:
        if line.startswith("FROM "):
            name = line.split(" AS ")[1]
            found[name] = []
        found[name].append(line)
    return found


def copied() -> list[str]:
    """Return what the instructions copy from the project's directory."""
    lines = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from" not in line]
    return [name for names in lines for name in names]


def test_what_the_dockerfile_copies_exists_and_reaches_the_build() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert "*" in rules
    for name in copied():
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name, rule) or name.startswith(f"{rule}/") for rule in allowed), name
    for rule in allowed:
        assert any(name == rule or name.startswith(f"{rule}/") for name in copied()), rule


@pytest.mark.parametrize(("target", "module"), [("cpu", ["pipeline.run", "conf=demo"]), ("gpu", ["pipeline"])])
def test_a_target_installs_its_locked_packages_and_runs_as_another_user(target: str, module: list[str]) -> None:
    lines = stages()[target]
    assert f"COPY requirements/{target}.txt /tmp/requirements.txt" in lines
    assert sum("pip install --no-deps" in line for line in lines) == 2
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["1000"]
    assert json.loads(lines[-1].removeprefix("CMD ")) == ["python", "-m", *module]


def test_make_image_builds_each_target_of_this_commit() -> None:
    done = subprocess.run(["make", "-n", "image"], cwd=ROOT, capture_output=True, text=True, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "for target in cpu gpu;" in done.stdout
    assert f"--build-arg PIPELINE_COMMIT={commit.stdout.strip()}" in done.stdout
    assert {"cpu", "gpu"} <= stages().keys()
