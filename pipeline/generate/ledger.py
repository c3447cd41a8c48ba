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

NORMAL, CROWD, ALONE = 0, 1, 2
"""Levels of suspicion: none; was under way at a death, among others; was under way alone, or among few."""

MOST_DEATHS_ALONE = 2
"""Deaths of the process with this row alone in it, after which the row is to blame and becomes an error."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is reported of a finished row."""

    failed: bool
    num_output_tokens: int


@dataclass(slots=True)
class _Record:
    deaths: int = 0
    deaths_in_lane: int = 0
    deaths_alone: int = 0


@dataclass(slots=True)
class _Past:
    num_processes: int = 0
    records: dict[str, _Record] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)


class Ledger:
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
    def num_deaths(self) -> int:
        """Processes of this replica that died before this one."""
        return self._past.num_processes

    def ended(self, key: str) -> Ended | None:
        """Return what an earlier process said of a row that it finished and journaled, or None."""
        return self._past.ended.get(key)

    def level(self, key: str) -> int:
        """Return how suspicious a row is, which decides the lane that it runs in."""
        record = self._past.records.get(key)
        if record is None:
            return NORMAL
        return ALONE if record.deaths_in_lane or record.deaths_alone else CROWD

    def attempts(self, key: str) -> int:
        """Return how often a row has been started before."""
        record = self._past.records.get(key)
        return record.deaths if record else 0

    def is_poison(self, key: str) -> bool:
        """Return whether this row has killed the process often enough while it was alone in it."""
        record = self._past.records.get(key)
        return record is not None and record.deaths_alone >= MOST_DEATHS_ALONE

    def start(self, key: str, level: int) -> None:
        """Note that a row is under way, before the engine hears of it."""
        self._write(f"S {level} {key}")

    def end(self, key: str, ended: Ended) -> None:
        """Note that a row is finished and journaled."""
        self._write(f"E {int(ended.failed)} {ended.num_output_tokens} {key}")

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
            _blame(past, under_way)
            past.num_processes += 1
        elif kind == "L":
            past.num_processes -= 1
        elif kind == "S":
            level, _, key = rest.partition(" ")
            under_way[key] = int(level)
        elif kind == "E":
            failed, num_output_tokens, key = rest.split(" ", 2)
            under_way.pop(key, None)
            past.ended[key] = Ended(failed == "1", int(num_output_tokens))
    _blame(past, under_way)
    return past


def _blame(past: _Past, under_way: dict[str, int]) -> None:
    """Count a death for each row that was under way when the process ended, and forget them."""
    for key, level in under_way.items():
        record = past.records.setdefault(key, _Record())
        record.deaths += 1
        record.deaths_in_lane += level == CROWD
        record.deaths_alone += level == ALONE
    under_way.clear()
