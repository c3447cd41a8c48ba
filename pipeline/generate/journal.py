"""The journal: every completion is persisted here before it is reported.

In: completions, one at a time, from one replica. Out: lines on disk, `<crc32 of the rest, 8 hex digits> <JSON>`. Each
process of a replica has a journal of its own, so that no file has two writers. On a disk a line is fsynced before
`Journal.append` returns; lines that arrive during one fsync share the next. Object storage cannot append: there the
lines of at most `flush_s` seconds become one object. Ray Data's own sink and checkpoints are not used: with them a row
counts only when its task commits, and only for some sources.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from typing import BinaryIO

from pipeline.errors import DataError
from pipeline.records import Completion
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import open_to_write
from pipeline.terminal.text import one_line

DIRECTORY = "journal"
SUFFIX = ".jsonl"
INFO_SUFFIX = ".facts.json"


class Journal:
    """The journal of one replica's process. `append` is called on one event loop; a thread writes."""

    def __init__(self, store: ArtifactStore, name: str, flush_s: float) -> None:
        """Open a new journal.

        Args:
            store: Directory of the run's journals.
            name: Unique name of this writer.
            flush_s: In object storage, seconds between two objects.
        """
        self._store, self._name, self._flush_s = store, name, flush_s
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._file: BinaryIO | None = None
        self._num_objects = 0
        if store.local is not None:
            store.create()
            self._file = os.fdopen(open_to_write(store.local / f"{name}{SUFFIX}"), "ab", buffering=0)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    async def append(self, completion: Completion) -> None:
        """Persist a completion; return when it is on disk.

        Raises:
            OSError: It cannot be written, for instance because the disk is full.
        """
        await self._written(_line(completion))

    async def flush(self) -> None:
        """Return when everything that was appended before is on disk, or failed to be written."""
        await self._written(b"")

    async def _written(self, data: bytes) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((data, written))
        await written

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        ending = False
        while not ending:
            first = self._queue.get()
            if first is not None and self._file is None:
                self._closing.wait(self._flush_s)  # collect the lines of one object
            lines, waiting = [], []
            item = first
            while True:
                if item is None:
                    ending = True
                else:
                    lines.append(item[0])
                    waiting.append(item[1])
                if self._queue.empty():
                    break
                item = self._queue.get()
            data = b"".join(lines)
            error = self._commit(data) if data else None
            for future in waiting:
                future.get_loop().call_soon_threadsafe(_settle, future, error)

    def _commit(self, data: bytes) -> Exception | None:
        """Put the lines on disk; return the error that prevented it, or None."""
        try:
            if self._file is not None:
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) :]
                os.fsync(self._file.fileno())
            else:
                name = f"{self._name}-{self._num_objects:06d}{SUFFIX}"
                self._num_objects += 1
                with self._store.fs.open_output_stream(self._store.path(name)) as stream:
                    stream.write(data)
        except Exception as error:  # raised by the waiting `append`: if this thread ended, it would wait forever
            return error
        return None


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _line(completion: Completion) -> bytes:
    text = json.dumps(asdict(completion), ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read(store: ArtifactStore, without_errors_of: Collection[str] = ()) -> Iterator[Completion]:
    """Yield the completions of every journal in the directory.

    A line that was cut off, or whose checksum does not match, ends its file: what follows it was written by a process
    that had already lost its disk.

    Args:
        store: Directory of the run's journals.
        without_errors_of: Files whose failed rows are left out.

    Raises:
        RunError: A file cannot be read now.
        DataError: A line has other fields than this version's.
    """
    for name in store.files(suffix=SUFFIX):
        with_errors = name not in without_errors_of
        yield from (each for each in _read_file(store, name) if with_errors or each.error is None)


def _read_file(store: ArtifactStore, name: str) -> Iterator[Completion]:
    with store.reaching(), store.fs.open_input_stream(store.path(name)) as stream:
        rest: list[bytes] = []  # joined once: a line may be as large as an answer
        while chunk := bytes(stream.read(1 << 20)):
            first, *others = chunk.split(b"\n")
            rest.append(first)
            if not others:
                continue
            lines = [b"".join(rest), *others[:-1]]
            rest = [others[-1]]
            for line in lines:
                checksum, _, text = line.partition(b" ")
                if checksum != b"%08x" % zlib.crc32(text):
                    return
                yield _completion(store, name, text)


def _completion(store: ArtifactStore, name: str, text: bytes) -> Completion:
    try:
        return Completion(**json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        reason = one_line(str(error), 200)
        raise DataError(
            f"{store.shown(name)} has lines of another version ({reason}): choose another run_id"
        ) from error


def keep(store: ArtifactStore, completions: Iterable[Completion]) -> None:
    """Write completions that were published before as a journal that appears whole."""
    store.create()
    with store.replacing_stream(f"kept-{uuid.uuid4().hex}{SUFFIX}") as stream:
        for completion in completions:
            stream.write(_line(completion))


def write_engine_info(store: ArtifactStore, name: str, info: EngineInfo) -> None:
    """Store what a replica reports, next to its journal; fields reported before and missing now are kept.

    Only that it gave up is forgotten: a replica that reports something else has been tried again.

    Raises:
        DataError: What it reported before is damaged, or cannot be read now.
    """
    stored = engine_info_of(store, name).to_flat()
    stored.pop("gave_up", None)
    store.write_text(f"{name}{INFO_SUFFIX}", json.dumps(stored | info.to_flat()))


def read_engine_info(store: ArtifactStore) -> dict[str, EngineInfo]:
    """Return what every replica reported, by the replica's name.

    Raises:
        DataError: One of the files is damaged, or cannot be read now.
    """
    names = [name.removesuffix(INFO_SUFFIX) for name in store.files(suffix=INFO_SUFFIX)]
    return {name: engine_info_of(store, name) for name in names}


def engine_info_of(store: ArtifactStore, replica: str) -> EngineInfo:
    """Return what a replica reported; nothing is known of one that has not reported yet.

    Raises:
        DataError: Its file is damaged, or cannot be read now.
    """
    file = f"{replica}{INFO_SUFFIX}"
    if not store.exists(file):
        return EngineInfo()
    try:
        return EngineInfo.from_flat(json.loads(store.read_text(file)))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{store.shown(file)} is damaged: delete it and run the same run_id again") from error
