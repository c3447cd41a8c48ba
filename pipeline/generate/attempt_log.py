"""What a replica's processes have started and ended, kept where the next process of the same replica finds it.

In: starts and ends of rows. Out: for a process that follows one that died, which rows are finished already and which
were under way at the death. The file is on the machine's own disk: when a process dies the system still writes what
it had, and when a machine dies its rows are not to blame and nothing needs to be known of them.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

NONE, GROUPED, ISOLATED = 0, 1, 2
"""Levels of suspicion: none; was under way at a death, among others; was under way alone, or among few."""

MAX_ISOLATED_CRASHES = 2
"""Deaths of the process with this row alone in it, after which the row is to blame and becomes an error."""


@dataclass(frozen=True, slots=True)
class RowStatus:
    """What is reported of a finished row."""

    failed: bool
    num_output_tokens: int


@dataclass(slots=True)
class _Record:
    crashes: int = 0
    crashes_in_group: int = 0
    crashes_in_isolation: int = 0


@dataclass(slots=True)
class _Past:
    num_processes: int = 0
    records: dict[str, _Record] = field(default_factory=dict)
    finished: dict[str, RowStatus] = field(default_factory=dict)


class AttemptLog:
    """The ledger of one replica, opened by each of its processes in turn."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        lines, newline, _ = file.read_bytes().rpartition(b"\n")
        os.ftruncate(self._descriptor, len(lines) + len(newline))  # what a full disk has cut off is no line
        self._past = _read(lines.decode())
        self._write("P")

    @property
    def num_crashes(self) -> int:
        """Processes of this replica that died before this one."""
        return self._past.num_processes

    def finished(self, key: str) -> RowStatus | None:
        """Return what an earlier process said of a row that it finished and journaled, or None."""
        return self._past.finished.get(key)

    def level(self, key: str) -> int:
        """Return how suspicious a row is, which decides the lane that it runs in."""
        record = self._past.records.get(key)
        if record is None:
            return NONE
        return ISOLATED if record.crashes_in_group or record.crashes_in_isolation else GROUPED

    def attempts(self, key: str) -> int:
        """Return how often a row has been started before."""
        record = self._past.records.get(key)
        return record.crashes if record else 0

    def is_poison(self, key: str) -> bool:
        """Return whether this row has killed the process often enough while it was alone in it."""
        record = self._past.records.get(key)
        return record is not None and record.crashes_in_isolation >= MAX_ISOLATED_CRASHES

    def start(self, key: str, level: int) -> None:
        """Note that a row is under way, before the engine hears of it."""
        self._write(f"S {level} {key}")

    def end(self, key: str, status: RowStatus) -> None:
        """Note that a row is finished and journaled."""
        self._write(f"E {int(status.failed)} {status.num_output_tokens} {key}")

    def leave(self) -> None:
        """Note that this process ends of its own will, which is no death."""
        self._write("L")

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode()
        if os.write(self._descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file))


def _read(text: str) -> _Past:
    past = _Past()
    under_way: dict[str, int] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "P":
            _count_crashes(past, under_way)
            past.num_processes += 1
        elif kind == "L":
            past.num_processes -= 1
        elif kind == "S":
            level, _, key = rest.partition(" ")
            under_way[key] = int(level)
        elif kind == "E":
            failed, num_output_tokens, key = rest.split(" ", 2)
            under_way.pop(key, None)
            past.finished[key] = RowStatus(failed == "1", int(num_output_tokens))
    _count_crashes(past, under_way)
    return past


def _count_crashes(past: _Past, under_way: dict[str, int]) -> None:
    """Count a death for each row that was under way when the process ended, and forget them."""
    for key, level in under_way.items():
        record = past.records.setdefault(key, _Record())
        record.crashes += 1
        record.crashes_in_group += level == GROUPED
        record.crashes_in_isolation += level == ISOLATED
    under_way.clear()
