"""Limits of an endpoint: requests and tokens per minute, spread evenly over the minute.

In: the limits. Out: `RateLimit`, which delays a request until both limits let it start. An endpoint has one client,
which sends the requests of the whole run, so its limits are those of the run. What a request will take is not known
when it starts: it is assumed to take the mean of the finished ones, and corrected by what the server counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

MINUTE_S = 60.0


class RateLimit:
    """Starts requests in the order of the calls, no faster than the limits. Used on one event loop."""

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        first_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make limits, of which None is no limit; `first_tokens` is what a request is assumed to take at first."""
        self._request_s = MINUTE_S / requests_per_minute if requests_per_minute else 0.0
        self._token_s = MINUTE_S / tokens_per_minute if tokens_per_minute else 0.0
        self._clock, self._first_tokens = clock, first_tokens
        self._next_request = self._next_tokens = 0.0
        self._num_known = self._num_tokens = 0
        self._turn, self._corrected = asyncio.Lock(), asyncio.Event()

    async def start(self) -> int:
        """Wait until a request may start; return the tokens that it is assumed to take, for `finish`."""
        if not (self._request_s or self._token_s):
            return 0
        async with self._turn:
            while (wait_s := max(self._next_request, self._next_tokens) - self._clock()) > 0:
                self._corrected.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._corrected.wait(), wait_s)
            now, assumed = self._clock(), self._assumed
            self._next_request = now + self._request_s
            self._next_tokens = max(now, self._next_tokens) + assumed * self._token_s
            return assumed

    def finish(self, assumed: int, num_tokens: int | None) -> None:
        """Correct what was assumed by the tokens that the server counted; None, or no answer, leaves it as it is."""
        if num_tokens is None or not self._token_s:
            return
        self._num_known, self._num_tokens = self._num_known + 1, self._num_tokens + num_tokens
        self._next_tokens += (num_tokens - assumed) * self._token_s
        self._corrected.set()

    @property
    def _assumed(self) -> int:
        return round(self._num_tokens / self._num_known) if self._num_known else self._first_tokens
