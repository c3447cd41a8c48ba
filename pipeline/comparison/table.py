"""Prints a comparison on the terminal: differences between the runs, a row per change, the first flipped questions."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.comparison.compare_runs import CHANGES_FILE, FLIPS_FILE, PAGE_FILE
from pipeline.comparison.html import cells
from pipeline.comparison.significance import Comparison
from pipeline.metrics.names import BEHAVIOUR_METRICS
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import escape_control, truncate

MOST_FLIPS = 20
"""Maximum number of flipped questions on the terminal; flips.parquet has all."""


def show(comparison: Comparison, out: ArtifactStore, console: Console) -> None:
    """Print a comparison and the paths of its files in `out`."""
    for each in comparison.differences:
        console.print(f"warning: {escape_control(each.line)}", soft_wrap=True)
    columns = ("task or domain", "split", "metric", "base", "new", "change", "95% interval", "p, Holm", "n")
    names = ("task", "split", "metric", "base", "new", "change", "interval", "p_holm", "num_questions")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate((*columns, "lost", "gained", "detectable")):
        table.add_column(column, justify="left" if number < 3 else "right", no_wrap=number != 0, overflow="fold")
    styles = {"better": "green", "worse": "red", "": ""}
    level = None
    for row in comparison.rows:
        if row.metric in BEHAVIOUR_METRICS and row.difference == 0:
            continue
        if level not in (None, row.level):
            table.add_section()
        level, cell = row.level, cells(row)
        texts = [Text(escape_control(cell[name])) for name in (*names, "lost", "gained", "detectable")]
        table.add_row(*texts, style=styles[cell["sign"]])
    console.print(table)
    console.print(
        "Holm's family: all rows with the same metric. em and correct of a task by McNemar's exact test, else the "
        "paired bootstrap; detectable: the true difference that is found 8 times in 10",
        soft_wrap=True,
    )
    rows = comparison.flipped.slice(0, MOST_FLIPS).to_pylist()
    console.print(f"{comparison.num_flips:,} flips of em or correct" + (", the first of them:" if rows else ""))
    for row in rows:
        answers = f"{_short(row['base_answer'])} -> {_short(row['new_answer'])}, gold {_short(row['gold'])}"
        line = f"  {row['flip']:<6} {row['task']} {row['split']} {row['id']} {row['metric']}: {answers}"
        console.print(escape_control(line), soft_wrap=True)
    for name, what in ((CHANGES_FILE, "every change"), (FLIPS_FILE, "every flipped question"), (PAGE_FILE, "the page")):
        console.print(escape_control(f"  {out.shown(name)}  {what}"), soft_wrap=True)


def _short(text: str | None) -> str:
    return "-" if text is None else truncate(text, 40, "…")
