"""The log's questions with ours and with a run's answers, joined by DuckDB and read in batches.

In: the stages `logs`, `prompts` and, with run=, `samples`. Out: `Pair`s. A split of which the log has no question is
left out: the harness evaluates one split, and the other is no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow.dataset as pads

from pipeline import duck
from pipeline.harness.compare import Answered, Difference, Ours, Pair
from pipeline.harness.lines import Logged
from pipeline.store import Stage

BATCH_ROWS = 256

_SPLITS = """
SELECT split, count(*) FILTER (id IN (SELECT id FROM theirs)) AS num_shared FROM ours GROUP BY split ORDER BY split
"""

_TWICE = """
SELECT id, count(*) AS num, min(line) AS first, max(line) AS last FROM theirs
GROUP BY id, filter HAVING count(*) > 1 ORDER BY id
"""

_PAIRS = """
SELECT
    CASE WHEN theirs.id IS NOT NULL THEN theirs END AS theirs,
    CASE WHEN ours.id IS NOT NULL THEN ours END AS ours,
    CASE WHEN answered.id IS NOT NULL THEN answered END AS answered
FROM theirs
FULL JOIN (FROM ours WHERE split IN (SELECT unnest($splits))) AS ours USING (id)
LEFT JOIN answered ON answered.id = theirs.id
WHERE ours.id IS NOT NULL OR NOT $is_limited
"""


@dataclass(frozen=True, slots=True)
class Sides:
    """One task's tables in a database, called theirs, ours and answered, and the splits that the log has."""

    database: duckdb.DuckDBPyConnection
    splits: tuple[str, ...]
    left_out: tuple[str, ...]

    def twice(self) -> Iterator[Difference]:
        """Yield the questions that the log has more than once under one filter."""
        for batch in duck.batches(self.database, _TWICE, rows=BATCH_ROWS):
            for row in batch.to_pylist():
                theirs = f"{row['num']} lines, the first {row['first']}, the last {row['last']}"
                yield Difference(id=row["id"], field="id", theirs=theirs, ours="1 row")

    def pairs(self, *, is_limited: bool) -> Iterator[Pair]:
        """Yield every question that either side has, in no order.

        Args:
            is_limited: Ours are the first rows only: what else the log has is not compared.
        """
        parameters = {"splits": list(self.splits), "is_limited": is_limited}
        for batch in duck.batches(self.database, _PAIRS, parameters, rows=BATCH_ROWS):
            for row in batch.to_pylist():
                yield Pair(
                    theirs=None if row["theirs"] is None else Logged(**row["theirs"]),
                    ours=None if row["ours"] is None else Ours(**row["ours"]),
                    answered=None if row["answered"] is None else Answered(**row["answered"]),
                )


def sides(database: duckdb.DuckDBPyConnection, task: str, logs: Stage, prompts: Stage, samples: Stage | None) -> Sides:
    """Open a task's sides; they are read while the connection is open and no other task's sides are opened."""
    of_task = pads.field("task") == task
    database.register("theirs", _scan(logs, Logged, of_task))
    database.register("ours", _scan(prompts, Ours, of_task))
    if samples is not None:
        database.register("answered", _scan(samples, Answered, of_task & (pads.field("repeat") == 0)))
    else:
        database.execute("CREATE OR REPLACE TEMP VIEW answered AS SELECT NULL::BIGINT AS id, NULL AS response")
    found: list[dict[str, Any]] = database.sql(_SPLITS).to_arrow_table().to_pylist()
    return Sides(
        database,
        tuple(row["split"] for row in found if row["num_shared"]),
        tuple(row["split"] for row in found if not row["num_shared"]),
    )


def _scan(stage: Stage, record: type[Logged | Ours | Answered], where: pads.Expression) -> pads.Scanner:
    """Return a record's columns of one task, read in order: without its bounds Arrow reads gigabytes ahead."""
    columns = list(record.__dataclass_fields__)
    return stage.dataset().scanner(
        columns=columns,
        filter=where,
        batch_size=BATCH_ROWS,
        batch_readahead=2,
        fragment_readahead=1,
        use_threads=False,
    )
