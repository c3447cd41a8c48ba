"""The logs of a run: each process writes a file that is found below the run's logs/, also when its machine is gone.

In: a process's output. Out: logs/<name>. On a disk the process writes that file itself. Object storage cannot append:
the process writes a file in a private temporary directory, which is copied there every `COPY_S` seconds if it has
grown, and at its end.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress

from pipeline.errors import PipelineError
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import open_to_write, private_directory

DIRECTORY = "logs"

COPY_S = 60.0
"""Seconds between two copies of a log to object storage."""

LONGEST_COPY = 64 << 20
"""Bytes of a log that are copied; of a longer one the end."""

_CHUNK = 1 << 20

logger = logging.getLogger(__name__)


class LogFile:
    """A log of this process. `path` is the file to write, `name` how messages name it: it outlives the machine."""

    def __init__(self, logs: ArtifactStore, file: str, private: str) -> None:
        """Make the file; in object storage also copy what an earlier process of this name left there.

        Args:
            logs: The run's logs/.
            file: The log's name.
            private: Name of the temporary directory for logs that are copied to object storage.

        Raises:
            OSError: The file cannot be made, or is a link.
            PipelineError: The storage does not answer, or the temporary directory belongs to another user.
        """
        self._logs, self._file = logs, file
        self.name = logs.shown(file)
        self._is_copied = logs.local is None
        directory = private_directory(private) if logs.local is None else logs.local
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / file
        self._descriptor = open_to_write(self.path)  # kept: the file can be copied when its name is gone
        self._num_copied = -1  # an empty log is copied too
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._copy_often, name="log", daemon=True)
        if self._is_copied:
            self._take_over()
            self._thread.start()

    def _take_over(self) -> None:
        """Begin with what is stored already, so that a resumed run's log has its earlier sessions too."""
        if os.fstat(self._descriptor).st_size or not self._logs.exists(self._file):
            return
        with self._logs.reaching(), self._logs.fs.open_input_stream(self._logs.path(self._file)) as stream:
            while chunk := bytes(stream.read(_CHUNK)):
                os.write(self._descriptor, chunk)

    def copy(self) -> None:
        """Copy the log to object storage, if it has grown.

        Raises:
            RunError: The storage cannot be written.
        """
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            if not self._is_copied or size == self._num_copied:
                return
            at = max(0, size - LONGEST_COPY)
            with self._logs.replacing_stream(self._file) as stream:
                if at:
                    stream.write(b"(%d bytes before this are left out)\n" % at)
                while at < size:
                    chunk = os.pread(self._descriptor, min(_CHUNK, size - at), at)
                    stream.write(chunk)
                    at += len(chunk)
            self._num_copied = size

    def close(self) -> None:
        """Copy the log a last time, and remove the temporary file and its directory once nothing else is in it.

        Raises:
            RunError: The storage cannot be written; the temporary file stays.
        """
        if not self._is_copied:
            return
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self.copy()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # another log of the run is in it
            self.path.parent.rmdir()

    def _copy_often(self) -> None:
        while not self._closing.wait(COPY_S):
            try:
                self.copy()
            except PipelineError:
                logger.exception("%s cannot be stored now", self.name)
