"""Partitions of rows that are too many to join or sort at once: ranges of ids to read, and spill files to sort.

`id_ranges` divides the ids of a query into ranges. `IdRange.rows` selects the rows of a range in any artifact; Arrow
reads only the row groups whose statistics overlap it. `spill_partitions` takes record batches with a partition number
for each row, and returns a partition's rows in insertion order; its files are in the temporary directory, like
DuckDB's.
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
"""Maximum number of partitions, each of which keeps a file open."""

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

    `number` is the index of the range within its task and split, from 0.
    """

    task: str
    split: str | None
    number: int
    first_id: int
    last_id: int

    @property
    def rows(self) -> pc.Expression:
        """The filter that selects the rows of these questions in any artifact."""
        key = pc.field("id")
        return query.cell(self.task, self.split) & (key >= self.first_id) & (key <= self.last_id)


def id_ranges(
    database: duckdb.DuckDBPyConnection, ids: str, num_ids: int, parameters: dict[str, Any] | None = None
) -> list[IdRange]:
    """Return the ids of a query in ranges of at most `num_ids`, sorted by task, split and id.

    Args:
        database: A connection on which the query can run.
        ids: A query with the columns task, split and id, without duplicates.
        num_ids: Maximum number of ids in a range.
        parameters: The query's parameters.
    """
    found = query.rows(database, _RANGES.format(ids=ids), {**(parameters or {}), "num_ids": num_ids})
    return [IdRange(**row) for row in found]


class SpillPartitions:
    """Rows of one schema, spilled to one file per partition. Created by `spill_partitions`."""

    def __init__(self, schema: pa.Schema, directory: Path) -> None:
        self._schema, self._directory = schema, directory
        self._writers: dict[int, Any] = {}
        self._open = ExitStack()

    def add(self, rows: pa.RecordBatch, numbers: npt.NDArray[np.int64]) -> None:
        """Append row i to partition `numbers[i]`.

        Raises:
            RunError: The temporary directory is full.
        """
        order = np.argsort(numbers, kind="stable")
        rows, numbers = rows.take(pa.array(order)), numbers[order]
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
        with _reporting_full_disk():
            for first, last in pairwise(bounds):
                if first < last:
                    self._writer(int(numbers[first])).write_batch(rows.slice(first, last - first))

    def read(self, number: int) -> pa.RecordBatchReader:
        """Return the rows of a partition, which may be empty; after the first call no row can be added.

        Raises:
            RunError: The temporary directory is full.
        """
        with _reporting_full_disk():
            self._open.close()
        if number not in self._writers:
            return pa.RecordBatchReader.from_batches(self._schema, [])
        return pa.ipc.open_stream(pa.OSFile(str(self._directory / str(number))))

    def _writer(self, number: int) -> Any:
        if number not in self._writers:
            new = pa.ipc.new_stream(str(self._directory / str(number)), self._schema, options=_COMPRESSED)
            self._writers[number] = self._open.enter_context(new)
        return self._writers[number]


@contextmanager
def spill_partitions(schema: pa.Schema) -> Iterator[SpillPartitions]:
    """Yield spill partitions; their files are removed with the block."""
    with tempfile.TemporaryDirectory(prefix="pipeline-partitions-") as directory:
        yield SpillPartitions(schema, Path(directory))


@contextmanager
def _reporting_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"TMPDIR={tempfile.gettempdir()!r} has no space for sorting: {error}") from error
