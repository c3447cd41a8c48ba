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

from pipeline.runs.failure_reasons import normalized
from pipeline.storage.filesystem import open_to_write
from pipeline.terminal.text import one_line

LONGEST_CAUSE = 400
"""Characters of a crash's cause that are kept."""

WITHOUT_REASON = ("EngineDeadError", "RuntimeError: vLLM's engine ended without a message")
"""Beginnings of causes that state only that the engine's process has ended: it was killed, or its memory was taken."""

ALIKE_CRASHES = 3
"""Crashes alike after which the engine itself is the cause; at the last of them one row ran in isolation."""

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
    truncated: bool = False


@dataclass(slots=True)
class _Crashes:
    """Crashes with a row in flight: all of them, and those at each isolation level above NONE."""

    total: int = 0
    grouped: int = 0
    isolated: int = 0


@dataclass(slots=True)
class _Streak:
    """The latest crashes in a row that have one cause and before which the process had finished no row."""

    cause: str
    num_crashes: int
    common: frozenset[str]
    """Rows that were in flight at each of them: one of these may be the cause."""
    is_fresh: bool
    """Whether a row that no crash had made suspicious was in flight at one of them."""


@dataclass(slots=True)
class _Process:
    """What the log has of one process."""

    in_flight: dict[str, Suspicion] = field(default_factory=dict)
    has_finished: bool = False
    has_left: bool = False
    cause: str | None = None


@dataclass(slots=True)
class _History:
    num_crashes: int = 0
    num_recent_crashes: int = 0
    crashes: dict[str, _Crashes] = field(default_factory=dict)
    finished: dict[str, RowStatus] = field(default_factory=dict)
    cause: str | None = None
    streak: _Streak | None = None
    has_worked: bool = False
    num_tries_again: int = 0


class AttemptLog:
    """The attempt log of one replica, opened by each of its processes in turn."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = open_to_write(file)
        lines, newline, _ = file.read_bytes().rpartition(b"\n")
        os.ftruncate(self._descriptor, len(lines) + len(newline))  # a line that a full disk has cut off is dropped
        self._history = _read(lines.decode())
        self._has_crashed = False
        self._write("P")

    @property
    def num_crashes(self) -> int:
        """Processes of this replica that crashed before this one."""
        return self._history.num_crashes

    @property
    def num_recent_crashes(self) -> int:
        """Processes that crashed in a row without having finished a row, and the one that did before them."""
        return self._history.num_recent_crashes

    @property
    def num_tries_again(self) -> int:
        """Processes of this replica that followed one which had given up."""
        return self._history.num_tries_again

    @property
    def last_cause(self) -> str | None:
        """Why the last process crashed; None when it left no message."""
        return self._history.cause

    @property
    def is_unproven(self) -> bool:
        """Return whether the last process crashed before it finished a row: perhaps no row can be finished."""
        return self._history.streak is not None

    @property
    def is_last_try(self) -> bool:
        """Return whether another crash like the last ones may be taken for the engine's: a single row is to show it.

        With several rows in flight, a crash could be that of a poison row, and its neighbours would show nothing.
        """
        streak = self._history.streak
        return streak is not None and streak.num_crashes >= ALIKE_CRASHES - 1

    @property
    def crashes_alike(self) -> bool:
        """Return whether the engine itself is the cause: no row explains its latest crashes.

        At least `ALIKE_CRASHES` of them in a row had the same cause and came before a row was finished, and no row was
        in flight at each of them. Once the engine has finished a row, crashes of suspicious rows alone do not count:
        each of these may be a poison row.
        """
        streak = self._history.streak
        if streak is None or streak.num_crashes < ALIKE_CRASHES or streak.common:
            return False
        return streak.is_fresh or not self._history.has_worked

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
        self._write(f"E {status.failed:d} {status.truncated:d} {status.num_output_tokens} {key}")

    def crash(self, cause: str) -> None:
        """Record why the engine has crashed; only the first cause counts."""
        if not self._has_crashed:
            self._has_crashed = True
            self._write(f"C {one_line(cause, LONGEST_CAUSE)}")

    def leave(self) -> None:
        """Record that this process exits on purpose, which is not a crash."""
        self._write("L")

    def try_again(self) -> None:
        """Record that this process exits because the next one may start its engine where this one gave up."""
        self._write("A")

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode(errors="replace")
        if os.write(self._descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))


def _read(text: str) -> _History:
    history = _History()
    process: _Process | None = None
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "P" or process is None:
            _count_crash(history, process)
            process = _Process()
            history.num_crashes += 1  # taken back when the process left on purpose
        elif kind in ("L", "A"):
            history.num_crashes -= 1
            process.has_left = True
            history.num_tries_again += kind == "A"
        elif kind == "C":
            process.cause = rest
        elif kind == "S":
            level, _, key = rest.partition(" ")
            process.in_flight[key] = Suspicion(int(level))
        elif kind == "E":
            failed, truncated, num_output_tokens, key = rest.split(" ", 3)
            # A poison row ends without having been started.
            process.has_finished |= process.in_flight.pop(key, None) is not None
            history.finished[key] = RowStatus(failed == "1", int(num_output_tokens), truncated == "1")
    _count_crash(history, process)
    return history


def _count_crash(history: _History, process: _Process | None) -> None:
    """Count a crash for each row that was in flight when the process ended."""
    if process is None:
        return
    if process.has_finished:
        history.num_recent_crashes = 0
    history.num_recent_crashes += not process.has_left
    for key, level in process.in_flight.items():
        crashes = history.crashes.setdefault(key, _Crashes())
        crashes.total += 1
        crashes.grouped += level == Suspicion.GROUPED
        crashes.isolated += level == Suspicion.ISOLATED
    history.cause = process.cause
    history.has_worked |= process.has_finished
    history.streak = _continued(history.streak, process)


def _continued(streak: _Streak | None, process: _Process) -> _Streak | None:
    """Return the streak of crashes after this process; None when it does not count."""
    if process.cause is None or process.cause.startswith(WITHOUT_REASON) or process.has_finished:
        return None
    cause, keys = normalized(process.cause), frozenset(process.in_flight)
    is_fresh = Suspicion.NONE in process.in_flight.values()
    if streak is None or streak.cause != cause:
        return _Streak(cause, 1, keys, is_fresh)
    return _Streak(cause, streak.num_crashes + 1, streak.common & keys, streak.is_fresh or is_fresh)
