"""Prints the result of a replay: a table of the tasks, the splits that are left out, and a table of the differences.

In: the tallies and differences.parquet. Out: lines on a console. Content of a log is printed as plain text: it is never
parsed as markup, and no control character reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.harness.tally import COLUMNS, Tally, Verdict
from pipeline.storage import query
from pipeline.terminal.text import DOT, escape_control

if TYPE_CHECKING:
    import pyarrow.dataset as pads

VERDICTS = get_args(Verdict)
LEGEND = (
    "Each column counts the questions that agree. By their letters, responses are gained (right, though not exact),\n"
    "lost (exact, though not the letters) or read (the gold is hidden)."
)
MAX_KINDS = 20
EXCERPT_CHARS = 36
"""Maximum characters of a value in the table."""

_KINDS = """
SELECT task, field, count(*) AS num, arg_min({id: id, theirs: theirs, ours: ours}, id) AS first
FROM differences GROUP BY task, field ORDER BY num DESC, task, field LIMIT $most
"""


def print_report(console: Console, tallies: Mapping[str, Tally], differences: pads.Dataset, *, with_run: bool) -> None:
    """Print a row per task, a line per split that is left out, and a row per task and field that differs."""
    console.print(_tasks(tallies, with_run))
    console.print(LEGEND)
    for task, tally in tallies.items():
        for split in tally.left_out:
            console.print(f"{task}: the log has no question of the split {split}; it is not compared")
    with query.connection() as database:
        database.register("differences", differences)
        rows = query.rows(database, _KINDS, {"most": MAX_KINDS})
    if rows:
        table = _table("task", "field", "differences", "first id", "theirs", "ours")
        for row in rows:
            first = row["first"]
            theirs, ours = excerpts(first["theirs"], first["ours"])
            field = escape_control(row["field"], mark=DOT)
            cells = [row["task"], field, f"{row['num']:,}", str(first["id"]), theirs, ours]
            table.add_row(*map(Text, cells))
        console.print(table)


def excerpts(theirs: str | None, ours: str | None) -> tuple[str, str]:
    """Return excerpts of both values that start just before they diverge, without control characters; null for None."""
    start = 0
    if theirs is not None and ours is not None:
        length = min(len(theirs), len(ours))
        divergence = next((at for at in range(length) if theirs[at] != ours[at]), length)
        start = (
            divergence - EXCERPT_CHARS // 3
            if max(len(theirs), len(ours)) > EXCERPT_CHARS and divergence > EXCERPT_CHARS // 3
            else 0
        )
    return _excerpt(theirs, start), _excerpt(ours, start)


def _excerpt(value: str | None, start: int) -> str:
    if value is None:
        return "null"
    text = escape_control(value[start : start + EXCERPT_CHARS], mark=DOT)
    return f"{'…' if start else ''}{text}{'…' if len(value) > start + EXCERPT_CHARS else ''}"


def _tasks(tallies: Mapping[str, Tally], with_run: bool) -> Table:
    columns = [column for column in COLUMNS if with_run or column != "run"]
    table = _table("task", "n", "compared", *columns, *VERDICTS)
    for task, tally in tallies.items():
        counts = [tally.num_logged, tally.num_compared, *(tally.num_equal[column] for column in columns)]
        counts += [tally.verdicts[verdict] for verdict in VERDICTS]
        table.add_row(task, *(f"{count:,}" for count in counts))
    return table


def _table(first: str, *names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, no_wrap=True)
    for name in names:
        is_value = name in ("theirs", "ours")
        table.add_column(
            name,
            justify="left" if is_value or name == "field" else "right",
            no_wrap=not is_value,
            overflow="fold" if is_value else "ellipsis",
        )
    return table
