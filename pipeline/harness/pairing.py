"""Pairs the log's questions with ours and with a run's responses; DuckDB joins one range of ids at a time.

In: the artifacts `logs`, `prompts` and, with run=, `samples`. Out: `Pair`s, sorted by id. A split without a question in
the log is left out: the harness evaluates one split, so the other is no difference. Files that are sorted by id, as the
benchmark's are, are read once; others once per range.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow.compute as pc

from pipeline.harness.diff import Answered, Ours, Pair
from pipeline.harness.log_lines import Logged
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact
from pipeline.storage.partitions import id_ranges

BATCH_ROWS = 256
IDS_PER_RANGE = 20_000
"""Questions joined at once; with 10,000 tokens each they take about a gigabyte."""

_SPLITS = """
SELECT split, count(*) FILTER (id IN (SELECT id FROM theirs)) AS num_shared FROM ours GROUP BY split ORDER BY split
"""

_IDS = """
SELECT $task AS task, NULL AS split, id FROM (
    SELECT id FROM ours WHERE split IN (SELECT unnest($splits)) UNION SELECT id FROM theirs WHERE NOT $is_limited
)
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
ORDER BY coalesce(theirs.id, ours.id), theirs.line
"""

_NO_RESPONSES = "CREATE OR REPLACE TEMP VIEW answered AS SELECT NULL::BIGINT AS id, NULL::VARCHAR AS response"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedSources:
    """One task's log, our questions and a run's samples. The log covers `splits`, and lacks those in `left_out`."""

    task: str
    logs: Artifact
    prompts: Artifact
    samples: Artifact | None
    splits: tuple[str, ...]
    left_out: tuple[str, ...]

    def pairs(self, *, is_limited: bool, ids_per_range: int = IDS_PER_RANGE) -> Iterator[Pair]:
        """Yield every question that either side has, sorted by id; each line of the log is a pair.

        Args:
            is_limited: Our side has only the first rows; other questions of the log are not compared.
            ids_per_range: Questions to join at once.
        """
        parameters = {"splits": list(self.splits), "is_limited": is_limited}
        with query.connection() as database:
            _register_ids(database, self.task, self.logs, self.prompts)
            for ids in id_ranges(database, _IDS, ids_per_range, parameters | {"task": self.task}):
                self._register(database, ids.rows)
                yield from _of_range(database, parameters)

    def _register(self, database: duckdb.DuckDBPyConnection, rows: pc.Expression) -> None:
        database.register("theirs", query.scanner(self.logs, list(Logged.__dataclass_fields__), rows))
        database.register("ours", query.scanner(self.prompts, list(Ours.__dataclass_fields__), rows))
        if self.samples is None:
            database.execute(_NO_RESPONSES)
        else:
            first_repeat = rows & (pc.field("repeat") == 0)
            database.register(
                "answered", query.scanner(self.samples, list(Answered.__dataclass_fields__), first_repeat)
            )


def pair_sources(task: str, logs: Artifact, prompts: Artifact, samples: Artifact | None) -> PairedSources:
    """Return the sources of a task, with the splits that its log covers."""
    with query.connection() as database:
        _register_ids(database, task, logs, prompts)
        found = query.rows(database, _SPLITS)
    return PairedSources(
        task=task,
        logs=logs,
        prompts=prompts,
        samples=samples,
        splits=tuple(row["split"] for row in found if row["num_shared"]),
        left_out=tuple(row["split"] for row in found if not row["num_shared"]),
    )


def _of_range(database: duckdb.DuckDBPyConnection, parameters: dict[str, Any]) -> Iterator[Pair]:
    last_id: int | None = None
    filters: set[str] = set()
    for batch in query.batches(database, _PAIRS, parameters, rows=BATCH_ROWS):
        for row in batch.to_pylist():
            theirs = None if row["theirs"] is None else Logged(**row["theirs"])
            is_duplicate = False
            if theirs is not None:
                filters = filters if theirs.id == last_id else set()
                is_duplicate = theirs.filter in filters
                filters.add(theirs.filter)
                last_id = theirs.id
            yield Pair(
                theirs=theirs,
                ours=None if row["ours"] is None else Ours(**row["ours"]),
                answered=None if row["answered"] is None else Answered(**row["answered"]),
                is_duplicate=is_duplicate,
            )


def _register_ids(database: duckdb.DuckDBPyConnection, task: str, logs: Artifact, prompts: Artifact) -> None:
    of_task = query.cell(task, None)
    database.register("theirs", query.scanner(logs, ["id"], of_task))
    database.register("ours", query.scanner(prompts, ["id", "split"], of_task))
