"""Prints the table of faults; with `--write`, writes it into the page for users as well."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from faults.table import FAULTS, Fault
from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "running.md"
BEGIN, END = "<!-- faults: made by `make docs` from tests/faults/table.py -->", "<!-- end of faults -->"


def by_kind() -> list[tuple[str, list[Fault]]]:
    """Return the faults of each kind, in the table's order."""
    return [(kind, list(found)) for kind, found in groupby(FAULTS, key=lambda fault: fault.kind)]


def section() -> str:
    """Return the section of the page: a table for users, without the tests."""
    lines = [BEGIN, "", "| event | what the run does |", "|---|---|"]
    lines += [f"| {fault.name} | {fault.promise} |" for fault in FAULTS if fault.on_page]
    return "\n".join([*lines, "", END])


def with_section(page: str) -> str:
    """Return the page with the section between its markers replaced.

    Raises:
        ValueError: It has no markers.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no lines {BEGIN} and {END}")
    return head + section() + tail


def main(arguments: list[str]) -> None:
    """Print the table, or write the page."""
    if arguments == ["--write"]:
        PAGE.write_text(with_section(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    console = Console(soft_wrap=False)
    for kind, found in by_kind():
        table = Table(
            "what happens", "promise", "test", title=f"{kind}: {len(found)}", title_justify="left", expand=True
        )
        for fault in found:
            table.add_row(fault.name, fault.promise, fault.test)
        console.print(table)
    console.print(f"{len(FAULTS)} faults")


if __name__ == "__main__":
    main(sys.argv[1:])
