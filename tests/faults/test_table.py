"""The table of faults: an existing test holds every promise, and the page for users has it."""

from __future__ import annotations

import ast
from functools import cache

from builders import ROOT
from faults.__main__ import PAGE, by_kind, with_section
from faults.table import FAULTS, KINDS

TESTS = ROOT / "tests"


@cache
def functions(file: str) -> set[str]:
    """Return the names of the functions of a file below tests/."""
    nodes = ast.walk(ast.parse((TESTS / file).read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_every_promise_has_an_existing_test() -> None:
    for fault in FAULTS:
        file, _, name = fault.test.partition("::")
        assert name in functions(file), fault.test
        assert fault.promise
        assert "|" not in fault.promise + fault.name


def test_every_test_of_faults_holds_a_promise() -> None:
    named = {fault.test for fault in FAULTS}
    for file in sorted((TESTS / "faults").glob("test_*.py")):
        if file.name != "test_table.py":
            tests = {
                f"faults/{file.name}::{name}" for name in functions(f"faults/{file.name}") if name.startswith("test_")
            }
            assert tests <= named, tests - named


def test_the_faults_of_a_kind_are_together_and_none_is_there_twice() -> None:
    assert [kind for kind, _ in by_kind()] == list(KINDS)
    assert len({(fault.kind, fault.name) for fault in FAULTS}) == len(FAULTS)


def test_the_page_for_users_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_section(page), "run `make docs`"
