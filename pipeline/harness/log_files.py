"""Finds the harness's sample logs in a file, a directory or an archive.

In: a path. Out: `LogFile`s, to be opened one at a time. An archive may come from an attacker: the names in it are never
used as paths, and the unpacked size that it declares is checked against a limit before anything is unpacked.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.config.paths import expanded
from pipeline.errors import ConfigError, DataError
from pipeline.terminal.text import escape_control

NAME = re.compile(r"samples_(?P<task>.+)_(?P<stamp>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")
"""File name of a task's log, as `lm_eval --log_samples` writes it."""

NESTED = "logs_public.zip"
"""File name of the archive of logs inside a submission."""

MAX_UNPACKED_BYTES = 8 << 30
"""Maximum unpacked bytes of the logs of one archive; the logs of the three tasks take a fiftieth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """A file of samples. `task` and `stamp` are parsed from its name, or empty; `name` is for messages."""

    name: str
    directory: str
    task: str
    stamp: str
    open: Callable[[], IO[bytes]]


_OF_NAMES = (ValueError, LookupError, struct.error)
"""What zipfile raises for a member whose name is empty or no UTF-8, or whose fields are cut."""


@contextmanager
def find_logs(where: str) -> Iterator[list[LogFile]]:
    """Yield the sample logs at `where`, the value of `logs=`; they can be opened until the block ends.

    Raises:
        DataError: There are none, the archive is damaged, or its unpacked size is above the limit.
    """
    path = expanded(where)
    with ExitStack() as stack:
        if path.is_dir():
            found = [_on_disk(file) for file in sorted(path.rglob("samples_*.jsonl")) if file.is_file()]
            found = [file for file in found if file.task]
        elif not path.is_file():
            raise DataError(f"logs={where!r}: there is no such file or directory")
        elif path.suffix.lower() == ".zip":
            found = _in_archive(path, stack)
        else:
            found = [_on_disk(path)]
        if not found:
            raise DataError(f"logs={where!r} holds no samples_<task>_<time>.jsonl: run the harness with --log_samples")
        yield found


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn an error in reading a log or an archive into a `DataError` that names it."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, *_OF_NAMES) as error:
        # zipfile raises RuntimeError for an encrypted member and NotImplementedError for an unknown compression.
        reason = str(error) or "it ends too early"
        raise DataError(f"{name} cannot be read: {reason}: copy it again, or give the logs unpacked") from error


def choose(
    files: Sequence[LogFile], known: Collection[str], requested: Collection[str], task: str | None
) -> dict[str, LogFile]:
    """Return the newest log of each task.

    Args:
        files: The logs that were found.
        known: The configuration's tasks.
        requested: The tasks to compare; empty means all that have a log.
        task: Our name of the task of a single log; None takes the tasks from the file names.

    Raises:
        ConfigError: `task` is unknown, or there are several logs.
        DataError: A log is of an unknown task, a task has logs in several directories, or no requested task has a log.
    """
    tasks = f"the configuration has {', '.join(known)}"
    if task is not None:
        if task not in known:
            raise ConfigError(f"task={task!r}: there is no such task: {tasks}")
        if len(files) > 1:
            raise ConfigError(f"task={task!r} names the task of one log, but there are {len(files)}: give one file")
        return {task: files[0]}
    chosen: dict[str, LogFile] = {}
    for file in sorted(files, key=lambda each: each.stamp):
        if requested and file.task not in requested:
            continue
        if file.task not in known:
            what = f"is of the task {file.task!r}" if file.task else "has no task in its name"
            raise DataError(f"{file.name} {what}: {tasks}; give task=<name> with one file, or only=[...]")
        before = chosen.get(file.task)
        if before is not None and before.directory != file.directory:
            raise DataError(
                f"{file.task} has logs of several models: {before.name} and {file.name}: give one directory"
            )
        chosen[file.task] = file
    if not chosen:
        there = ", ".join(sorted({repr(file.task) for file in files}))
        raise DataError(f"only=[{', '.join(requested)}]: there is no log of it, only of {there}")
    return dict(sorted(chosen.items()))


def _on_disk(path: Path) -> LogFile:
    return _log_file(path.name, str(path), str(path.parent), lambda: path.open("rb"))


def _log_file(base: str, name: str, directory: str, opens: Callable[[], IO[bytes]]) -> LogFile:
    match = NAME.fullmatch(base)
    task, stamp = (match["task"], match["stamp"]) if match else ("", "")
    return LogFile(name=escape_control(name), directory=directory, task=task, stamp=stamp, open=opens)


def _in_archive(path: Path, stack: ExitStack) -> list[LogFile]:
    name = str(path)
    with readable(name):
        archive = stack.enter_context(zipfile.ZipFile(path))
        nested = [info for info in archive.infolist() if PurePosixPath(info.filename).name == NESTED]
        if len(nested) > 1:
            raise DataError(f"{path} holds {len(nested)} files called {NESTED}: give one of them")
        if nested:
            name = escape_control(f"{path}/{nested[0].filename}")
            _require_bounded(name, nested)
            copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            with readable(name):
                with archive.open(nested[0]) as inner:
                    shutil.copyfileobj(inner, copy)
                archive = stack.enter_context(zipfile.ZipFile(copy))
    members = [info for info in archive.infolist() if NAME.fullmatch(PurePosixPath(info.filename).name)]
    _require_bounded(name, members)
    return [_member(archive, info, name) for info in members]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> LogFile:
    place = PurePosixPath(info.filename)
    return _log_file(place.name, f"{name}/{info.filename}", str(place.parent), lambda: archive.open(info))


def _require_bounded(name: str, members: Sequence[zipfile.ZipInfo]) -> None:
    # zipfile never reads more bytes of a member than its entry declares.
    num_bytes = sum(info.file_size for info in members)
    if num_bytes > MAX_UNPACKED_BYTES:
        raise DataError(
            f"{name} unpacks to {num_bytes:,} bytes, more than {MAX_UNPACKED_BYTES:,}: unpack it yourself and give the "
            "directory"
        )
