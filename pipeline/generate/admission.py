"""Admission to the engine: as many rows at once as it has slots, and suspicious rows apart from the others.

A row that was in flight when the process crashed runs at a narrower isolation level: first in a group of at most
`GROUP_WIDTH`, then in isolation. So the row that crashes the engine is found with few crashes and takes no innocent row
along. The most suspicious rows go first, and rows of two levels never run together. Blocks overtake each other on their
way to the replica: of the waiting rows of a level, the one that comes first in the work list goes first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count

from pipeline.generate.attempt_log import Suspicion

GROUP_WIDTH = 8


class AdmissionQueue:
    """The slots of one engine. Used on one event loop; within a level rows go by their places in the work list."""

    def __init__(self, slots: int) -> None:
        self._widths = {Suspicion.NONE: slots, Suspicion.GROUPED: min(GROUP_WIDTH, slots), Suspicion.ISOLATED: 1}
        self._waiting: dict[Suspicion, list[tuple[int, int, asyncio.Future[None]]]] = {each: [] for each in Suspicion}
        self._arrivals = count()
        self._level = Suspicion.NONE
        self.num_running = 0

    @asynccontextmanager
    async def slot(self, level: Suspicion, place: int) -> AsyncIterator[None]:
        """Wait for a slot at the isolation level and hold it; the lowest place goes first, then the first to arrive."""
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

    def _most_suspicious(self) -> Suspicion | None:
        return next((level for level in reversed(Suspicion) if self._waiting[level]), None)
