"""A run's directory: it holds artifacts, which are sets of Parquet files that are published atomically.

In: tables. Out: files. A stage writes an artifact through `ArtifactStore.publish`, which writes `_stage.json` last: the
list of the files with their numbers of rows. `ArtifactStore.artifact` opens only the listed files and checks that they
are complete. Nothing here knows what the tables mean.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.records import is_added_later
from pipeline.storage.filesystem import Directory, fsync_directory, is_out_of_reach

if TYPE_CHECKING:
    import pyarrow.dataset as pads

ARTIFACT_FILE = "_stage.json"

PRUNED_FILE = "pruned.json"
"""Marks a run whose artifacts were removed on purpose, and when: see pipeline/overview/prune.py."""

BATCH_ROWS, BATCH_CHARACTERS = 256, 16 << 20
"""`RowWriter` writes a batch as soon as it reaches either limit."""


@dataclass(frozen=True, slots=True)
class ArtifactStore(Directory):
    """A directory that holds artifacts. Its methods take paths relative to it."""

    @contextmanager
    def publish(
        self, artifact: str, schema: pa.Schema, metadata: Mapping[str, Any] | None = None
    ) -> Iterator[ArtifactStore]:
        """Yield a directory to write Parquet files into; it becomes `artifact` when the block succeeds.

        On a local disk the directory is renamed into place. In object storage the artifact exists once `_stage.json`,
        written last, is there. A block that raises leaves a local artifact as it was; in object storage the old
        artifact is removed before the block starts.

        Args:
            artifact: Name of the directory, such as "prompts".
            schema: The columns that every file must have.
            metadata: Stored in `_stage.json` with the list of files.

        Raises:
            DataError: A file that was written does not have the columns of `schema`.
            RunError: The directory cannot be written.
        """
        target = self.child(artifact)
        partial = self.child(f".{artifact}-{uuid.uuid4().hex}") if self.local else target
        with self.writing():
            if not self.local:
                target.remove()
            partial.fs.create_dir(partial.root, recursive=True)
        try:
            yield partial
            rows = {name: partial.num_rows(name, schema) for name in partial.files(suffix=".parquet")}
            partial.write_text(ARTIFACT_FILE, json.dumps({"facts": metadata or {}, "files": rows}, indent=1))
            if self.local:
                with self.writing():
                    for directory, _, _ in os.walk(partial.root):
                        fsync_directory(Path(directory))
                    _exchange(Path(partial.root), Path(target.root))
        finally:
            if self.local:
                shutil.rmtree(partial.root, ignore_errors=True)

    def artifact(self, artifact: str, schema: pa.Schema) -> Artifact | None:
        """Return a published artifact, or None if it does not exist.

        Raises:
            DataError: `_stage.json` is damaged, or a file that it names is missing or damaged.
        """
        store = self.child(artifact)
        record = self._record(artifact)
        if record is None:
            return None
        files, metadata = record
        for name, rows in files.items():
            found = store.num_rows(name, schema)
            if found != rows:
                raise DataError(
                    f"{store.shown(name)} holds {found} rows, not {rows}: delete {store.shown()} and run again"
                )
        return Artifact(store, schema, files, metadata)

    def metadata(self, artifact: str) -> Mapping[str, Any] | None:
        """Return the metadata that was published with an artifact, or None if it does not exist.

        Raises:
            DataError: `_stage.json` is damaged.
        """
        record = self._record(artifact)
        return None if record is None else record[1]

    def _record(self, artifact: str) -> tuple[dict[str, int], Mapping[str, Any]] | None:
        store = self.child(artifact)
        if not store.exists(ARTIFACT_FILE):
            return None
        try:
            record = json.loads(store.read_text(ARTIFACT_FILE))
            return {str(name): int(rows) for name, rows in record["files"].items()}, dict(record["facts"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise DataError(f"{store.shown(ARTIFACT_FILE)} is damaged: delete {store.shown()} and run again") from error

    def require_artifact(self, artifact: str, schema: pa.Schema) -> Artifact:
        """Return a published artifact.

        Raises:
            DataError: It does not exist or is damaged.
        """
        found = self.artifact(artifact, schema)
        if found is None:
            self.require_unpruned()
            raise DataError(f"{self.shown(artifact)} is missing: run again with the same run_id: it resumes from there")
        return found

    def pruned_at(self) -> str | None:
        """Return the UTC time at which the run in this directory was pruned, or None if it was not.

        Raises:
            DataError: The mark is damaged.
        """
        if not self.exists(PRUNED_FILE):
            return None
        try:
            at = json.loads(self.read_text(PRUNED_FILE, 1 << 20))["at"]
            return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{self.shown(PRUNED_FILE)} is damaged: delete it, and its content is lost") from error

    def require_unpruned(self) -> None:
        """Check that the run in this directory was not pruned.

        Raises:
            DataError: It was; the message has the day.
        """
        at = self.pruned_at()
        if at is not None:
            raise DataError(
                f"{self.shown()} was pruned on {at[:10]}, and its prompts, completions and samples are gone: "
                "the scores are kept, in metrics.parquet and manifest.json"
            )

    def num_rows(self, name: str, schema: pa.Schema) -> int:
        """Return the number of rows of a Parquet file, read from its footer.

        Raises:
            DataError: The file is missing, cannot be read now, is not Parquet, or has other columns than `schema`. The
                last ones may be missing if they are `added_later` (pipeline/records.py): they are read as null.
        """
        try:
            self.require_regular(name)
            with self.fs.open_input_file(self.path(name)) as source:
                footer = pq.ParquetFile(source)
                names, rows = footer.schema_arrow.names, footer.metadata.num_rows
        except (OSError, ValueError, pa.ArrowException) as error:  # a name of a column may be no UTF-8
            if is_out_of_reach(error):
                raise DataError(
                    f"{self.shown(name)} cannot be read now: {error}: run the same command again when it can"
                ) from error
            raise DataError(f"{self.shown(name)} is missing or damaged: delete {self.shown()} and run again") from error
        later = list(schema)[len(names) :]
        if names != schema.names[: len(names)] or not all(is_added_later(field) for field in later):
            raise DataError(f"{self.shown(name)} has not the columns of this version: choose another run_id")
        return int(rows)

    def read_parquet(self, name: str, schema: pa.Schema) -> pa.Table:
        """Return a Parquet file of the size of a table to print, with the columns of `schema`.

        Raises:
            DataError: As `num_rows` does.
        """
        self.num_rows(name, schema)
        return pq.read_table(self.path(name), filesystem=self.fs, schema=schema)

    def write_parquet(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]) -> int:
        """Write batches as one Parquet file (Zstandard, with page checksums) and return the number of rows.

        Raises:
            RunError: The disk is full or cannot be written.
        """
        num_rows = 0
        with self.writing():
            if self.local:
                Path(self.path(name)).parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(
                self.path(name), schema, filesystem=self.fs, compression="zstd", write_page_checksum=True
            ) as writer:
                for batch in batches:
                    if batch.num_rows:
                        writer.write(batch.cast(schema) if batch.schema != schema else batch)
                        num_rows += batch.num_rows
        if self.local:
            with open(self.path(name), "rb+") as file:
                os.fsync(file.fileno())
        return num_rows

    def replace_parquet(self, name: str, table: pa.Table) -> None:
        """Write one Parquet file atomically: a reader sees the old file or the new one."""
        with self.partial_files(name) as (partial,):
            self.write_parquet(partial, table.schema, [table])

    @contextmanager
    def row_writer(self, name: str, schema: pa.Schema) -> Iterator[RowWriter]:
        """Yield a writer of one Parquet file, which replaces `name` when the block succeeds.

        Raises:
            RunError: The directory cannot be written.
        """
        with self.partial_files(name) as (partial,):
            with self.writing():
                writer = pq.ParquetWriter(self.path(partial), schema, filesystem=self.fs, compression="zstd")
            try:
                rows = RowWriter(self, writer, schema)
                yield rows
                rows.flush()
            finally:
                with self.writing():
                    writer.close()

    def write_parts(
        self, where: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table], rows_per_file: int
    ) -> int:
        """Write batches as `<where>/part-00000.parquet` and so on, and return the number of rows.

        A file ends with the batch that reaches `rows_per_file`. Without batches no file is written.
        """
        num_rows = 0
        rest = iter(batches)
        for number in count():
            first = next(rest, None)
            if first is None:
                break
            part = chain([first], _until_full(rest, rows_per_file - first.num_rows))
            num_rows += self.write_parquet(f"{where}/part-{number:05d}.parquet", schema, part)
        return num_rows


@dataclass(frozen=True, slots=True)
class Artifact:
    """A published set of Parquet files: their numbers of rows by name, and the metadata published with them."""

    store: ArtifactStore
    schema: pa.Schema
    files: dict[str, int]
    metadata: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        """Total number of rows of all files."""
        return sum(self.files.values())

    def dataset(self) -> pads.Dataset:
        """Return the files as an Arrow data set with the artifact's schema.

        The columns task and split are read from the directories' names if the files do not hold them.
        """
        import pyarrow.dataset as pads  # imports pandas, a third of the time in which a wrong path is reported

        # Arrow verifies the pages' checksums: a flipped bit on disk raises an error instead of changing an answer.
        checked = pads.ParquetFragmentScanOptions(page_checksum_verification=True)
        paths = [self.store.path(name) for name in self.files]
        names = [name for name in ("task", "split") if name not in self.schema.names]
        in_path = pa.schema([pa.field(name, pa.string()) for name in names])
        return pads.dataset(
            paths,
            schema=pa.unify_schemas([self.schema, in_path]),
            format=pads.ParquetFileFormat(default_fragment_scan_options=checked),
            filesystem=self.store.fs,
            partitioning=pads.partitioning(in_path, flavor="hive") if names else None,
            partition_base_dir=self.store.root,
        )


class RowWriter:
    """Writes rows of one schema to a Parquet file in batches. Created by `ArtifactStore.row_writer`."""

    def __init__(self, store: ArtifactStore, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._store, self._writer, self._schema = store, writer, schema
        self._rows: list[dict[str, Any]] = []
        self._num_characters = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add a row to the current batch, and write the batch if it is full.

        Raises:
            RunError: The disk is full or cannot be written.
        """
        self._rows.append(row)
        self._num_characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self._rows) == BATCH_ROWS or self._num_characters > BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write the rows of the current batch."""
        with self._store.writing():
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._num_characters = [], 0


def parquet_files(store: ArtifactStore, names: Iterable[str], schema: pa.Schema) -> pads.Dataset:
    """Return Parquet files as an Arrow data set; `names` are relative to `store` and need not be of an artifact."""
    import pyarrow.dataset as pads  # see `Artifact.dataset`

    paths = [store.path(name) for name in names]
    return pads.dataset(paths, schema=schema, format="parquet", filesystem=store.fs)


def _until_full(batches: Iterator[pa.RecordBatch | pa.Table], num_rows: int) -> Iterator[pa.RecordBatch | pa.Table]:
    """Take batches until they hold `num_rows` rows."""
    while num_rows > 0 and (batch := next(batches, None)) is not None:
        num_rows -= batch.num_rows
        yield batch


def _exchange(partial: Path, target: Path) -> None:
    """Replace `target` by `partial`; a rename alone cannot replace a directory that is not empty."""
    old = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    if target.exists():
        target.rename(old)
    partial.rename(target)
    fsync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)
