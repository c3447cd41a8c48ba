"""Where a run lives: a directory on a local disk or in object storage, written so that what is seen is whole.

In: a path or URI, and tables. Out: files. A room writes its directory through `Folder.publish`, which lists every
file with its rows in `_stage.json` last; `Folder.stage` opens only what that list names and checks it is all there.
Nothing here knows what the tables mean.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.errors import DataError, RunError

STAGE_FILE = "_stage.json"

_CHECKED = pads.ParquetFileFormat(
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
)
"""Parquet whose pages' checksums are compared: a bit that has flipped on the disk is an error, not another answer."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory of a file system that pyarrow reaches. Paths given to its methods are relative to it."""

    fs: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, uri: str) -> Folder:
        """Return the directory that a path or a URI names; it need not exist yet.

        Raises:
            RunError: The URI names no file system that pyarrow knows.
        """
        if "://" not in uri:
            return cls(pafs.LocalFileSystem(), str(Path(uri).resolve()))
        try:
            fs, root = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise RunError(f"{uri!r} cannot be opened: {error}") from error
        return cls(fs, root.rstrip("/"))

    @property
    def local(self) -> Path | None:
        """The directory as a local path, or None in object storage."""
        return Path(self.root) if isinstance(self.fs, pafs.LocalFileSystem) else None

    def path(self, name: str = "") -> str:
        """Return the full path of a file in this directory, for the file system."""
        return f"{self.root}/{name}" if name else self.root

    def child(self, name: str) -> Folder:
        """Return a directory in this one; it need not exist yet."""
        return Folder(self.fs, self.path(name))

    def exists(self, name: str = "") -> bool:
        """Return whether a file or a directory is there."""
        with self.reaching():
            return bool(self.fs.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def files(self, name: str = "", suffix: str = "", *, recursive: bool = True) -> list[str]:
        """Return the files below `name`, relative to this directory, sorted; none when it does not exist."""
        selector = pafs.FileSelector(self.path(name), recursive=recursive, allow_not_found=True)
        with self.reaching():
            found = [info.path for info in self.fs.get_file_info(selector) if info.type == pafs.FileType.File]
        return sorted(path[len(self.root) + 1 :] for path in found if path.endswith(suffix))

    def folders(self) -> list[str]:
        """Return the names of the directories in this one, sorted."""
        with self.reaching():
            infos = self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def create(self) -> None:
        """Make the directory and those above it.

        Raises:
            RunError: It cannot be made or not be written.
        """
        with self.writing():
            self.fs.create_dir(self.root, recursive=True)
            if self.local is not None and not os.access(self.root, os.W_OK):
                raise PermissionError(13, "Permission denied")

    def remove(self, name: str = "") -> None:
        """Delete a file or a directory with all in it; nothing happens when it is not there."""
        with self.writing():
            kind = self.fs.get_file_info(self.path(name)).type
            if kind == pafs.FileType.File:
                self.fs.delete_file(self.path(name))
            elif kind == pafs.FileType.Directory:
                self.fs.delete_dir(self.path(name))

    def read_text(self, name: str) -> str:
        """Return a UTF-8 file.

        Raises:
            DataError: It is not there or is not text.
        """
        try:
            with self.fs.open_input_stream(self.path(name)) as stream:
                return bytes(stream.read()).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path(name)} cannot be read: {error}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 file so that a reader sees the old or the new one, never a part.

        Raises:
            RunError: The disk is full or may not be written.
        """
        data = text.encode("utf-8")
        with self.writing():
            if self.local is None:
                with self.fs.open_output_stream(self.path(name)) as stream:
                    stream.write(data)  # an object appears whole, when it is closed
                return
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                with partial.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(target)
                _fsync_directory(target.parent)
            finally:
                partial.unlink(missing_ok=True)

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turn a storage that does not answer into one line that names this directory."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{self.root} cannot be reached: {reason}. Run the same run_id again when it can") from error

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a local file to write, and make it `name` when the block ends well: a reader sees the old or the new.

        The file lies in a directory of its own, where the block may write beside it; all of it goes with the block.

        Raises:
            RunError: The disk is full or may not be written.
        """
        target = Path(self.path(name))
        with self.writing(), tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=self.local) as place:
            partial = Path(place, target.name)
            yield partial
            if self.local is None:
                here = pafs.LocalFileSystem()
                pafs.copy_files(str(partial), self.path(name), source_filesystem=here, destination_filesystem=self.fs)
                return
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(target)
            _fsync_directory(target.parent)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what the file system refuses into one line that names this directory."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{self.root} cannot be written: {reason}. Make room or change output_dir") from error

    @contextmanager
    def publish(self, stage: str, schema: pa.Schema, facts: dict[str, str | int] | None = None) -> Iterator[Folder]:
        """Give a folder to write a stage's Parquet files into, and make it `stage` when the block ends well.

        On a local disk the directory appears whole, by renaming; in object storage `_stage.json`, written last,
        is what makes it a stage. A block that raises leaves what was there before.

        Args:
            stage: Name of the directory, such as "prompts".
            schema: What every file must hold.
            facts: What else to record in `_stage.json`.
        """
        target = self.child(stage)
        partial = self.child(f".{stage}-{uuid.uuid4().hex}") if self.local else target
        with self.writing():
            if not self.local:
                target.remove()
            partial.fs.create_dir(partial.root, recursive=True)
        try:
            yield partial
            rows = {name: partial.num_rows(name, schema) for name in partial.files(suffix=".parquet")}
            partial.write_text(STAGE_FILE, json.dumps({"facts": facts or {}, "files": rows}, indent=1))
            if self.local:
                with self.writing():
                    for folder, _, _ in os.walk(partial.root):
                        _fsync_directory(Path(folder))
                    _exchange(Path(partial.root), Path(target.root))
        finally:
            if self.local:
                shutil.rmtree(partial.root, ignore_errors=True)

    def stage(self, stage: str, schema: pa.Schema) -> Stage | None:
        """Open what a room published, or return None when it has not.

        Raises:
            DataError: `_stage.json` is damaged, or a file that it names is missing or damaged.
        """
        folder = self.child(stage)
        record = self._record(stage)
        if record is None:
            return None
        files, facts = record
        for name, rows in files.items():
            found = folder.num_rows(name, schema)
            if found != rows:
                raise DataError(
                    f"{folder.path(name)} holds {found} rows, not {rows}: delete {folder.root} and run again"
                )
        return Stage(folder, schema, files, facts)

    def facts(self, stage: str) -> dict[str, str | int] | None:
        """Return the facts that a room recorded with its stage, or None when it has not published it.

        Raises:
            DataError: `_stage.json` is damaged.
        """
        record = self._record(stage)
        return None if record is None else record[1]

    def _record(self, stage: str) -> tuple[dict[str, int], dict[str, str | int]] | None:
        folder = self.child(stage)
        if not folder.exists(STAGE_FILE):
            return None
        try:
            record = json.loads(folder.read_text(STAGE_FILE))
            return {str(name): int(rows) for name, rows in record["files"].items()}, dict(record["facts"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder.path(STAGE_FILE)} is damaged: delete {folder.root} and run again") from error

    def require_stage(self, stage: str, schema: pa.Schema) -> Stage:
        """Open what a room published.

        Raises:
            DataError: The room has not published it, or it is damaged.
        """
        found = self.stage(stage, schema)
        if found is None:
            raise DataError(f"{self.path(stage)} is missing: run again with the same run_id, it goes on from there")
        return found

    def num_rows(self, name: str, schema: pa.Schema) -> int:
        """Return the rows of a Parquet file, from its footer.

        Raises:
            DataError: The file is missing, is no Parquet, or has other columns than `schema`.
        """
        try:
            with self.fs.open_input_file(self.path(name)) as source:
                footer = pq.ParquetFile(source)
                names, rows = footer.schema_arrow.names, footer.metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{self.path(name)} is missing or damaged: delete {self.root} and run again") from error
        if names != schema.names:
            raise DataError(f"{self.path(name)} has not the columns of this version: choose another run_id")
        return int(rows)

    def write_parquet(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]) -> int:
        """Write batches of `schema` as one Parquet file (Zstandard) and return the number of rows."""
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
        """Write one Parquet file so that a reader sees the old or the new one, never a part."""
        partial = f".{name}.{uuid.uuid4().hex}"
        try:
            self.write_parquet(partial, table.schema, [table])
            with self.writing():
                self.fs.move(self.path(partial), self.path(name))
        finally:
            self.remove(partial)

    def write_parts(
        self, where: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table], rows_per_file: int
    ) -> int:
        """Write batches as `<where>/part-00000.parquet` and so on, and return the number of rows.

        A file is full with the batch that reaches `rows_per_file`; no file is written for no batch.
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
class Stage:
    """What a room published: its files with their numbers of rows, and the facts recorded with them."""

    folder: Folder
    schema: pa.Schema
    files: dict[str, int]
    facts: dict[str, str | int]

    @property
    def num_rows(self) -> int:
        """Rows of all files together."""
        return sum(self.files.values())

    def dataset(self) -> pads.Dataset:
        """Return the files as an Arrow data set with the stage's schema.

        The columns task and split, where the files do not hold them, are read from the directories' names.
        """
        paths = [self.folder.path(name) for name in self.files]
        names = [name for name in ("task", "split") if name not in self.schema.names]
        in_path = pa.schema([pa.field(name, pa.string()) for name in names])
        return pads.dataset(
            paths,
            schema=pa.unify_schemas([self.schema, in_path]),
            format=_CHECKED,
            filesystem=self.folder.fs,
            partitioning=pads.partitioning(in_path, flavor="hive") if names else None,
            partition_base_dir=self.folder.root,
        )


def _until_full(batches: Iterator[pa.RecordBatch | pa.Table], num_rows: int) -> Iterator[pa.RecordBatch | pa.Table]:
    """Take batches until they hold `num_rows` rows."""
    while num_rows > 0 and (batch := next(batches, None)) is not None:
        num_rows -= batch.num_rows
        yield batch


def _exchange(partial: Path, target: Path) -> None:
    """Put `partial` in the place of `target`; rename alone cannot replace a directory that is not empty."""
    old = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    if target.exists():
        target.rename(old)
    partial.rename(target)
    _fsync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fsync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
