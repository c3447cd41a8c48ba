"""A directory on a local disk or in object storage, with atomic writes of files.

In: a path or URI. Out: files. An error of the file system becomes a `RunError` of one line that names the directory.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Self

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.config.paths import expanded
from pipeline.errors import DataError, RunError

_IRREGULAR = (pafs.FileType.Directory, pafs.FileType.Unknown)
_OF_NETWORK = re.compile(r"AWS Error|HTTP|[Cc]url|[Cc]onnection|timed? ?out")

_OF_CREDENTIALS = re.compile(
    r"ACCESS_DENIED|[Aa]ccess ?[Dd]enied|INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH"
    r"|SignatureDoesNotMatch|EXPIRED_TOKEN|ExpiredToken|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT"
)
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

GCS_RETRY_S = 30
"""Seconds for which Google's client repeats a request; of itself it does so for 15 minutes, without a word."""

LONGEST_NAME = 200
"""Characters of a refused name that its message repeats."""

SCHEMES = {"s3": "s3://", "gcs": "gs://", "abfs": "abfs://", "hdfs": "hdfs://"}
"""How a URI begins, by pyarrow's `type_name` of the file system; others are shown as a bare path."""


def without_credentials(uri: str) -> str:
    """Return a path or URI without its query and user information, which may hold keys: safe to print."""
    return re.sub(r"://[^/?]*@", "://", uri).partition("?")[0] if "://" in uri else uri


def private_directory(name: str) -> Path:
    """Return a directory in the temporary one that only this user can enter; make it if it is not there.

    Raises:
        RunError: It cannot be made, or another user made something of this name.
    """
    path = Path(tempfile.gettempdir(), name)
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = path.lstat()  # of a link itself
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}. Free some space, or set TMPDIR") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise RunError(f"{path} is not a directory of this user alone: remove it, or set TMPDIR")
    return path


def open_to_write(path: str | Path, flags: int = os.O_APPEND) -> int:
    """Return a descriptor, to read and write, of a regular file that has this name alone; make it if it is not there.

    What another user may have put there leads to no other file, and to no endless wait.

    Raises:
        OSError: It cannot be opened, or is a link, a FIFO or a device.
    """
    always = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | always, 0o644)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file, or has another name", str(path))
    return descriptor


def is_out_of_reach(error: BaseException) -> bool:
    """Return whether a file could not be read for a reason that may pass: nothing is known of its content.

    pyarrow raises `OSError` for damaged Parquet too, but without an error number of the system.
    """
    if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
        return False
    return error.errno is not None or _OF_NETWORK.search(str(error)) is not None


