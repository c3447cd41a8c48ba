"""logs/events.jsonl: what happened in a run and when, one JSON object on each line.

In: events. Out: lines with `time` (UTC), `run_id`, `event` and what belongs to the event (docs/architecture.md). Each
event is written as it happens, so the file of a killed run has all up to then. A resumed run appends.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import PipelineError
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import open_to_write

FILE = "events.jsonl"

LONGEST_TEXT = 1_000
"""Characters of a text in an event: errors quote models, servers and libraries."""

logger = logging.getLogger(__name__)


class EventLog:
    """Writes the events of a run. Used from several threads; an event that cannot be written ends nothing."""

    def __init__(self, logs: ArtifactStore, run_id: str) -> None:
        """Open the log.

        Args:
            logs: The run's logs/.
            run_id: The run.

        Raises:
            PipelineError: The storage does not answer.
        """
        self._logs, self._run_id = logs, run_id
        self._lock = threading.Lock()
        # On a disk, what is still to be appended. Object storage cannot append: there, the whole object.
        self._text = b""
        if logs.local is None and logs.exists(FILE):
            with logs.reaching(), logs.fs.open_input_stream(logs.path(FILE)) as stream:
                self._text = bytes(stream.read())

    def write(self, event: str, **details: Any) -> None:
        """Write an event with what belongs to it; None is unknown and becomes null."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"time": time, "run_id": self._run_id, "event": event} | _bounded(details)
        with self._lock:
            self._text += f"{json.dumps(record)}\n".encode()
            try:
                self._store()
            except (OSError, PipelineError):
                logger.exception("An event cannot be written; it is written with the next one")

    def _store(self) -> None:
        if self._logs.local is None:
            with self._logs.replacing_stream(FILE) as stream:
                stream.write(self._text)
            return
        descriptor = open_to_write(self._logs.local / FILE)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a full disk or a kill has cut off the last line
                os.write(descriptor, b"\n")
            if os.write(descriptor, self._text) != len(self._text):
                raise OSError("the disk is full")
        finally:
            os.close(descriptor)
        self._text = b""


def _bounded(value: Any) -> Any:
    """Return a value with its texts cut to `LONGEST_TEXT` characters."""
    if isinstance(value, str):
        return value[:LONGEST_TEXT]
    if isinstance(value, Mapping):
        return {str(name): _bounded(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_bounded(each) for each in value]
    return value
