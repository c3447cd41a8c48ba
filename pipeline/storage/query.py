"""DuckDB over the run's files: columns are joined and counted there, never in Python loops.

The files are opened by pyarrow and handed over as data sets, so that every file system that `store.py` knows works.
What does not fit in memory goes to a temporary directory that lives as long as the connection.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError, RunError
from pipeline.storage.artifacts import Artifact

if TYPE_CHECKING:
    import pyarrow.dataset as pads

MEMORY_LIMIT = "4GB"

BATCH_ROWS = 4096
"""Rows read, scored and written at a time, as one row group; at 10,000 tokens a row it is about 200 MB."""

TEXT_ROWS = 256
"""Rows that `reader` gives at a time: DuckDB takes several batches ahead of what it is asked for."""


@contextmanager
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """Give an in-memory database that spills to disk and never looks for extensions or files by itself."""
    with tempfile.TemporaryDirectory(prefix="pipeline-duckdb-") as spill:
        settings = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
        try:
            with duckdb.connect(":memory:", config=settings) as database:  # type: ignore[arg-type]
                yield database
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            raise RunError(f"TMPDIR={tempfile.gettempdir()!r} has no room for sorting: {error}") from error
        except duckdb.InvalidInputException as error:
            raise DataError(f"a Parquet file of the run is damaged: {error}. Delete its stage and run again") from error


def rows(database: duckdb.DuckDBPyConnection, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    """Run a query and return all of its result: for counts and keys, not for texts."""
    relation = database.sql(sql, params=parameters)
    assert relation is not None  # a SELECT has a result
    found: list[dict[str, Any]] = relation.to_arrow_table().to_pylist()
    return found


def batches(
    database: duckdb.DuckDBPyConnection, sql: str, parameters: Any = None, *, rows: int
) -> pa.RecordBatchReader:
    """Run a query and return its result in batches of about `rows` rows, as it is read."""
    reader = database.sql(sql, params=parameters).to_arrow_reader(rows)
    assert reader is not None
    return reader


def cell(task: str, split: str | None) -> pc.Expression:
    """Return what is true of the rows of a task's split, or of all its splits."""
    of_task = pc.field("task") == task
    return of_task if split is None else of_task & (pc.field("split") == split)


def scanner(stage: Artifact, columns: list[str], where: pc.Expression | None = None) -> pads.Scanner:
    """Return a stage's columns to read in order; without its bounds Arrow reads gigabytes ahead."""
    return stage.dataset().scanner(
        columns=columns,
        filter=where,
        batch_size=BATCH_ROWS,
        batch_readahead=2,
        fragment_readahead=1,
        use_threads=False,
    )


def reader(stage: Artifact, columns: list[str]) -> pa.RecordBatchReader:
    """Return a stage's columns to read once, in order, a row group at a time: for texts, which are large.

    A scan of whole files keeps each file's compressed bytes to its end, and some batches beyond what was asked for.
    """
    dataset = stage.dataset()

    def read() -> Iterator[pa.RecordBatch]:
        for file in dataset.get_fragments():
            for group in file.split_by_row_group():
                yield from group.to_batches(
                    schema=dataset.schema,
                    columns=columns,
                    batch_size=TEXT_ROWS,
                    batch_readahead=0,
                    fragment_readahead=0,
                    use_threads=False,
                )

    return pa.RecordBatchReader.from_batches(pa.schema([dataset.schema.field(name) for name in columns]), read())