def free_bytes(path: Path) -> int | None:
    """Return the free space where a file or directory is, or would be made; None if that cannot be known."""
    for place in (path.absolute(), *path.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def named(infos: Iterable[pafs.FileInfo]) -> Iterator[tuple[str, pafs.FileInfo]]:
    """Yield what a listing returned, with the path of each; one whose name is no UTF-8 is left out.

    Nothing of ours has such a name. Anyone can make one in a shared directory, and pyarrow fails when it is read.
    """
    for info in infos:
        with suppress(UnicodeDecodeError):
            yield info.path, info


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of a file system that pyarrow supports. Its methods take paths relative to it."""

    fs: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, uri: str) -> Self:
        """Return the directory of a path or URI; it need not exist yet.

        Raises:
            RunError: pyarrow does not support the URI's file system or cannot open it, or the path is not UTF-8.
        """
        if "\0" in uri:
            raise RunError(f"{without_credentials(uri)!r} cannot be opened: it holds a NUL")
        if "://" not in uri:
            path = str(expanded(uri).resolve())
            if not path.isprintable() and any("\ud800" <= char <= "\udfff" for char in path):
                raise RunError(f"{path!r} is not UTF-8: rename that directory, or choose another one")
            return cls(pafs.LocalFileSystem(), path)
        if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri:
            uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GCS_RETRY_S}"
        try:
            fs, root = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            reason = str(error).replace(uri, without_credentials(uri))
            raise RunError(f"{without_credentials(uri)!r} cannot be opened: {reason}") from error
        if fs.type_name == "mock":  # in the memory of this process, for pyarrow's own tests
            raise RunError(f"{without_credentials(uri)!r} is no storage: give a path or {', '.join(SCHEMES.values())}")
        return cls(fs, root.rstrip("/"))

    @property
    def local(self) -> Path | None:
        """The directory as a local path, or None in object storage."""
        return Path(self.root) if isinstance(self.fs, pafs.LocalFileSystem) else None

    def path(self, name: str = "") -> str:
        """Return the full path of a file in this directory, for the file system.

        Raises:
            DataError: The name leads out of this directory: it may come from a file that another user wrote.
        """
        if name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise DataError(
                f"{name[:LONGEST_NAME]!r} is no path inside of {self.shown()}: it is neither read nor written"
            )
        return f"{self.root}/{name}" if name else self.root

    def shown(self, name: str = "") -> str:
        """Return the path, or in object storage the URI, of a file for the user to paste: quoted for a shell if needed.

        It holds no credentials: they are not in the path. A quoted path is safe inside a message too.
        """
        return shlex.quote(self.uri(name))

    def brief(self, name: str = "") -> str:
        """Return the path as `shown` does, but relative to the working directory where that is above it."""
        path = self.uri(name)
        if self.fs.type_name == "local":
            with suppress(OSError):  # the working directory was removed
                near = os.path.relpath(path)
                near = f"./{near}" if near.startswith("-") else near  # else a program takes it for an option
                near += "/" if path.endswith("/") else ""
                path = path if near.startswith("..") else min(path, near, key=len)
        return shlex.quote(path)

    def uri(self, name: str = "") -> str:
        """Return the path, or in object storage the URI, of a file for another program; it holds no credentials."""
        return f"{SCHEMES.get(self.fs.type_name, '')}{self.path(name)}"

    def child(self, name: str) -> Self:
        """Return a subdirectory; it need not exist yet.

        Raises:
            DataError: The name leads out of this directory.
        """
        return type(self)(self.fs, self.path(name))

    def exists(self, name: str = "") -> bool:
        """Return whether a file or directory exists.

        Raises:
            RunError: The storage does not respond.
        """
        with self.reaching():
            return bool(self.fs.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def files(self, name: str = "", suffix: str = "", *, recursive: bool = True) -> list[str]:
        """Return the files below `name`, relative to this directory and sorted; none if `name` does not exist.

        Raises:
            RunError: The storage does not respond.
        """
        selector = pafs.FileSelector(self.path(name), recursive=recursive, allow_not_found=True)
        with self.reaching():
            found = [path for path, info in named(self.fs.get_file_info(selector)) if info.type == pafs.FileType.File]
        return sorted(path[len(self.root) + 1 :] for path in found if path.endswith(suffix))

    def directories(self) -> list[str]:
        """Return the names of the subdirectories, sorted; none if this directory does not exist.

        Raises:
            RunError: The storage does not respond.
        """
        with self.reaching():
            infos = self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
        return sorted(info.base_name for _, info in named(infos) if info.type == pafs.FileType.Directory)

    def create(self) -> None:
        """Create the directory and its parents.

        Raises:
            RunError: It cannot be created or is not writable.
        """
        with self.writing():
            self.fs.create_dir(self.root, recursive=True)
            if self.local is not None and not os.access(self.root, os.W_OK):
                raise PermissionError(13, "Permission denied")

    def remove(self, name: str = "") -> None:
        """Delete a file, or a directory with its contents, if it exists.

        Raises:
            RunError: It cannot be deleted.
        """
        with self.writing():
            kind = self.fs.get_file_info(self.path(name)).type
            if kind == pafs.FileType.File:
                self.fs.delete_file(self.path(name))
            elif kind == pafs.FileType.Directory:
                self.fs.delete_dir(self.path(name))

    def require_own(self) -> None:
        """Check that a local directory is this user's, and that neither it nor what is directly in it is a link.

        Raises:
            RunError: Another user made it, or put a link into it: what is written there would go elsewhere.
        """
        if self.local is None:
            return
        link, fix = "is a symbolic link, and what is written would go elsewhere", "choose another run_id or output_dir"
        with self.writing():
            found = self.local.lstat()
            with os.scandir(self.local) as entries:
                links = [entry.name for entry in entries if entry.is_symlink()]
        if stat.S_ISLNK(found.st_mode):
            raise RunError(f"{self.shown()} {link}: {fix}")
        if links:
            raise RunError(f"{self.shown(min(links))} {link}: {fix}")
        if found.st_uid != os.geteuid():
            with self.writing(), tempfile.TemporaryFile(dir=self.local) as made:
                uid = os.fstat(made.fileno()).st_uid  # a file system may give all files to one user
            if uid != found.st_uid:
                raise RunError(f"{self.shown()} belongs to another user: {fix}")

    def read_text(self, name: str, most_bytes: int | None = None) -> str:
        """Return the text of a UTF-8 file.

        Args:
            name: The file.
            most_bytes: A file that is larger is not read.

        Raises:
            DataError: It does not exist, is no regular file, is too large, cannot be read, or is not UTF-8.
        """
        try:
            self.require_regular(name)
            with self.fs.open_input_stream(self.path(name)) as stream:
                data = bytes(stream.read(None if most_bytes is None else most_bytes + 1))
            text = data.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = (_denied(error) if isinstance(error, OSError) else None) or error
            raise DataError(f"{self.shown(name)} cannot be read: {reason}") from error
        if most_bytes is not None and len(data) > most_bytes:
            raise DataError(f"{self.shown(name)} is larger than {most_bytes:,} bytes")
        return text

    def require_regular(self, name: str) -> None:
        """Check that a local file, if it exists, is a regular one: opening a FIFO waits for its writer without end.

        Raises:
            DataError: It is something else, such as a directory, a FIFO or a device.
            OSError: Its directory cannot be read.
        """
        if self.local is not None and self.fs.get_file_info(self.path(name)).type in _IRREGULAR:
            raise DataError(f"{self.shown(name)} cannot be read: it is no regular file")

    def write_text(self, name: str, text: str) -> None:
        """Write a UTF-8 file atomically: a reader sees the old file or the new one.

        Half a character, as a foreign text or a path may hold it, is written as "?".

        Raises:
            RunError: The disk is full or cannot be written.
        """
        data = text.encode("utf-8", "replace")
        with self.replacing_stream(name) as stream:
            stream.write(data)

    @contextmanager
    def reaching(self) -> Iterator[None]:
        """Raise a `RunError` that names this directory when the storage does not respond."""
        try:
            yield
        except (OSError, pa.ArrowInvalid) as error:
            text = getattr(error, "strerror", None) or str(error)
            reason = _denied(error) or f"{text}. Run the same run_id again when it can"
            raise RunError(f"{self.shown()} cannot be reached: {reason}") from error

    @contextmanager
    def partial_files(self, *names: str) -> Iterator[tuple[str, ...]]:
        """Yield a temporary name for each file, and move all files to `names` when the block succeeds.

        A reader sees the old file or the new one. A block that raises leaves the old files and no temporary ones.

        Raises:
            RunError: The disk is full or cannot be written.
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
        """Yield a stream to write, which becomes the file `name` when the block succeeds.

        Raises:
            RunError: The disk is full or cannot be written.
        """
        if self.local is None:
            with self.writing(), self.fs.open_output_stream(self.path(name)) as stream:
                yield stream  # an object becomes visible, complete, when the stream is closed
            return
        with self.partial_files(name) as (partial,), self.writing():
            path = Path(self.path(partial))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                yield file

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield the path of a local file to write; the file becomes `name` when the block succeeds.

        A reader sees the old file or the new one. The file is in a temporary directory in which the block may write
        other files; the directory is removed with the block.

        Raises:
            RunError: The disk is full or cannot be written.
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
        """Raise a `RunError` that names this directory when the file system refuses a write."""
        try:
            yield
        except OSError as error:
            reason = _denied(error) or f"{error.strerror or error}. Free some space or write elsewhere"
            raise RunError(f"{self.shown()} cannot be written: {reason}") from error


def _denied(error: Exception) -> str | None:
    """Return why S3 denies access and the fix, or None for another error."""
    if not _OF_CREDENTIALS.search(str(error)):
        return None
    keys = " and ".join(S3_KEYS)
    if any(name in os.environ for name in S3_KEYS):
        return f"access is denied: check the keys in {keys}, and what they may do there"
    if "AWS_PROFILE" in os.environ or "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        return "access is denied: check the credentials of AWS_PROFILE or AWS_WEB_IDENTITY_TOKEN_FILE"
    return f"access is denied, and no keys are set: export {keys}, or AWS_PROFILE"


def _move(partial: Path, target: Path) -> None:
    """Move a finished file to `target`, durably: the move survives a power failure."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    fsync_directory(target.parent)


def fsync_directory(path: Path) -> None:
    """Flush a directory to disk, so that a rename in it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
