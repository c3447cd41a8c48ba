"""What the commands list, prune and board do: arguments in, a table, JSON or a page out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from pipeline.errors import ConfigError, PipelineError, RunError
from pipeline.overview.run_list import find, open_output
from pipeline.overview.terminal_table import runs_as_json, show_rows, show_runs
from pipeline.terminal.console import print_line
from pipeline.terminal.text import counted, escape_control

MOST_ROWS = 500
"""Maximum number of rows of a query on the terminal; JSON has all."""


def show_list(output_dir: str, model: str | None, last: int, console: Console, *, as_json: bool) -> None:
    """Print the newest runs of a directory.

    Raises:
        RunError: There is no such directory, or it cannot be reached.
    """
    output = open_output(output_dir)
    found = find(output, model=model, last=last)
    if as_json:
        print(runs_as_json(found))
    else:
        show_runs(found, output.shown(), console)


def show_query(output_dir: str, text: str, console: Console, *, as_json: bool) -> None:
    """Print the rows that a query returns: a table, or one JSON object a line.

    Raises:
        ConfigError: The query is no single SELECT, or fails, or as JSON two of its columns have the same name.
        RunError: There is no such directory, or it cannot be reached.
        DataError: A file of a run cannot be read.
    """
    from pipeline.overview import sql  # DuckDB is slow to import, and the list does not need it

    with sql.answer(open_output(output_dir), text) as (columns, rows):
        if as_json:
            _require_distinct(columns)
            for row in rows:
                print(json.dumps(_as_json(dict(zip(columns, row, strict=True))), default=str, allow_nan=False))
            return
        shown = list(islice(rows, MOST_ROWS + 1))
    show_rows(columns, shown[:MOST_ROWS], console, has_more=len(shown) > MOST_ROWS)


def _require_distinct(columns: Sequence[str]) -> None:
    """Check that a JSON object can hold all columns.

    Raises:
        ConfigError: Two have the same name.
    """
    name = next((each for each in columns if columns.count(each) > 1), None)
    if name is not None:
        raise ConfigError(f"sql=: two columns are called {name!r}, and JSON would have one of them: name one with AS")


def _as_json(value: Any) -> Any:
    """Return a value that JSON can hold: keys are text, and numbers that JSON lacks are text, such as "nan"."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def show_prune(output_dir: str, keep_days: int, console: Console, *, is_applied: bool) -> None:
    """Print what is removed of old runs and, with `is_applied`, remove it.

    Raises:
        RunError: There is no such directory, or it cannot be reached; or some runs could not be pruned.
    """
    from pipeline.overview import prune

    output = open_output(output_dir)
    plan = prune.plan(output, keep_days)

    def show(line: str) -> None:
        print_line(console, line)

    for line in plan.unread:
        show(f"warning: {line}")
    for run_id, reason in plan.kept.items():
        show(f"kept: run={run_id}: {reason}")
    failures: list[str] = []
    num_bytes = 0
    for run in plan.runs:
        parts = ", ".join(f"{part.name} {decimal(part.num_bytes)}" for part in run.parts)
        show(f"{'remove' if is_applied else 'would remove'}: run={run.run_id} ({run.model}): {parts}")
        if is_applied:
            try:
                problem = prune.apply(output, run)
                if problem is not None:
                    show(f"  {problem}")
            except PipelineError as error:
                failures.append(run.run_id)
                show(f"  not removed: {error}")
                continue
        num_bytes += run.num_bytes
    what = f"{decimal(num_bytes)} of {counted(len(plan.runs) - len(failures), 'run')}"
    if failures:
        raise RunError(f"{what} removed; {counted(len(failures), 'run')} could not be pruned, by the lines above")
    if is_applied:
        show(f"{what} removed; scores, manifests and the index stay")
    elif plan.runs:
        show(f"{what} would be removed: apply=true removes it")
    else:
        show(f"nothing to remove: no run that may be pruned ended more than {counted(keep_days, 'day')} ago")


def write_board(output_dir: str | None, runs: str | None, out: str | None, console: Console) -> None:
    """Write the board and print where it is.

    Raises:
        ConfigError: Both a directory and runs are given, or no run.
        RunError: A directory does not exist, cannot be reached or cannot be written.
        DataError: A run that is named cannot be read.
    """
    from pipeline.overview import page

    if output_dir is not None and runs is not None:
        raise ConfigError("output_dir= and runs= are both given: give the directory of all runs, or a list of some")
    if runs is not None:
        directories = [each for each in runs.split(",") if each.strip()]
        if not directories:
            raise ConfigError(f"runs={runs!r} names no run: give their directories, separated by commas")
        written, unread = page.write_page_of(directories, out or "board.html")
    else:
        written, unread = page.write_page(output_dir or "outputs", out)
    for line in unread:
        print_line(console, f"warning: {line}")
    console.print(f"  {escape_control(written)}  the board of all runs", soft_wrap=True)
