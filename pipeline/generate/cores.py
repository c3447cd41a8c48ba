"""Who runs where on a machine without GPUs: vLLM's workers on the cores that they are bound to, the rest beside them.

vLLM on a CPU binds its worker's threads to all cores but one, which it leaves for its scheduler. Nothing keeps its
scheduler, Ray's processes or ours from running on the workers' cores all the same, and each time one does, every
completion under way waits for it. In: the processes below this one. Linux only; elsewhere nothing is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")

PARENT_OF_ACTORS = "raylet"
"""Keeps its cores: an actor that it starts later hands them on to a new engine, which binds its workers anew."""


class Cores:
    """The cores that this process had when this was made, which it and all below it share."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
        self._other_cores: set[int] = set()

    def leave_to_vllm(self) -> None:
        """Move this process and all below it off the cores that vLLM's workers are bound to.

        Only processes that may run on every core are moved, so a binding that someone has made stays. Where none is
        bound, or the bound ones take all cores, nobody moves.
        """
        cores = {pid: _cores(pid) for pid in (os.getpid(), *_below(os.getpid()))}
        bound = set().union(*(each for each in cores.values() if each < self._all and each != self._other_cores))
        if not bound or bound == self._all:
            return
        self._other_cores = self._all - bound
        for pid, each in cores.items():
            if each == self._all and _name(pid) != PARENT_OF_ACTORS:
                _move(pid, self._other_cores)

    def take_back(self) -> None:
        """Let this process run on all of them again."""
        if self._other_cores:
            _move(os.getpid(), self._all)


def _below(pid: int) -> Iterator[int]:
    """Yield the processes that a process has started, and those that they have."""
    for task in _tasks(pid):
        with suppress(OSError):  # it has ended
            for child in (PROC / str(pid) / "task" / str(task) / "children").read_text().split():
                yield int(child)
                yield from _below(int(child))


def _tasks(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(entry.name) for entry in (PROC / str(pid) / "task").iterdir()]
    return []


def _name(pid: int) -> str:
    with suppress(OSError):
        return (PROC / str(pid) / "comm").read_text().strip()
    return ""


def _cores(pid: int) -> set[int]:
    with suppress(OSError):
        return os.sched_getaffinity(pid)
    return set()


def _move(pid: int, cores: set[int]) -> None:
    """Move all threads of a process; those that it starts later inherit the cores."""
    for task in _tasks(pid):
        with suppress(OSError):
            os.sched_setaffinity(task, cores)
