"""From journals to completions/: one row a question and repeat, none missing, none twice.

In: the prompts stage and the journals. Out: the completions stage, sorted by id and repeat. Runs on the driver when
the engines are done; what it holds in memory does not grow with the rows: the journals' lines are shared out to
buckets on the disk, one a range of ids, and each bucket is cleared of doubles and sorted alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby, islice
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.generate import journal
from pipeline.records import COMPLETION_SCHEMA
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.storage.partitions import MAX_PARTITIONS, IdRange, SpillPartitions, id_ranges, spill_partitions

BATCH_ROWS = 1_000
ROWS_PER_PARTITION = 10_000
"""Rows that are sorted at a time; at 10,000 tokens a row they are about 800 MB."""

ROWS_PER_FILE = 50_000

_RANGE_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string()),
        pa.field("split", pa.string()),
        pa.field("first_id", pa.int64()),
        pa.field("last_id", pa.int64()),
        pa.field("partition", pa.int64()),
    ]
)

# Lines of prompts that are not asked any more fall away here.
NUMBERED_SQL = """
    SELECT lines.*, partition FROM lines
    JOIN ranges ON lines.task = ranges.task AND lines.split = ranges.split AND id BETWEEN first_id AND last_id
    WHERE repeat < $repeats
"""

# A worker that died after it journaled a row and before it reported it leaves the row to another: one of the two
# counts, and an answer before an error. Lines of prompts that have changed since are not looked at. A prompt that
# could not be asked becomes a completion with the same error.
PART_SQL = """
    WITH journaled AS (
        SELECT l.* FROM lines l SEMI JOIN prompts p
            ON l.id = p.id AND l.prompt_sha256 = p.prompt_sha256 AND p.error IS NULL
        QUALIFY row_number() OVER (PARTITION BY l.id, l.repeat ORDER BY l.error IS NOT NULL) = 1
    ), refused AS (
        SELECT task, split, id, CAST(r.repeat AS INTEGER) AS repeat, prompt_sha256, 'error' AS finish_reason,
            num_prompt_tokens, error, 0 AS attempts
        FROM prompts, (SELECT unnest(range($repeats)) AS repeat) r
        WHERE error IS NOT NULL
    )
    SELECT * FROM (SELECT * FROM journaled UNION ALL BY NAME SELECT * FROM refused) ORDER BY id, repeat
"""


def commit(run: ArtifactStore, prompts: Artifact, repeats: int, metadata: Mapping[str, Any]) -> None:
    """Publish the completions stage.

    Args:
        run: The run's directory, with its journals.
        prompts: Its prompts.
        repeats: Completions a question.
        metadata: What to record with the stage.

    Raises:
        RunError: The run's directory or the temporary one is full.
        RuntimeError: A question has no completion, which no fault of a row explains.
    """
    expected = prompts.num_rows * repeats
    with (
        run.publish("completions", COMPLETION_SCHEMA, metadata) as folder,
        query.connection() as database,
        spill_partitions(COMPLETION_SCHEMA) as shared,
    ):
        size = max(ROWS_PER_PARTITION, expected // MAX_PARTITIONS + 1)
        database.register("prompts", query.scanner(prompts, ["task", "split", "id"]))
        ranges = id_ranges(database, "FROM prompts", max(1, size // repeats))
        _share_out(database, ranges, _batches(journal.read(run.child(journal.FOLDER))), repeats, shared)
        num_rows = 0
        for (task, split), group in groupby(enumerate(ranges), key=lambda each: (each[1].task, each[1].split)):
            rows = (
                batch
                for partition, ids in group
                for batch in _rows(database, prompts, ids, shared.read(partition), repeats)
            )
            num_rows += folder.write_parts(f"task={task}/split={split}", COMPLETION_SCHEMA, rows, ROWS_PER_FILE)
        if num_rows != expected:
            raise RuntimeError(f"{expected} completions expected, {num_rows} found in the journals of {run.root}")


def _share_out(
    database: duckdb.DuckDBPyConnection,
    ranges: Sequence[IdRange],
    batches: Iterable[pa.RecordBatch],
    repeats: int,
    shared: SpillPartitions,
) -> None:
    """Spill the lines, those of each range into the partition with the range's place in the list."""
    rows = [asdict(ids) | {"partition": partition} for partition, ids in enumerate(ranges)]
    database.register("ranges", pa.Table.from_pylist(rows, schema=_RANGE_SCHEMA))
    for batch in batches:
        database.register("lines", pa.Table.from_batches([batch]))
        for found in query.batches(database, NUMBERED_SQL, {"repeats": repeats}, rows=BATCH_ROWS):
            numbers = found.column("partition").to_numpy()
            shared.add(found.select(COMPLETION_SCHEMA.names).cast(COMPLETION_SCHEMA), numbers)


def _rows(
    database: duckdb.DuckDBPyConnection, prompts: Artifact, ids: IdRange, lines: pa.RecordBatchReader, repeats: int
) -> Iterator[pa.RecordBatch]:
    columns = ["task", "split", "id", "prompt_sha256", "num_prompt_tokens", "error"]
    database.register("prompts", query.scanner(prompts, columns, ids.rows))
    database.register("lines", lines)
    for batch in query.batches(database, PART_SQL, {"repeats": repeats}, rows=BATCH_ROWS):
        yield batch.select(COMPLETION_SCHEMA.names)


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(chunk, schema=COMPLETION_SCHEMA)
