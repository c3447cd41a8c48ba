"""Prints the runs, or the rows of a query, on the terminal, as a table or as JSON; every foreign text is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.overview.run_list import ListedRun, RunList, headline
from pipeline.runs.index import IndexEntry
from pipeline.terminal.console import print_line
from pipeline.terminal.tables import plain_table
from pipeline.terminal.text import escape_control, truncate

MOST_CHARACTERS = 200
"""Maximum number of characters of a cell; JSON has all."""


def show_runs(found: RunList, where: str, console: Console) -> None:
    """Print the runs, newest first, and what could not be read."""
    if not found.runs:
        console.print(f"there are no such runs in {where}", soft_wrap=True)
    else:
        table = _table(["run", "model", "date (UTC)", "score", "95% interval", "gate", "status", "failed", "time"])
        for run in found.runs:
            table.add_row(*(Text(escape_control(cell)) for cell in _cells(run)), style=_style(run))
        console.print(table)
    for line in found.unread:
        print_line(console, f"warning: {line}")


def runs_as_json(found: RunList) -> str:
    """Return the runs as a JSON list, newest first: run_id, status, model, date, reason, and the index entry."""
    return json.dumps([asdict(run) for run in found.runs], indent=1, allow_nan=False)


def show_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], console: Console, *, has_more: bool) -> None:
    """Print the rows of a query; `has_more` is whether rows were left out."""
    table = _table([escape_control(name) for name in columns])
    for row in rows:
        table.add_row(*(Text(_cell(cell)) for cell in row))
    console.print(table)
    if has_more:
        console.print("more rows follow: add LIMIT and OFFSET, or json=true for all of them", soft_wrap=True)


def _table(columns: Sequence[str]) -> Table:
    table = plain_table()
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    return table


def _cell(value: Any) -> str:
    return "-" if value is None else escape_control(truncate(str(value), MOST_CHARACTERS))


def _cells(run: ListedRun) -> list[str]:
    date = (run.date or "-").removesuffix("Z").replace("T", " ")[:16]
    status = run.status if run.reason is None else f"{run.status}: {truncate(run.reason, 80)}"
    entry = run.entry
    if entry is None:
        return [run.run_id, truncate(run.model or "-", 40), date, "-", "-", "-", status, "-", "-"]
    score = headline(entry)
    value = "-" if score is None else f"{score.value:.3f} {score.split}"
    interval = "-"
    if score is not None and score.ci_low is not None and score.ci_high is not None:
        interval = f"{score.ci_low:.3f} to {score.ci_high:.3f}"
    limited = f" (limit={entry.limit})" if entry.limit is not None else ""
    if entry.pruned_at is not None:
        status = f"pruned {entry.pruned_at[:10]}"
    failed = "-" if entry.num_failed is None else f"{entry.num_failed:,}"
    model = truncate(entry.model_name, 40)
    return [
        run.run_id + limited,
        model,
        date,
        value,
        interval,
        gate_text(entry),
        status,
        failed,
        duration(entry.seconds),
    ]


def gate_text(entry: IndexEntry) -> str:
    """Return the verdict of a run's gate: kept, or the rules that it breaks; "-" if no rule was set."""
    if entry.gate is None:
        return "-"
    if not entry.gate.broken:
        return "kept"
    return f"broken: {truncate(', '.join(entry.gate.broken), 60)}"


def duration(seconds: float | None) -> str:
    """Return a duration as hours and minutes, or as minutes and seconds below an hour; "-" if it is unknown."""
    if seconds is None or not 0 <= seconds < 10**9:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}h {minutes % 60:02}m" if minutes >= 60 else f"{minutes}m {rest:02}s"


def _style(run: ListedRun) -> str:
    if run.status in ("failed", "crashed") or (run.entry is not None and not run.entry.kept_gate):
        return "red"
    return "dim" if run.entry is None else ""
