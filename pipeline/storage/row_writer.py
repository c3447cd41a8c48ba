"""Rows on their way to a Parquet file that appears whole.

In: rows as dicts, one at a time. Out: one file; nothing when something goes wrong before the end.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.artifacts import ArtifactStore

BATCH_ROWS, BATCH_CHARACTERS = 256, 16 << 20


class RowWriter:
    """Rows of one schema, written when there are enough of them."""

    def __init__(self, folder: ArtifactStore, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._folder, self._writer, self._schema = folder, writer, schema
        self._rows: list[dict[str, Any]] = []
        self._num_characters = 0

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, now or with the next ones.

        Raises:
            RunError: The disk is full.
        """
        self._rows.append(row)
        self._num_characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self._rows) == BATCH_ROWS or self._num_characters > BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._folder.writing():
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_characters = [], 0


@contextmanager
def row_writer(folder: ArtifactStore, name: str, schema: pa.Schema) -> Iterator[RowWriter]:
    """Give a writer of a Parquet file, which takes the place of what was there when the block ends well.

    Raises:
        RunError: The directory cannot be written.
    """
    partial = f".{name}.{uuid.uuid4().hex}"
    try:
        with folder.writing():
            writer = pq.ParquetWriter(folder.path(partial), schema, filesystem=folder.fs, compression="zstd")
        try:
            rows = RowWriter(folder, writer, schema)
            yield rows
            rows.flush()
        finally:
            with folder.writing():
                writer.close()
        with folder.writing():
            folder.fs.move(folder.path(partial), folder.path(name))
    finally:
        folder.remove(partial)
