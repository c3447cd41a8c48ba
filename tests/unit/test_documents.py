"""The documents name only modules, files and make targets that exist, and are as short as promised; pages from code."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml
from builders import ROOT

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
README = ROOT / "README.md"
README_RU = ROOT / "README.ru.md"
DOCUMENTS = [CONTRIBUTING, README, README_RU, *sorted((ROOT / "docs").glob("*.md"))]
MODULE = re.compile(r"[\w./-]+\.py\b")


def sections(document: Path) -> tuple[str, str]:
    """Return the section "The tree" of a document, and the rest of it."""
    before, _, after = document.read_text(encoding="utf-8").partition("\n## The tree\n")
    tree, heading, rest = after.partition("\n## ")
    return tree, before + heading + rest


def listed(tree: str) -> tuple[set[str], set[str]]:
    """Return the directories and the modules of an indented tree, as paths from its root.

    A line whose first word ends in / opens a directory for the modules on it and on the lines that are indented deeper.
    """
    directories: set[str] = set()
    modules: set[str] = set()
    parents: dict[int, str] = {}
    for line in tree.splitlines():
        if not line.startswith("    "):
            continue
        indent = len(line) - len(line.lstrip())
        parents = {column: path for column, path in parents.items() if column < indent}
        first = line.split()[0]
        if first.endswith("/"):
            parents[indent] = "".join([*list(parents.values())[-1:], first])
            directories.add(parents[indent])
        modules |= {list(parents.values())[-1] + name for name in MODULE.findall(line)}
    return directories, modules


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    tree, rest = sections(document)
    _, modules = listed(tree)
    prose = "\n".join([rest, *(line for line in tree.splitlines() if not line.startswith("    "))])
    named = modules | set(MODULE.findall(prose))
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_the_tree_has_a_caption_for_every_package() -> None:
    directories, _ = listed(sections(CONTRIBUTING)[0])
    packages = {f"{file.parent.relative_to(ROOT)}/" for file in (ROOT / "pipeline").rglob("__init__.py")}
    assert directories == packages


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"(?m)(?:^ {0,4}|`)make ([a-z-]+)", document.read_text(encoding="utf-8")))
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert named <= targets


def test_the_contributors_page_is_under_100_lines() -> None:
    assert len(CONTRIBUTING.read_text(encoding="utf-8").splitlines()) < 100


def test_the_readme_is_under_200_lines() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200


def test_the_pages_that_are_made_from_code_are_up_to_date() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    for name, page in pages.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == page(), f"run `make docs`: {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text) + re.findall(r'<img src="([^"]+)"', text)
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_badges_and_the_citation_agree_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert project["license"] in (ROOT / "docs" / "images" / "license.svg").read_text(encoding="utf-8")
    least, below = re.fullmatch(r">=3[.](\d+),<3[.](\d+)", project["requires-python"]).groups()
    versions = " | ".join(f"3.{minor}" for minor in range(int(least), int(below)))
    assert f">{versions}<" in (ROOT / "docs" / "images" / "python.svg").read_text(encoding="utf-8")
