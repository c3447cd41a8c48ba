"""The attempt log: rows that a replica's processes started and finished, for the next process of the same replica.

In: starts and ends of rows. Out, for a process that follows a crashed one: which rows are finished, and which were in
flight at a crash. The file is on the machine's own disk: when a process crashes, the kernel still writes what it was
handed; when a machine is lost, its rows are not the cause and the log is not needed.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

MAX_ISOLATED_CRASHES = 2
"""Crashes while this row ran in isolation after which it is recorded as a failed (poison) row."""


class Suspicion(IntEnum):
    """How suspicious a row is of crashing the engine, which is its isolation level at admission. Stored as a number."""

    NONE = 0
    """The row was never in flight at a crash."""
    GROUPED = 1
    """The row was in flight at a crash among all others: it runs in a small group."""
    ISOLATED = 2
    """The row was in flight at a crash in a small group or in isolation: it runs in isolation."""


@dataclass(frozen=True, slots=True)
class RowStatus:
    """What is reported of a finished row."""

    failed: bool
    num_output_tokens: int


@dataclass(slots=True)
class _Crashes:
    """Crashes with a row in flight: all of them, and those at each isolation level above NONE."""

    total: int = 0
    grouped: int = 0
    isolated: int = 0


@dataclass(slots=True)
class _History:
    num_crashes: int = 0
    crashes: dict[str, _Crashes] = field(default_factory=dict)
    finished: dict[str, RowStatus] = field(default_factory=dict)


class AttemptLog:
    """The attempt log of one replica, opened by each of its processes in turn."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        lines, newline, _ = file.read_bytes().rpartition(b"\n")
        os.ftruncate(self._descriptor, len(lines) + len(newline))  # a line that a full disk has cut off is dropped
        self._history = _read(lines.decode())
        self._write("P")

    @property
    def num_crashes(self) -> int:
        """Processes of this replica that crashed before this one."""
        return self._history.num_crashes

    def finished(self, key: str) -> RowStatus | None:
        """Return the status of a row that a previous process finished and journaled, or None."""
        return self._history.finished.get(key)

    def suspicion(self, key: str) -> Suspicion:
        """Return how suspicious a row is."""
        crashes = self._history.crashes.get(key)
        if crashes is None:
            return Suspicion.NONE
        return Suspicion.ISOLATED if crashes.grouped or crashes.isolated else Suspicion.GROUPED

    def attempts(self, key: str) -> int:
        """Return how many times previous processes started a row without finishing it."""
        crashes = self._history.crashes.get(key)
        return crashes.total if crashes else 0

    def is_poison(self, key: str) -> bool:
        """Return whether this row crashed the process often enough while it ran in isolation."""
        crashes = self._history.crashes.get(key)
        return crashes is not None and crashes.isolated >= MAX_ISOLATED_CRASHES

    def start(self, key: str, level: Suspicion) -> None:
        """Record that a row is in flight at this isolation level, before the engine gets it."""
        self._write(f"S {level:d} {key}")

    def end(self, key: str, status: RowStatus) -> None:
        """Record that a row is finished and journaled."""
        self._write(f"E {status.failed:d} {status.num_output_tokens} {key}")

    def leave(self) -> None:
        """Record that this process exits on purpose, which is not a crash."""
        self._write("L")

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode()
        if os.write(self._descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))


def _read(text: str) -> _History:
    history = _History()
    in_flight: dict[str, Suspicion] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "P":
            _count_crashes(history, in_flight)
            history.num_crashes += 1  # taken back when the process left on purpose
        elif kind == "L":
            history.num_crashes -= 1
        elif kind == "S":
            level, _, key = rest.partition(" ")
            in_flight[key] = Suspicion(int(level))
        elif kind == "E":
            failed, num_output_tokens, key = rest.split(" ", 2)
            in_flight.pop(key, None)
            history.finished[key] = RowStatus(failed == "1", int(num_output_tokens))
    _count_crashes(history, in_flight)
    return history


def _count_crashes(history: _History, in_flight: dict[str, Suspicion]) -> None:
    """Count a crash for each row that was in flight when the process ended, and clear them."""
    for key, level in in_flight.items():
        crashes = history.crashes.setdefault(key, _Crashes())
        crashes.total += 1
        crashes.grouped += level == Suspicion.GROUPED
        crashes.isolated += level == Suspicion.ISOLATED
    in_flight.clear()
