"""Compaction of the journals into completions/: one row a question and repeat, none missing, none twice.

In: the prompts and the journals. Out: the completions artifact, sorted by id and repeat. Runs on the driver when the
engines are done. Its memory does not grow with the rows: the journals' lines are distributed over spill partitions on
disk, one a range of ids, and each partition is deduplicated and sorted on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.generate import journal
from pipeline.records import COMPLETION_SCHEMA, Completion, to_table
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.storage.partitions import MAX_PARTITIONS, SpillPartitions, spill_partitions

BATCH_ROWS = 1_000
ROWS_PER_PARTITION = 10_000
"""Rows that are sorted at a time; at 10,000 tokens a row they are about 800 MB."""

ROWS_PER_FILE = 50_000

PARTS_SQL = """
    CREATE TABLE parts AS
    WITH numbered AS (
        SELECT task, split, id, (row_number() OVER (PARTITION BY task, split ORDER BY id) - 1) // $num_prompts AS part
        FROM prompts
    )
    SELECT row_number() OVER (ORDER BY task, split, part) - 1 AS number, task, split, min(id) AS first_id,
        max(id) AS last_id
    FROM numbered GROUP BY task, split, part
"""

# Lines of prompts that are no longer requested are dropped here.
NUMBERED_SQL = """
    SELECT lines.*, number FROM lines
    JOIN parts ON lines.task = parts.task AND lines.split = parts.split AND id BETWEEN first_id AND last_id
    WHERE repeat < $repeats
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
        SELECT task, split, id, CAST(r.repeat AS INTEGER) AS repeat, prompt_sha256, 'error' AS finish_reason,
            num_prompt_tokens, error, 0 AS attempts
        FROM prompts, (SELECT unnest(range($repeats)) AS repeat) r
        WHERE error IS NOT NULL
    )
    SELECT * FROM (SELECT * FROM journaled UNION ALL BY NAME SELECT * FROM refused) ORDER BY id, repeat
"""


@dataclass(frozen=True, slots=True)
class Part:
    """The questions of one task and split from `first_id` to `last_id`, and the number of their spill partition."""

    number: int
    task: str
    split: str
    first_id: int
    last_id: int

    @property
    def prompts(self) -> pc.Expression:
        """The filter that selects this part's prompts."""
        key = pc.field("id")
        return query.cell(self.task, self.split) & (key >= self.first_id) & (key <= self.last_id)


def commit(run: ArtifactStore, prompts: Artifact, repeats: int, metadata: Mapping[str, Any]) -> None:
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
    expected = prompts.num_rows * repeats
    with (
        run.publish("completions", COMPLETION_SCHEMA, metadata) as target,
        query.connection() as database,
        spill_partitions(COMPLETION_SCHEMA) as partitions,
    ):
        size = max(ROWS_PER_PARTITION, expected // MAX_PARTITIONS + 1)
        parts = _parts(database, prompts, max(1, size // repeats))
        _spill(database, _tables(journal.read(run.child(journal.FOLDER))), repeats, partitions)
        num_rows = 0
        for (task, split), group in groupby(parts, key=lambda part: (part.task, part.split)):
            rows = (batch for part in group for batch in _rows(database, prompts, part, repeats, partitions))
            num_rows += target.write_parts(f"task={task}/split={split}", COMPLETION_SCHEMA, rows, ROWS_PER_FILE)
        if num_rows != expected:
            raise RuntimeError(f"{expected} completions expected, {num_rows} found in the journals of {run.root}")


def _parts(database: duckdb.DuckDBPyConnection, prompts: Artifact, num_prompts: int) -> list[Part]:
    database.register("prompts", query.scanner(prompts, ["task", "split", "id"]))
    database.execute(PARTS_SQL, {"num_prompts": num_prompts})
    return [Part(*row) for row in database.execute("SELECT * FROM parts ORDER BY number").fetchall()]


def _tables(completions: Iterator[Completion]) -> Iterator[pa.Table]:
    while chunk := list(islice(completions, BATCH_ROWS)):
        yield to_table(chunk, COMPLETION_SCHEMA)


def _spill(
    database: duckdb.DuckDBPyConnection, tables: Iterable[pa.Table], repeats: int, partitions: SpillPartitions
) -> None:
    """Add each line to the partition of the part that its question is in."""
    for table in tables:
        database.register("lines", table)
        for batch in query.batches(database, NUMBERED_SQL, {"repeats": repeats}, rows=BATCH_ROWS):
            numbers = batch.column("number").to_numpy()
            partitions.add(batch.select(COMPLETION_SCHEMA.names).cast(COMPLETION_SCHEMA), numbers)


def _rows(
    database: duckdb.DuckDBPyConnection, prompts: Artifact, part: Part, repeats: int, partitions: SpillPartitions
) -> Iterator[pa.RecordBatch]:
    columns = ["task", "split", "id", "prompt_sha256", "num_prompt_tokens", "error"]
    database.register("prompts", query.scanner(prompts, columns, part.prompts))
    database.register("lines", partitions.read(part.number))
    for batch in query.batches(database, PART_SQL, {"repeats": repeats}, rows=BATCH_ROWS):
        yield batch.select(COMPLETION_SCHEMA.names)
