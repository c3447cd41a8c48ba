"""Partitions of rows that are too many to join or sort at once: ranges of ids to read, and spill files to sort.

`id_ranges` divides the ids of a query into ranges; `IdRange.rows` selects the rows of one of them in any stage, and
Arrow reads only the row groups whose statistics touch it. `spill_partitions` takes record batches with the number of
the partition that each row belongs to, and gives a partition's rows back in the order in which they came; its files
lie in the temporary directory, as DuckDB's own do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RunError
from pipeline.storage import query

MAX_PARTITIONS = 200
"""Files that are open at once."""

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")

_RANGES = """
WITH numbered AS (
    SELECT task, split, id, (row_number() OVER (PARTITION BY task, split ORDER BY id) - 1) // $num_ids AS number
    FROM ({ids})
)
SELECT task, split, number, min(id) AS first_id, max(id) AS last_id
FROM numbered GROUP BY task, split, number ORDER BY task, split, number
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """The questions of a task's split (None: of all its splits) from `first_id` to `last_id`.

    `number` counts the ranges of this task and split from 0.
    """

    task: str
    split: str | None
    number: int
    first_id: int
    last_id: int

    @property
    def rows(self) -> pc.Expression:
        """What is true of the rows of these questions, in any stage."""
        key = pc.field("id")
        return query.cell(self.task, self.split) & (key >= self.first_id) & (key <= self.last_id)


def id_ranges(
    database: duckdb.DuckDBPyConnection, ids: str, num_ids: int, parameters: dict[str, Any] | None = None
) -> list[IdRange]:
    """Return the ids of a query in ranges of at most `num_ids`, sorted by task, split and id.

    Args:
        database: A connection that the query can run on.
        ids: A query with the columns task, split and id, each id once.
        num_ids: Ids of a range, at most.
        parameters: Of the query.
    """
    found = query.rows(database, _RANGES.format(ids=ids), {**(parameters or {}), "num_ids": num_ids})
    return [IdRange(**row) for row in found]


class SpillPartitions:
    """Files of rows with one schema. Used in the block of `spill_partitions`."""

    def __init__(self, schema: pa.Schema, directory: Path) -> None:
        self._schema, self._folder = schema, directory
        self._writers: dict[int, Any] = {}
        self._open = ExitStack()

    def add(self, rows: pa.RecordBatch, numbers: npt.NDArray[np.int64]) -> None:
        """Put each row into the bucket whose number stands at its place in `numbers`.

        Raises:
            RunError: The temporary directory is full.
        """
        order = np.argsort(numbers, kind="stable")
        rows, numbers = rows.take(pa.array(order)), numbers[order]
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        with _enough_room():
            for first, last in pairwise(bounds):
                if first < last:
                    self._writer(int(numbers[first])).write_batch(rows.slice(first, last - first))

    def read(self, number: int) -> pa.RecordBatchReader:
        """Return the rows of a bucket, none when it has got none. No row is added any more."""
        with _enough_room():
            self._open.close()
        if number not in self._writers:
            return pa.RecordBatchReader.from_batches(self._schema, [])
        return pa.ipc.open_stream(pa.OSFile(str(self._folder / str(number))))

    def _writer(self, number: int) -> Any:
        if number not in self._writers:
            new = pa.ipc.new_stream(str(self._folder / str(number)), self._schema, options=_COMPRESSED)
            self._writers[number] = self._open.enter_context(new)
        return self._writers[number]


@contextmanager
def spill_partitions(schema: pa.Schema) -> Iterator[SpillPartitions]:
    """Give buckets that live as long as the block."""
    with tempfile.TemporaryDirectory(prefix="pipeline-buckets-") as place:
        yield SpillPartitions(schema, Path(place))


@contextmanager
def _enough_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"TMPDIR={tempfile.gettempdir()!r} has no room for sorting: {error}") from error
