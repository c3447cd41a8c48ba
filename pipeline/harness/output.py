"""The rows of a replay on their way to a Parquet file: written as they are found, sorted at the end.

In: rows as dicts, in any order. Out: one file, by task, id and what follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipeline import duck
from pipeline.store import Folder

BATCH_ROWS, BATCH_CHARACTERS = 256, 16 << 20


class RowWriter:
    """Rows of one schema, in one Parquet file."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []
        self._num_characters = 0

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, now or with the next ones."""
        self._rows.append(row)
        self._num_characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self._rows) == BATCH_ROWS or self._num_characters > BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_characters = [], 0


@contextmanager
def row_writer(folder: Folder, name: str, schema: pa.Schema) -> Iterator[RowWriter]:
    """Give a writer of one file, which is whole when the block ends.

    Raises:
        RunError: The disk is full.
    """
    with (
        folder.writing(),
        pq.ParquetWriter(folder.path(name), schema, filesystem=folder.fs, compression="zstd") as writer,
    ):
        rows = RowWriter(writer, schema)
        yield rows
        rows.flush()


def write_sorted(source: Folder, target: Folder, name: str, schema: pa.Schema) -> pads.Dataset:
    """Write a file of `source` again into `target`, sorted by its first three columns; return it."""
    with duck.connection() as database:
        database.register("found", pads.dataset(source.path(name), schema=schema, filesystem=source.fs))
        batches = duck.batches(database, "FROM found ORDER BY 1, 2, 3", rows=BATCH_ROWS)
        target.write_parquet(name, schema, batches)
    return pads.dataset(target.path(name), schema=schema, filesystem=target.fs)
