"""Rows in an order when there are too many to sort at once: shared out to files, each of which is sorted alone.

In: record batches, with the number of the bucket that each row belongs to. Out: a bucket's rows, in the order in which
they came. The files lie in the temporary directory, as DuckDB's own do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import RunError

MAX_PARTITIONS = 200
"""Files that are open at once."""

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


class SpillPartitions:
    """Files of rows with one schema. Used in the block of `spill_partitions`."""

    def __init__(self, schema: pa.Schema, folder: Path) -> None:
        self._schema, self._folder = schema, folder
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
