"""Decides whose fault a failed request is, the row's or everybody's, by what happens to other requests meanwhile.

In: each request's begin, and its answer or error. Out: whether the row is the cause; or the error that ends the run. A
failure is the row's when the engine answered another request since the failed one began. Until then it is held, not
written: when the run ends because all requests fail, no row is lost, and the same run_id generates them again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from pipeline.errors import PipelineError, RunError
from pipeline.generate.engines.base import RowError, ServerUnavailable
from pipeline.runs.failure_reasons import normalized

POLL_S = 0.1
IDLE_S = 5.0
"""Seconds without a request in flight after which no other request will show the cause."""
MAX_UNAVAILABLE = 3
"""Requests in a row without an answer after which the server is down."""


class FailureJudge:
    """Judges the failures of one replica. Used on one event loop.

    Args:
        limit: Failures for the same reason, with no answer meanwhile, that end the run; None: any number is accepted.
        is_ending: Returns whether the replica ends, so that nothing can be decided any more.
    """

    def __init__(self, limit: int | None, is_ending: Callable[[], bool]) -> None:
        self._limit, self._is_ending = limit, is_ending
        self._num_begun = self._num_answered = 0
        self._in_flight: set[int] = set()
        self._held: Counter[str] = Counter()
        self._first_held = 0
        self._fatal: PipelineError | None = None
        self._last_end = time.monotonic()

    def begin(self) -> tuple[int, int]:
        """Return a token for a request that begins now."""
        self._num_begun += 1
        self._in_flight.add(self._num_begun)
        return self._num_begun, self._num_answered

    def answered(self, token: tuple[int, int]) -> None:
        """Record that the request was answered: failures that are held are their rows' own."""
        self._end(token)
        self._num_answered += 1
        self._held.clear()

    def abandon(self, token: tuple[int, int]) -> None:
        """Record that the request ended in a way that proves nothing about others."""
        self._end(token)

    async def is_of_row(
        self, token: tuple[int, int], error: RowError, is_serving: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Return whether the row is the cause of its failure; False when the replica ends before that is known.

        Args:
            token: What `begin` returned.
            error: The failure.
            is_serving: Returns whether the engine would answer another request.

        Raises:
            PipelineError: No other request is answered either: the run ends.
        """
        self._end(token)
        _, num_answered = token
        if not self._held:
            self._first_held = self._num_begun
        reason = normalized(str(error))
        if self._num_answered == num_answered:
            self._held[reason] += 1
        while self._num_answered == num_answered:
            if self._is_ending():
                return False
            if self._fatal is None:
                await self._decide(reason, error, is_serving)
            if self._fatal is not None:
                raise self._fatal
            if self._is_idle:
                return True
            await asyncio.sleep(POLL_S)
        return True

    @property
    def _is_idle(self) -> bool:
        return not self._in_flight and time.monotonic() - self._last_end > IDLE_S

    async def _decide(self, reason: str, error: RowError, is_serving: Callable[[], Awaitable[bool]]) -> None:
        """Set the error that ends the run if all requests fail, once those that began before the first have ended."""
        if self._in_flight and min(self._in_flight) <= self._first_held:
            return
        is_down = isinstance(error, ServerUnavailable)
        limit = MAX_UNAVAILABLE if is_down else self._limit
        is_over = limit is not None and self._held[reason] >= limit
        if not is_over and is_down and self._is_idle:
            is_over = not await is_serving()
        if is_over:
            num = self._held[reason]
            what = f"{num:,} requests failed alike and none was answered: {error}" if num > 1 else str(error)
            self._fatal = RunError(f"{what}. Fix the cause and run the same run_id again")

    def _end(self, token: tuple[int, int]) -> None:
        self._in_flight.discard(token[0])
        self._last_end = time.monotonic()
