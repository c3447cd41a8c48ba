"""Admission to the engine: as many rows at once as it has slots, and suspicious rows apart from the others.

A row that was in flight when the process crashed runs at a narrower isolation level: first in a group of at most
`GROUP_WIDTH`, then in isolation. So the row that crashes the engine is found with few crashes and takes no innocent row
along. The most suspicious rows go first, and rows of two levels never run together. Blocks overtake each other on their
way to the replica: of the waiting rows of a level, the one that comes first in the work list goes first.

A row of the second part of a session's rows (part.py) starts when none of the first runs or waits here, so that the
rows of a run share the engine with each other alone.

Where an engine crashed before it had finished a row, perhaps no row can be finished. Then the least suspicious go
first, and suspicious ones singly, until one is finished: rows that were not in flight at the crash show whether the
engine works. At the last try the others go singly too. A row that goes singly is drawn at random, since the first rows
of the work list may be the poison rows, and a resumed run should not try the same ones again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from itertools import count

from pipeline.generate.attempt_log import Suspicion

GROUP_WIDTH = 8

GATHER_S = 1.0
"""Seconds in which Ray brings the rows of a crashed process to the next one, from the first to the last.

The second part waits as long, from its first row on: its block may have overtaken one of the first part.
"""


Lane = tuple[int, Suspicion]
"""A part and an isolation level: rows of two groups never run together."""


class AdmissionQueue:
    """The slots of one engine. Used on one event loop; a group is in the order of the work list."""

    def __init__(self, slots: int, *, unproven: bool = False, is_last_try: bool = False) -> None:
        self._unproven, self._is_last_try = unproven, is_last_try
        self._widths = {Suspicion.NONE: slots, Suspicion.GROUPED: min(GROUP_WIDTH, slots), Suspicion.ISOLATED: 1}
        self._waiting: defaultdict[Lane, list[tuple[int, int, asyncio.Future[None]]]] = defaultdict(list)
        self._arrivals = count()
        self._lane: Lane = (0, Suspicion.NONE)
        self._open_parts: set[int] = set() if unproven else {0}
        self._opening_parts = set(self._open_parts)
        self.num_running = 0

    @asynccontextmanager
    async def slot(self, level: Suspicion, place: int, part: int = 0) -> AsyncIterator[None]:
        """Wait for a slot at the isolation level and hold it; the lowest place goes first, then the first to arrive."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting[part, level], (place, next(self._arrivals), turn))
        if part not in self._opening_parts:
            self._opening_parts.add(part)
            asyncio.get_running_loop().call_later(GATHER_S, self._open, part)
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

    def _open(self, part: int) -> None:
        self._open_parts.add(part)
        self._admit()

    def _leave(self) -> None:
        self.num_running -= 1
        self._admit()

    def _admit(self) -> None:
        while (lane := self._next_lane()) is not None:
            if self.num_running and (lane != self._lane or self.num_running >= self._width(lane)):
                return
            turn = self._pop(lane)
            if not turn.cancelled():
                self._lane = lane
                self.num_running += 1
                turn.set_result(None)

    def _next_lane(self) -> Lane | None:
        lanes = [lane for lane, waiting in self._waiting.items() if waiting and lane[0] in self._open_parts]
        sign = 1 if self._unproven else -1
        return min(lanes, key=lambda lane: (lane[0], sign * lane[1]), default=None)

    def _pop(self, lane: Lane) -> asyncio.Future[None]:
        waiting = self._waiting[lane]
        if not self._goes_singly(lane):
            return heappop(waiting)[-1]
        *_, turn = waiting.pop(secrets.randbelow(len(waiting)))
        heapify(waiting)
        return turn

    def _goes_singly(self, lane: Lane) -> bool:
        return self._unproven and (lane[1] is not Suspicion.NONE or self._is_last_try)

    def _width(self, lane: Lane) -> int:
        return 1 if self._goes_singly(lane) else self._widths[lane[1]]
