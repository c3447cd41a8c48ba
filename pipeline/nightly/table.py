"""The table printed at the end of a night, and the lines below it: reasons, reports and what else was written."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from pipeline.nightly.record import NightRecord, RunRecord
from pipeline.terminal.tables import plain_table, with_interval
from pipeline.terminal.text import escape_control, one_line

LONGEST_MODEL = 40
"""Characters of a model's name in the table."""


def table(record: NightRecord) -> Table:
    """Return a row for each run."""
    found = plain_table()
    for name in ("run", "model", "status"):
        found.add_column(name, overflow="fold")
    for name in ("score ±95%", "change", "gate"):
        found.add_column(name)
    for name in ("failed", "tokens", "seconds"):
        found.add_column(name, justify="right")
    for run in record.runs:
        found.add_row(*map(escape_lines, _cells(run)))
    return found


def escape_lines(text: str) -> str:
    """Return a text of several lines without other control characters."""
    return escape_control(text, keep="\n")


def _cells(run: RunRecord) -> list[str]:
    scores = run.main_scores
    changes = [run.change(score.split) for score in scores]
    status = "complete before" if run.was_complete else run.status
    code = f" ({run.exit_code})" if run.exit_code else ""
    return [
        run.name,
        one_line(run.model or "-", 1_000)[-LONGEST_MODEL:],
        f"{status}{code}",
        "\n".join(f"{each.split} {with_interval(each.value, each.ci_low, each.ci_high)}" for each in scores) or "-",
        "\n".join("-" if change is None else f"{change['difference']:+.3f}" for change in changes) or "-",
        "-" if run.gate is None else ("broken" if run.broken else "kept"),
        _count(run.num_failed),
        _count(run.num_output_tokens),
        "-" if run.seconds is None else f"{run.seconds:,.1f}",
    ]


def lines(record: NightRecord) -> Iterator[str]:
    """Yield the lines below the table: why runs failed, which rules are broken, and where the reports are."""
    for run in record.runs:
        if run.reason is not None:
            yield f"{run.name}: {run.reason}"
        for rule in run.gate["rules"] if run.gate is not None else ():
            if rule["broken"]:
                yield f"{run.name}: gate: broken: {rule['name']}: {rule['line']}"
    for run in record.runs:
        if run.report is not None:
            yield f"  {run.report}  report of {run.name}"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
