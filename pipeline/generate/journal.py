"""The journal: where a finished row is safe before anyone hears of it.

In: completions, one at a time, from one worker. Out: lines on disk, `<crc32 of the rest, 8 hex digits> <JSON>`.
Each worker process has a journal of its own, so that no file has two writers. On a disk a line is fsynced before
`Journal.append` returns; the lines that came during one fsync share the next. Object storage cannot append: there
the lines of at most `flush_s` seconds make one object. Ray Data's own sink and checkpoints are not used for this:
a row counts there only when its task commits, and only for some sources.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import uuid
import zlib
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

from pipeline.errors import DataError
from pipeline.records import Completion
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore

FOLDER = "journal"
SUFFIX = ".jsonl"


class Journal:
    """One worker's journal. `append` is called on one event loop; a thread of its own writes."""

    def __init__(self, folder: ArtifactStore, name: str, flush_s: float) -> None:
        """Open a new journal.

        Args:
            folder: Directory of the run's journals.
            name: Unique name of this writer.
            flush_s: In object storage, seconds between two objects.
        """
        self._folder, self._name, self._flush_s = folder, name, flush_s
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._file: BinaryIO | None = None
        self._num_objects = 0
        if folder.local is not None:
            folder.create()
            self._file = (folder.local / f"{name}{SUFFIX}").open("ab", buffering=0)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    async def append(self, completion: Completion) -> None:
        """Return when the completion is on disk.

        Raises:
            OSError: It could not be written, for instance because the disk is full.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((_line(asdict(completion)), written))
        await written

    async def flush(self) -> None:
        """Return when all that was appended before is on disk, or could not be written."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((b"", written))
        await written

    def close(self) -> None:
        """Write what is waiting and end the thread."""
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
                self._closing.wait(self._flush_s)  # gather an object's worth
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
        """Put the lines on disk; return what hindered it."""
        try:
            if self._file is not None:
                view = memoryview(data)
                while view:
                    view = view[self._file.write(view) :]
                os.fsync(self._file.fileno())
            else:
                name = f"{self._name}-{self._num_objects:06d}{SUFFIX}"
                self._num_objects += 1
                with self._folder.fs.open_output_stream(self._folder.path(name)) as stream:
                    stream.write(data)
        except Exception as error:  # handed to whoever waits for it: were the thread to die, they would wait for ever
            return error
        return None


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read(folder: ArtifactStore, without_errors_of: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield every whole line of every journal in the folder, as a completion's fields.

    Args:
        folder: Directory of the run's journals.
        without_errors_of: Files of which the rows that failed are left out.

    A line that was cut off, or whose checksum does not agree, ends its file: what stands after it was written by a
    process that had already lost its disk.
    """
    for name in folder.files(suffix=SUFFIX):
        errors_count = name not in without_errors_of
        with folder.fs.open_input_stream(folder.path(name)) as stream:
            rest = b""
            while chunk := bytes(stream.read(1 << 20)):
                *lines, rest = (rest + chunk).split(b"\n")
                records = [_record(line) for line in lines]
                whole = records if None not in records else records[: records.index(None)]
                yield from (each for each in whole if each is not None and (errors_count or each["error"] is None))
                if len(whole) < len(records):
                    break


def _record(line: bytes) -> dict[str, Any] | None:
    """Return a line's record, or None when the line is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def keep(folder: ArtifactStore, records: Iterator[dict[str, Any]]) -> None:
    """Write completions of an earlier commit as a journal that appears whole."""
    folder.create()
    with folder.replacing_stream(f"kept-{uuid.uuid4().hex}{SUFFIX}") as stream:
        for record in records:
            stream.write(_line(record))


INFO_SUFFIX = ".facts.json"


def write_engine_info(folder: ArtifactStore, name: str, info: EngineInfo) -> None:
    """Store what a replica reports, beside its journal; what it reported earlier and does not now is kept."""
    file = f"{name}{INFO_SUFFIX}"
    before = json.loads(folder.read_text(file)) if folder.exists(file) else {}
    folder.write_text(file, json.dumps(before | info.to_flat()))


def read_engine_info(folder: ArtifactStore) -> dict[str, EngineInfo]:
    """Return what every replica reported, by its name.

    Raises:
        DataError: A file of them is damaged.
    """
    found: dict[str, EngineInfo] = {}
    for name in folder.files(suffix=INFO_SUFFIX):
        try:
            found[name.removesuffix(INFO_SUFFIX)] = EngineInfo.from_flat(json.loads(folder.read_text(name)))
        except (ValueError, AttributeError) as error:
            raise DataError(f"{folder.path(name)} is damaged: delete it and run the same run_id again") from error
    return found
