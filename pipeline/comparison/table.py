"""Prints a comparison on the terminal: verdict, differences between the runs, changes, the first flipped questions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from pipeline.comparison.compare_runs import CHANGES_FILE, FLIPS_FILE, JSON_FILE, PAGE_FILE
from pipeline.comparison.html import cells
from pipeline.comparison.significance import Comparison
from pipeline.comparison.verdict import is_identical, is_worth_showing, verdict
from pipeline.records import MetricChange
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.tables import plain_table
from pipeline.terminal.text import escape_control, truncate

MOST_FLIPS = 20
"""Maximum number of flipped questions on the terminal; flips.parquet has all."""


def show(comparison: Comparison, out: ArtifactStore, console: Console) -> None:
    """Print a comparison and the paths of its files in `out`, the verdict first."""
    console.print(escape_control(verdict(comparison)), soft_wrap=True, style="bold")
    if is_identical(comparison) and not comparison.differences:
        console.print(f"  {out.shown(PAGE_FILE)}", soft_wrap=True)
        return
    for each in comparison.differences:
        console.print(f"warning: {escape_control(each.line)}", soft_wrap=True)
    rows = [row for row in comparison.rows if is_worth_showing(row)]
    if rows:
        _show_changes(rows, console)
    _show_flips(comparison, console)
    files = ((CHANGES_FILE, "every change"), (FLIPS_FILE, "every flipped question"), (JSON_FILE, "for programs"))
    for name, what in (*files, (PAGE_FILE, "the page")):
        console.print(f"  {out.shown(name)}  {what}", soft_wrap=True)


def _show_changes(rows: Sequence[MetricChange], console: Console) -> None:
    columns = ("task or domain", "split", "metric", "base", "new", "change", "95% interval", "p, Holm", "n")
    names = ("task", "split", "metric", "base", "new", "change", "interval", "p_holm", "num_questions")
    table = plain_table()
    for number, column in enumerate((*columns, "lost", "gained", "detectable")):
        table.add_column(column, justify="left" if number < 3 else "right", no_wrap=number != 0, overflow="fold")
    styles = {"better": "green", "worse": "red", "": ""}
    level = None
    for row in rows:
        if level not in (None, row.level):
            table.add_section()
        level, cell = row.level, cells(row)
        texts = [Text(escape_control(cell[name])) for name in (*names, "lost", "gained", "detectable")]
        table.add_row(*texts, style=styles[cell["sign"]])
    console.print(table)
    console.print(
        "p by sign flips (McNemar's test where an answer is right or wrong), adjusted by Holm over the tests of a "
        "metric; detectable: the true change that such a test finds 8 times in 10",
        soft_wrap=True,
    )


def _show_flips(comparison: Comparison, console: Console) -> None:
    rows = comparison.flipped.slice(0, MOST_FLIPS).to_pylist()
    console.print(f"{comparison.num_flips:,} flips of em or correct" + (", the first of them:" if rows else ""))
    for row in rows:
        answers = f"{_short(row['base_answer'])} -> {_short(row['new_answer'])}, gold {_short(row['gold'])}"
        line = f"  {row['flip']:<6} {row['task']} {row['split']} {row['id']} {row['metric']}: {answers}"
        console.print(escape_control(line), soft_wrap=True)


def _short(text: str | None) -> str:
    return "-" if text is None else truncate(text, 40, "…")
