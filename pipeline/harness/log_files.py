"""Where the harness's sample logs are: a file, a directory, or an archive of them.

In: a path. Out: `LogFile`s that can be opened one after the other. Names inside an archive name nothing on the disk,
and what an archive says that it unpacks to is bounded before anything is unpacked.
"""

from __future__ import annotations

import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import ConfigError, DataError
from pipeline.terminal.text import escape_control

NAME = re.compile(r"samples_(?P<task>.+)_(?P<stamp>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")
"""How `lm_eval --log_samples` names a task's file."""

NESTED = "logs_public.zip"
"""The logs' archive inside a submission."""

MAX_UNPACKED_BYTES = 8 << 30
"""Most bytes that the logs of one archive may unpack to; the three tasks' logs take a fiftieth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """A file of samples. `task` and `stamp` are what its name says, or empty; `name` is for people."""

    name: str
    directory: str
    task: str
    stamp: str
    open: Callable[[], IO[bytes]]


@contextmanager
def find_logs(where: str) -> Iterator[list[LogFile]]:
    """Give the sample logs that `logs=<where>` names; they can be opened until the block ends.

    Raises:
        DataError: There are none, the archive is damaged, or it unpacks to too much.
    """
    path = Path(where).expanduser()
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
    """Turn what goes wrong while a log or an archive is read into one line that names it."""
    try:
        yield
    except (OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        # RuntimeError and its NotImplementedError: an encrypted member, an unknown compression
        reason = str(error) or "it ends too early"
        raise DataError(f"{name} cannot be read: {reason}: copy it again, or give the logs unpacked") from error


def choose(
    files: Sequence[LogFile], known: Collection[str], requested: Collection[str], task: str | None
) -> dict[str, LogFile]:
    """Return the newest log of each task.

    Args:
        files: What was found.
        known: The configuration's tasks.
        requested: Of them, those to compare; empty means all that have a log.
        task: Our name of the one log's task; None takes the tasks from the files' names.

    Raises:
        ConfigError: `task` is unknown, or there are several logs and it cannot be all of theirs.
        DataError: A log is of an unknown task, or one task has logs in several directories.
    """
    tasks = f"the configuration has {', '.join(known)}"
    if task is not None:
        if task not in known:
            raise ConfigError(f"task={task!r}: there is no such task: {tasks}")
        if len(files) > 1:
            raise ConfigError(f"task={task!r} says which task one log is of, but there are {len(files)}: give one file")
        return {task: files[0]}
    chosen: dict[str, LogFile] = {}
    for file in sorted(files, key=lambda each: each.stamp):
        if requested and file.task not in requested:
            continue
        if file.task not in known:
            what = f"is of the task {file.task!r}" if file.task else "does not say its task in its name"
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
    # A member never gives more bytes than its entry says: zipfile stops there.
    num_bytes = sum(info.file_size for info in members)
    if num_bytes > MAX_UNPACKED_BYTES:
        raise DataError(
            f"{name} unpacks to {num_bytes:,} bytes, more than {MAX_UNPACKED_BYTES:,}: unpack it yourself and give the "
            "directory"
        )
