"""Compaction of the journals into completions/: one row a question and repeat, none missing, none twice.

In: the prompts and the journals. Out: the completions artifact, sorted by id and repeat. Runs on the driver when the
engines are done. Its memory does not grow with the rows: the journals' lines are distributed over spill partitions on
disk, one a range of ids, and each partition is deduplicated and sorted on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.generate import journal
from pipeline.records import COMPLETION_SCHEMA, Completion, to_table
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.storage.partitions import MAX_PARTITIONS, IdRange, SpillPartitions, id_ranges, spill_partitions
from pipeline.storage.repeats import Repeats, count_rows, define, most

BATCH_ROWS, BATCH_CHARACTERS = 1_000, 64 << 20
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

# Lines of prompts that are no longer requested are dropped here.
NUMBERED_SQL = """
    SELECT lines.*, partition FROM lines
    JOIN ranges ON lines.task = ranges.task AND lines.split = ranges.split AND id BETWEEN first_id AND last_id
    WHERE repeat < repeats_of(lines.split)
"""

# A replica that crashes after it journaled a row and before it reported it leaves the row to another replica: one of
# the two completions counts, a response rather than an error. Lines of prompts that have changed since are dropped.
# A prompt with an error becomes a completion with the same error.
PART_SQL = """
    WITH journaled AS (
        SELECT l.* FROM lines l SEMI JOIN prompts p
            ON l.id = p.id AND l.prompt_sha256 = p.prompt_sha256 AND p.error IS NULL
        QUALIFY row_number() OVER (PARTITION BY l.id, l.repeat ORDER BY l.error IS NOT NULL) = 1
    ), refused AS (
        SELECT task, split, id, CAST(unnest(range(repeats_of(split))) AS INTEGER) AS repeat, prompt_sha256,
            'error' AS finish_reason, num_prompt_tokens, error, 0 AS attempts
        FROM prompts WHERE error IS NOT NULL
    )
    SELECT * FROM (SELECT * FROM journaled UNION ALL BY NAME SELECT * FROM refused) ORDER BY id, repeat
"""


def commit(run: ArtifactStore, prompts: Artifact, repeats: Repeats, metadata: Mapping[str, Any]) -> None:
    """Publish the completions.

    Args:
        run: The run's directory, with its journals.
        prompts: Its prompts.
        repeats: Completions a question.
        metadata: What to record with the completions.

    Raises:
        RunError: The run's directory or the temporary one is full.
        RuntimeError: A question has no completion, which is a bug: a row that fails has one.
    """
    expected = count_rows(prompts, repeats)
    with (
        run.publish("completions", COMPLETION_SCHEMA, metadata) as target,
        query.connection() as database,
        spill_partitions(COMPLETION_SCHEMA) as partitions,
    ):
        size = max(ROWS_PER_PARTITION, expected // MAX_PARTITIONS + 1)
        define(database, repeats)
        database.register("prompts", query.scanner(prompts, ["task", "split", "id"]))
        ranges = id_ranges(database, "FROM prompts", max(1, size // most(repeats)))
        _spill(database, ranges, _tables(journal.read(run.child(journal.DIRECTORY))), partitions)
        num_rows = 0
        for (task, split), group in groupby(enumerate(ranges), key=lambda each: (each[1].task, each[1].split)):
            rows = (
                batch for partition, ids in group for batch in _rows(database, prompts, ids, partitions.read(partition))
            )
            num_rows += target.write_parts(f"task={task}/split={split}", COMPLETION_SCHEMA, rows, ROWS_PER_FILE)
        if num_rows != expected:
            raise RuntimeError(f"{expected} completions expected, {num_rows} found in the journals of {run.shown()}")


def _tables(completions: Iterator[Completion]) -> Iterator[pa.Table]:
    chunk: list[Completion] = []
    num_characters = 0
    for completion in completions:
        chunk.append(completion)
        num_characters += len(completion.completion or "")
        if len(chunk) == BATCH_ROWS or num_characters > BATCH_CHARACTERS:
            yield to_table(chunk, COMPLETION_SCHEMA)
            chunk, num_characters = [], 0
    if chunk:
        yield to_table(chunk, COMPLETION_SCHEMA)


def _spill(
    database: duckdb.DuckDBPyConnection,
    ranges: Sequence[IdRange],
    tables: Iterable[pa.Table],
    partitions: SpillPartitions,
) -> None:
    """Spill the lines: those of each range into the partition whose number is the range's place in the list."""
    rows = [asdict(ids) | {"partition": partition} for partition, ids in enumerate(ranges)]
    database.register("ranges", pa.Table.from_pylist(rows, schema=_RANGE_SCHEMA))
    for table in tables:
        database.register("lines", table)
        for batch in query.batches(database, NUMBERED_SQL, rows=BATCH_ROWS):
            numbers = batch.column("partition").to_numpy()
            partitions.add(batch.select(COMPLETION_SCHEMA.names).cast(COMPLETION_SCHEMA), numbers)


def _rows(
    database: duckdb.DuckDBPyConnection, prompts: Artifact, ids: IdRange, lines: pa.RecordBatchReader
) -> Iterator[pa.RecordBatch]:
    columns = ["task", "split", "id", "prompt_sha256", "num_prompt_tokens", "error"]
    database.register("prompts", query.scanner(prompts, columns, ids.rows))
    database.register("lines", lines)
    for batch in query.batches(database, PART_SQL, rows=BATCH_ROWS):
        yield batch.select(COMPLETION_SCHEMA.names)
