"""Which code ran: recorded by the build, else by Git, else a hash of the files; never unknown."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import pipeline
from pipeline.runs import environment, source


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of one module, in no checkout."""
    monkeypatch.delenv(source.VARIABLE, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    place = tmp_path / "project" / "pipeline"
    place.mkdir(parents=True)
    (place / "module.py").write_text("1")
    return place


def git(root: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    line = ["git", "-C", str(root), *arguments]
    return subprocess.run(line, env=os.environ | who, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(package: Path) -> Path:
    """The package in a checkout that ignores build/."""
    root = package.parent
    (root / ".gitignore").write_text("build/\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        git(root, *arguments)
    return package


def test_a_checkout_has_its_commit_and_whether_files_differ(checkout: Path) -> None:
    commit = git(checkout.parent, "rev-parse", "HEAD")
    assert source.identify(checkout) == (commit, False)
    (checkout.parent / "build").mkdir()
    (checkout.parent / "build/x").write_text("")
    assert source.identify(checkout) == (commit, False)
    (checkout / "module.py").write_text("2")
    assert source.identify(checkout) == (commit, True)


def test_a_package_inside_of_another_checkout_is_not_of_its_commit(checkout: Path) -> None:
    inner = checkout.parent / "venv" / "pipeline"
    inner.mkdir(parents=True)
    assert source.identify(inner)[0].startswith("sha256:")


def test_without_git_the_hash_of_the_files_identifies_the_code(package: Path) -> None:
    commit, modified = source.identify(package)
    assert commit.startswith("sha256:")
    assert not modified
    copy = package.with_name("copy")
    shutil.copytree(package, copy)
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__/module.pyc").write_text("compiled")
    assert source.identify(copy) == (commit, False)
    (copy / "module.py").write_text("2")
    assert source.identify(copy)[0] != commit


@pytest.mark.parametrize("text", ["", "two words", "x" * 200, "-dirty", "a\nb"])
def test_a_variable_that_is_no_commit_is_ignored(package: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(source.VARIABLE, text)
    assert source.identify(package)[0].startswith("sha256:")


def test_a_build_records_what_it_was_made_from(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = checkout.parent / "build" / "pipeline"
    target.mkdir(parents=True)
    source.record(checkout, target)
    assert source.identify(target) == source.identify(checkout)
    monkeypatch.setenv(source.VARIABLE, "v1.2-dirty")
    assert source.identify(target) == source.identify(checkout), "what was built stays what it is"
    source.record(checkout, target)
    assert source.identify(target) == ("v1.2", True)
    (target / source.BUILT_FILE).write_text("{")
    assert source.identify(target) == ("v1.2", True)


def test_a_package_that_is_not_installed_has_its_own_version(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "pipeline":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert environment.versions()["pipeline"] == pipeline.__version__ == "0.1.0"
    assert environment.codebase().commit
