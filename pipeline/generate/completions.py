"""From journals to completions/: one row a question and repeat, none missing, none twice.

In: the prompts stage and the journals. Out: the completions stage. Runs on the driver when the engines are done; what
it holds in memory does not grow with the rows, DuckDB spills what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline import duck
from pipeline.generate import journal
from pipeline.records import COMPLETION_SCHEMA
from pipeline.store import Folder, Stage

BATCH_ROWS = 1_000
ROWS_PER_FILE = 200_000

# A worker that died after it journaled a row and before it reported it leaves the row to another: one of the two
# counts, and an answer before an error. Lines of prompts that have changed since are not looked at.
JOURNALED_SQL = """
    CREATE TABLE journaled AS
    SELECT l.* FROM lines l
    SEMI JOIN prompts p
        ON l.task = p.task AND l.split = p.split AND l.id = p.id AND l.prompt_sha256 = p.prompt_sha256
           AND p.error IS NULL
    WHERE l.repeat < $repeats
    QUALIFY row_number() OVER (PARTITION BY l.task, l.split, l.id, l.repeat ORDER BY l.error IS NOT NULL) = 1
"""

# A prompt that could not be asked becomes a completion with the same error.
REFUSED_SQL = """
    INSERT INTO journaled BY NAME
    SELECT task, split, id, CAST(r.repeat AS INTEGER) AS repeat, prompt_sha256, 'error' AS finish_reason,
           num_prompt_tokens, error, 0 AS attempts
    FROM prompts, (SELECT unnest(range($repeats)) AS repeat) r
    WHERE error IS NOT NULL
"""


def commit(run: Folder, prompts: Stage, repeats: int, facts: dict[str, str | int]) -> None:
    """Publish the completions stage.

    Args:
        run: The run's directory, with its journals.
        prompts: Its prompts.
        repeats: Completions a question.
        facts: What to record with the stage.

    Raises:
        RuntimeError: A question has no completion, which no fault of a row explains.
    """
    with run.publish("completions", COMPLETION_SCHEMA, facts) as folder, duck.connection() as database:
        database.register("prompts", prompts.dataset())
        database.register("none", COMPLETION_SCHEMA.empty_table())
        database.execute("CREATE TABLE lines AS SELECT * FROM none")
        for batch in _batches(journal.read(run.child(journal.FOLDER))):
            database.register("batch", batch)
            database.execute("INSERT INTO lines SELECT * FROM batch")
        database.execute(JOURNALED_SQL, {"repeats": repeats})
        database.execute(REFUSED_SQL, {"repeats": repeats})
        num_rows = 0
        for task, split in database.execute("SELECT DISTINCT task, split FROM prompts ORDER BY ALL").fetchall():
            columns = ", ".join(f'"{name}"' for name in COMPLETION_SCHEMA.names)
            sql = f"SELECT {columns} FROM journaled WHERE task = ? AND split = ? ORDER BY id, repeat"  # noqa: S608
            reader = duck.batches(database, sql, [task, split], rows=BATCH_ROWS)
            num_rows += folder.write_parts(f"task={task}/split={split}", COMPLETION_SCHEMA, reader, ROWS_PER_FILE)
        expected = prompts.num_rows * repeats
        if num_rows != expected:
            raise RuntimeError(f"{expected} completions expected, {num_rows} found in the journals of {run.root}")


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    while chunk := list(islice(rows, BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(chunk, schema=COMPLETION_SCHEMA)
