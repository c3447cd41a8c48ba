"""Admission to the engine: as many rows at once as it has slots, and suspicious rows apart from the others.

A row that was under way when the process died runs in a narrow lane, at first among eight, then alone, so that the
one that kills the engine is found by few deaths and takes no innocent row along. The most suspicious rows go first and
never beside rows of another level. Blocks overtake each other on their way here: of the rows that wait, the one that is
first in the work list is first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count

GROUP_WIDTH = 8


class AdmissionQueue:
    """The slots of one engine. Used on one event loop; within a level rows go by their places in the work list."""

    def __init__(self, slots: int) -> None:
        self._widths = (slots, min(GROUP_WIDTH, slots), 1)
        self._waiting: tuple[list[tuple[int, int, asyncio.Future[None]]], ...] = ([], [], [])
        self._arrivals = count()
        self._level = 0
        self.num_running = 0

    @asynccontextmanager
    async def slot(self, level: int, place: int) -> AsyncIterator[None]:
        """Wait for a slot in the level's lane and hold it; the lowest place goes first, then the first that came."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting[level], (place, next(self._arrivals), turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self.num_running -= 1
        self._admit()

    def _admit(self) -> None:
        while (level := self._most_suspicious()) is not None:
            if self.num_running and (level != self._level or self.num_running >= self._widths[level]):
                return
            turn = heappop(self._waiting[level])[-1]
            if not turn.cancelled():
                self._level = level
                self.num_running += 1
                turn.set_result(None)

    def _most_suspicious(self) -> int | None:
        return next((level for level in (2, 1, 0) if self._waiting[level]), None)
