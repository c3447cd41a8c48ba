"""A directory on a local disk or in object storage: small files in and out, what is seen is whole.

In: a path or URI. Out: files, and one line that names the directory where the file system refuses.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Self

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.errors import DataError, RunError


def without_credentials(uri: str) -> str:
    """Return a path or URI as it may be printed: without the keys that its query or its user's name may hold."""
    return re.sub(r"://[^/?]*@", "://", uri).partition("?")[0] if "://" in uri else uri


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of a file system that pyarrow reaches. Paths given to its methods are relative to it."""

    fs: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, uri: str) -> Self:
        """Return the directory that a path or a URI names; it need not exist yet.

        Raises:
            RunError: The URI names no file system that pyarrow knows.
        """
        if "://" not in uri:
            return cls(pafs.LocalFileSystem(), str(Path(uri).resolve()))
        try:
            fs, root = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            reason = str(error).replace(uri, without_credentials(uri))
            raise RunError(f"{without_credentials(uri)!r} cannot be opened: {reason}") from error
        return cls(fs, root.rstrip("/"))

    @property
    def local(self) -> Path | None:
        """The directory as a local path, or None in object storage."""
        return Path(self.root) if isinstance(self.fs, pafs.LocalFileSystem) else None

    def path(self, name: str = "") -> str:
        """Return the full path of a file in this directory, for the file system."""
        return f"{self.root}/{name}" if name else self.root

    def child(self, name: str) -> Self:
        """Return a directory in this one; it need not exist yet."""
        return type(self)(self.fs, self.path(name))

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

    def directories(self) -> list[str]:
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
        with self.replacing_stream(name) as stream:
            stream.write(data)

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Turn a storage that does not answer into one line that names this directory."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{self.root} cannot be reached: {reason}. Run the same run_id again when it can") from error

    @contextmanager
    def partial_files(self, *names: str) -> Iterator[tuple[str, ...]]:
        """Give a name to write each file under, and move them all to `names` when the block ends well.

        A reader sees an old file or a new one, never a part. A block that raises leaves the old ones and nothing else.

        Raises:
            RunError: The disk is full or may not be written.
        """
        places = [PurePosixPath(name) for name in names]
        partials = tuple(str(place.with_name(f".{place.name}.{uuid.uuid4().hex}")) for place in places)
        try:
            yield partials
            with self.writing():
                for partial, name in zip(partials, names, strict=True):
                    if self.local is None:
                        self.fs.move(self.path(partial), self.path(name))
                    else:
                        _move(Path(self.path(partial)), Path(self.path(name)))
        finally:
            for partial in partials:
                self.remove(partial)

    @contextmanager
    def replacing_stream(self, name: str) -> Iterator[IO[bytes]]:
        """Give a stream to write, which becomes the file `name` when the block ends well.

        Raises:
            RunError: The disk is full or may not be written.
        """
        if self.local is None:
            with self.writing(), self.fs.open_output_stream(self.path(name)) as stream:
                yield stream  # an object appears whole, when it is closed
            return
        with self.partial_files(name) as (partial,), self.writing():
            path = Path(self.path(partial))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                yield file

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
            else:
                _move(partial, target)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what the file system refuses into one line that names this directory."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunError(f"{self.root} cannot be written: {reason}. Make room or write elsewhere") from error


def _move(partial: Path, target: Path) -> None:
    """Put a finished file in the place of another, so that it survives a power cut."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    fsync_directory(target.parent)


def fsync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
