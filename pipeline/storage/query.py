"""DuckDB queries over a run's files: columns are joined and counted there, never in Python loops.

pyarrow opens the files and passes them to DuckDB as data sets, so every file system of filesystem.py works. What does
not fit in memory spills to a temporary directory, which is removed with the connection.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
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
"""Rows read, scored and written at a time, as one row group: about 200 MB at 10,000 tokens a row."""

TEXT_ROWS = 256
"""Rows in a batch of `reader`: DuckDB reads several batches ahead."""

BATCH_BYTES = 256 << 20
"""A batch of `batches` is cut before it is larger, unless it is a single row: Arrow's text columns end at 2 GiB."""

_NO_ROOM = re.compile(r"No space left|[Qq]uota|temp_directory_size|failed to offload|Out of Memory|could not allocate")


@contextmanager
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield an in-memory database that spills to disk and never loads extensions or files implicitly.

    Raises:
        RunError: The temporary directory is full, or cannot be read or written.
        DataError: A Parquet file that a query reads is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="pipeline-duckdb-") as spill:
        settings = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "arrow_large_buffer_size": True,
        }
        try:
            with duckdb.connect(":memory:", config=settings) as database:  # type: ignore[arg-type]
                yield database
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            is_full = isinstance(error, duckdb.OutOfMemoryException) or _NO_ROOM.search(str(error)) is not None
            what = "has no space for sorting" if is_full else "cannot be used for sorting"
            raise RunError(f"TMPDIR={tempfile.gettempdir()!r} {what}: {error}") from error
        except duckdb.InvalidInputException as error:
            if re.search(r"\[Errno (?!2\])|AWS Error", str(error)):
                raise DataError(f"a file of the run cannot be read now: {error}. Run again when it can") from error
            raise DataError(f"a Parquet file of the run is damaged: {error}. Delete its stage and run again") from error


def rows(database: duckdb.DuckDBPyConnection, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
    """Run a query and return its whole result as rows: for counts and keys, not for texts."""
    relation = database.sql(sql, params=parameters)
    assert relation is not None  # a SELECT has a result
    found: list[dict[str, Any]] = relation.to_arrow_table().to_pylist()
    return found


def batches(
    database: duckdb.DuckDBPyConnection, sql: str, parameters: Any = None, *, rows: int
) -> pa.RecordBatchReader:
    """Run a query and return its result as a stream of batches of about `rows` rows, or of `BATCH_BYTES`."""
    found = database.sql(sql, params=parameters).to_arrow_reader(rows)
    schema = pa.schema([field.with_type(_plain_type(field.type)) for field in found.schema])
    cut = (part.cast(schema) for batch in found for part in _cut(batch))
    return pa.RecordBatchReader.from_batches(schema, cut)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch in parts of at most `BATCH_BYTES`, as far as rows allow it."""
    if batch.num_rows < 2 or batch.nbytes <= BATCH_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _cut(batch.slice(0, half))
    yield from _cut(batch.slice(half))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type whose offsets have 32 bits, as the records' schemas have it."""
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    return {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(kind, kind)


def cell(task: str, split: str | None) -> pc.Expression:
    """Return the filter that selects the rows of a task's split (None: of all its splits)."""
    of_task = pc.field("task") == task
    return of_task if split is None else of_task & (pc.field("split") == split)


def require_cells(artifact: Artifact, tasks: Collection[str], splits: Collection[str]) -> None:
    """Check that all rows are of known tasks and splits: both become names of directories.

    Raises:
        DataError: Rows are of others; the message names the first.
    """
    with connection() as database:
        database.register("artifact", scanner(artifact, ["task", "split"]))
        found = rows(database, "SELECT DISTINCT task, split FROM artifact ORDER BY ALL")
    others = [each for each in found if each["task"] not in tasks or each["split"] not in splits]
    if others:
        raise DataError(
            f"{artifact.store.shown()} has rows of task {others[0]['task']!r:.200}, split {others[0]['split']!r:.200}, "
            "which its config.yaml does not run: restore it"
        )


def scanner(artifact: Artifact, columns: list[str], where: pc.Expression | None = None) -> pads.Scanner:
    """Return a scanner over an artifact's columns, in order; with Arrow's default readahead it reads gigabytes."""
    return _scanner(artifact.dataset(), columns, where)


def pooled_scanner(
    artifacts: Sequence[Artifact], columns: list[str], where: pc.Expression | None = None
) -> pads.Scanner:
    """Return a scanner as `scanner` does over several artifacts of one schema, one after the other."""
    import pyarrow.dataset as pads  # see `Artifact.dataset`

    return _scanner(pads.dataset([artifact.dataset() for artifact in artifacts]), columns, where)


def _scanner(dataset: pads.Dataset, columns: list[str], where: pc.Expression | None) -> pads.Scanner:
    return dataset.scanner(
        columns=columns,
        filter=where,
        batch_size=BATCH_ROWS,
        batch_readahead=2,
        fragment_readahead=1,
        use_threads=False,
    )


def reader(artifact: Artifact, columns: list[str]) -> pa.RecordBatchReader:
    """Return a single-pass reader of an artifact's columns: for texts, which are large.

    It reads one row group at a time, in order.
    A scan of whole files holds the compressed bytes of a file until its end, and reads some batches ahead.
    """
    dataset = artifact.dataset()

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
