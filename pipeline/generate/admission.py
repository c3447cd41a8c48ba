"""Admission to the engine: as many rows at once as it has slots, and suspicious rows apart from the others.

A row that was in flight when the process crashed runs at a narrower isolation level: first in a group of at most
`GROUP_WIDTH`, then in isolation. So the row that crashes the engine is found with few crashes and takes no innocent row
along. The most suspicious rows go first, and rows of two levels never run together. Blocks overtake each other on their
way to the replica: of the waiting rows of a level, the one that comes first in the work list goes first.

Where an engine crashed before it had finished a row, perhaps no row can be finished. Then the least suspicious go
first, and suspicious ones singly, until one is finished: rows that were not in flight at the crash show whether the
engine works. At the last try the others go singly too. A row that goes singly is drawn at random, since the first rows
of the work list may be the poison rows, and a resumed run should not try the same ones again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from itertools import count

from pipeline.generate.attempt_log import Suspicion

GROUP_WIDTH = 8

GATHER_S = 1.0
"""Seconds in which Ray returns the rows of a crashed process to the next one, from the first to the last."""


class AdmissionQueue:
    """The slots of one engine. Used on one event loop; within a level rows go by their places in the work list."""

    def __init__(self, slots: int, *, unproven: bool = False, is_last_try: bool = False) -> None:
        self._unproven, self._is_open, self._opens = unproven, not unproven, False
        self._is_last_try = is_last_try
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
        if not self._opens and not self._is_open:
            self._opens = True
            asyncio.get_running_loop().call_later(GATHER_S, self._open)
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

    def prove(self) -> None:
        """Record that the engine has finished a row: from now on the most suspicious rows go first."""
        self._unproven = False

    def _open(self) -> None:
        self._is_open = True
        self._admit()

    def _leave(self) -> None:
        self.num_running -= 1
        self._admit()

    def _admit(self) -> None:
        while self._is_open and (level := self._next_level()) is not None:
            if self.num_running and (level != self._level or self.num_running >= self._width(level)):
                return
            turn = self._pop(level)
            if not turn.cancelled():
                self._level = level
                self.num_running += 1
                turn.set_result(None)

    def _pop(self, level: Suspicion) -> asyncio.Future[None]:
        waiting = self._waiting[level]
        if not self._goes_singly(level):
            return heappop(waiting)[-1]
        *_, turn = waiting.pop(secrets.randbelow(len(waiting)))
        heapify(waiting)
        return turn

    def _goes_singly(self, level: Suspicion) -> bool:
        return self._unproven and (level is not Suspicion.NONE or self._is_last_try)

    def _width(self, level: Suspicion) -> int:
        return 1 if self._goes_singly(level) else self._widths[level]

    def _next_level(self) -> Suspicion | None:
        order = Suspicion if self._unproven else reversed(Suspicion)
        return next((level for level in order if self._waiting[level]), None)
