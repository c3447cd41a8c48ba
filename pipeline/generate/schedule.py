"""The work list: what is still to be generated, longest expected first or shuffled.

In: the prompts stage and the journals. Out: Parquet files of `WORK_SCHEMA` in the run's work/, in the order in which
rows should start. Rows that are finished, or that cannot be asked, are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline import duck
from pipeline.records import KEY_COLUMNS
from pipeline.store import Folder, Stage

FOLDER = "work"
ROWS_PER_FILE = 100_000

WORK_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("repeat", pa.int32(), nullable=False),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("messages", pa.string()),
        pa.field("prompt_token_ids", pa.list_(pa.int32())),
    ]
)

DONE_SCHEMA = pa.schema([WORK_SCHEMA.field(name) for name in (*KEY_COLUMNS, "prompt_sha256")])

# Without a history the prompt's length is the best guess of the completion's: see design.md, "longest first".
WORK_SQL = """
    SELECT p.task, p.split, p.id, CAST(r.repeat AS INTEGER) AS repeat, p.prompt_sha256,
           CASE WHEN p.prompt_token_ids IS NULL THEN p.messages END AS messages, p.prompt_token_ids
    FROM prompts p, (SELECT unnest(range($repeats)) AS repeat) r
    WHERE p.error IS NULL
      AND NOT EXISTS (SELECT 1 FROM done d WHERE d.task = p.task AND d.split = p.split AND d.id = p.id
                      AND d.repeat = r.repeat AND d.prompt_sha256 = p.prompt_sha256)
"""

LONGEST_FIRST = " ORDER BY coalesce(p.num_prompt_tokens, length(p.messages)) DESC, p.task, p.split, p.id, r.repeat"
SHUFFLED = " ORDER BY sha256(concat_ws('/', p.task, p.split, p.id, r.repeat)), p.task, p.split, p.id, r.repeat"


def write_work(
    run: Folder, prompts: Stage, finished: Iterable[dict[str, Any]], repeats: int, *, shuffled: bool = False
) -> tuple[list[str], int]:
    """Write the work list anew.

    Args:
        run: The run's directory.
        prompts: Its prompts.
        finished: Completions that are not to be made again, as the journals hold them.
        repeats: Completions a question.
        shuffled: In an order that has nothing to do with the rows' length, the same each time.

    Returns:
        The files, relative to the run, in the order of the work, and the number of rows in them.
    """
    run.remove(FOLDER)
    names: list[str] = []
    num_rows = 0
    with duck.connection() as database:
        database.register("prompts", prompts.dataset())
        database.register("none", DONE_SCHEMA.empty_table())
        database.execute("CREATE TABLE done AS SELECT * FROM none")
        for chunk in _chunks(finished):
            database.register("chunk", chunk)
            database.execute("INSERT INTO done SELECT * FROM chunk")
        sql = WORK_SQL + (SHUFFLED if shuffled else LONGEST_FIRST)
        reader = duck.batches(database, sql, {"repeats": repeats}, rows=ROWS_PER_FILE)
        for number, batch in enumerate(reader):
            name = f"{FOLDER}/part-{number:05d}.parquet"
            num_rows += run.write_parquet(name, WORK_SCHEMA, [pa.Table.from_batches([batch]).cast(WORK_SCHEMA)])
            names.append(name)
    return names, num_rows


def _chunks(finished: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    rows = ({name: row[name] for name in DONE_SCHEMA.names} for row in finished)
    while chunk := list(islice(rows, ROWS_PER_FILE)):
        yield pa.Table.from_pylist(chunk, schema=DONE_SCHEMA)
