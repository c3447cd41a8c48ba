"""Two runs in, what has changed between them out: compare.parquet, flips.parquet and compare.html.

Memory does not grow with the questions: a task and split is paired at a time, and its flips are written as they are
read. The files replace those of an earlier comparison together, as a stage does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline import duck
from pipeline.comparison import page
from pipeline.comparison.changes import Row, changes, to_table
from pipeline.comparison.differences import Difference, differences
from pipeline.comparison.questions import FLIP_SCHEMA, Asked, Paired, Side, flips, pair, require_same
from pipeline.store import Folder

CHANGES_FILE = "compare.parquet"
FLIPS_FILE = "flips.parquet"
PAGE_FILE = "compare.html"

MOST_SHOWN = 500
"""Flipped questions that the page shows; flips.parquet has them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What has changed between two runs.

    `flipped` is the first `MOST_SHOWN` rows of flips.parquet, `num_flips` the number of all.
    """

    base: Side
    new: Side
    asked: Sequence[Asked]
    rows: Sequence[Row]
    differences: Sequence[Difference]
    flipped: pa.Table
    num_flips: int


def compare(base: Side, new: Side, out: Folder) -> Comparison:
    """Compare two runs and write what is found into `out`.

    Raises:
        Incomparable: The runs do not ask the same questions.
        RunError: `out` cannot be written.
        DataError: A file of theirs is damaged.
    """
    asked = require_same(base, new)
    out.create()
    partial = {name: f".{name}.partial" for name in (FLIPS_FILE, CHANGES_FILE)}
    try:
        with duck.connection() as database:
            found: list[Paired] = []
            shown: list[pa.RecordBatch] = []
            batches = _pair_all(database, base, new, asked, found, shown)
            num_flips = out.write_parquet(partial[FLIPS_FILE], FLIP_SCHEMA, batches)
        domains = {name: task.domain for name, task in new.config.active_tasks.items()}
        single = base.config.generation.repeats == new.config.generation.repeats == 1
        rows = changes(found, domains, single=single)
        table = to_table(rows)
        out.write_parquet(partial[CHANGES_FILE], table.schema, [table])
        comparison = Comparison(
            base=base,
            new=new,
            asked=asked,
            rows=rows,
            differences=differences(base, new, asked),
            flipped=pa.Table.from_batches(shown, schema=FLIP_SCHEMA).slice(0, MOST_SHOWN),
            num_flips=num_flips,
        )
        html = page.render(comparison)
        with out.writing():
            for name, written in partial.items():
                out.fs.move(out.path(written), out.path(name))
        out.write_text(PAGE_FILE, html)
    finally:
        for written in partial.values():
            out.remove(written)
    return comparison


def _pair_all(
    database: duckdb.DuckDBPyConnection,
    base: Side,
    new: Side,
    asked: Sequence[Asked],
    found: list[Paired],
    shown: list[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Give every flip, and on the way gather what was counted and the flips that are shown."""
    num_shown = 0
    for each in asked:
        found.append(pair(database, base, new, each))
        for batch in flips(database, base, new, each):
            if num_shown < MOST_SHOWN:
                shown.append(batch)
                num_shown += batch.num_rows
            yield batch
