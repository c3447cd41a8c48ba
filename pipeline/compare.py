"""Compare two complete runs over the same questions, question by question.

python -m pipeline.compare base=outputs/run=2026-11-20 new=outputs/run=2026-11-21 [out=<directory>]

In: the two runs, which are only read. Out: a table on the terminal, and compare.parquet, flips.parquet and compare.html
in `out`; by default in `compare=<base>..<new>` beside the new run. The exit code tells nothing of the scores: that is
the gate's part, in a run's configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.cli import command
from pipeline.errors import ConfigError
from pipeline.terminal.text import escape_control, truncate

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.comparison.compare_runs import Comparison
    from pipeline.comparison.pairing import ComparedRun
    from pipeline.storage.artifacts import ArtifactStore

MOST_FLIPS = 20
"""Flipped questions that are listed on the terminal; flips.parquet has them all."""


def main(arguments: list[str]) -> None:
    """Compare the runs that `base=` and `new=` name.

    Raises:
        ConfigError: A word is unknown, missing or given twice.
        RunError: There is no such run, one is not complete, or their questions differ.
        DataError: A file of theirs is damaged.
    """
    named = _named(arguments)
    base, new = open_run(named["base"], "base"), open_run(named["new"], "new")

    # What is heavy comes after what the user may have got wrong.
    from pipeline.comparison.compare_runs import compare
    from pipeline.storage.artifacts import ArtifactStore
    from pipeline.terminal.console import plain

    out = ArtifactStore.open(named["out"]) if "out" in named else _default_output(base, new)
    comparison = compare(base, new, out)
    show(comparison, plain(), out)


def _named(arguments: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in ("base", "new", "out") or not value or name in named:
            raise ConfigError(f"{argument!r}: the words are base=<run> new=<run> and out=<directory>, each once")
        named[name] = value
    for name in ("base", "new"):
        if name not in named:
            raise ConfigError(f"{name}= is missing: give the directory of a run, for instance {name}=outputs/run=one")
    return named


def open_run(directory: str, argument: str) -> ComparedRun:
    """Open a run that is compared.

    Raises:
        RunError: There is no such run, or it is not complete.
        DataError: A file of it is damaged.
    """
    from pipeline.runs import directory as run_directory

    folder, config = run_directory.open_finished(directory, argument=argument)
    content = run_directory.require_complete(folder)

    from pipeline.comparison.pairing import ComparedRun

    return ComparedRun.of(folder, config, content)


def _default_output(base: ComparedRun, new: ComparedRun) -> ArtifactStore:
    from pipeline.storage.artifacts import ArtifactStore

    parent = ArtifactStore(new.folder.fs, new.folder.root.rpartition("/")[0])
    return parent.child(f"compare={base.config.run_id}..{new.config.run_id}")


def show(comparison: Comparison, console: Console, out: ArtifactStore) -> None:
    """Print what has changed."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from pipeline.comparison.compare_runs import CHANGES_FILE, FLIPS_FILE, PAGE_FILE
    from pipeline.comparison.html import cells
    from pipeline.metrics.names import BEHAVIOUR_METRICS

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
        console.print(f"  {out.path(name)}  {what}", soft_wrap=True)


def _short(text: str | None) -> str:
    return "-" if text is None else truncate(text, 40, "…")


if __name__ == "__main__":
    raise SystemExit(command(main))
