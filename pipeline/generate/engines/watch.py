"""A watch over an engine that may die without a word to those who wait for it.

vLLM 0.32 tells a death to the requests whose answers its client already listens for. The client listens from the first
request on, and one that comes while the engine dies waits for ever (v1/engine/core_client.py, `monitor_engine_cores`:
no callback, a flag that later requests look at). So somebody looks at the flag from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WATCH_S = 5.0
"""Seconds between two looks at the engine; a death that vLLM tells is heard at once."""


class Watch:
    """Interrupts the tasks that wait for an engine when `has_crashed` says that it is gone. Used on one event loop."""

    def __init__(self, has_crashed: Callable[[], bool]) -> None:
        self._has_crashed = has_crashed
        self._waiting: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def over_this_task(self) -> Iterator[None]:
        """Cancel the task that enters, should the engine die before it leaves."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._look)
        try:
            yield
        finally:
            self._waiting.discard(task)

    def _look(self) -> None:
        if not self._waiting:
            self._timer = None  # the next request winds it up again
            return
        # Before the look, and also after a death: a task may catch its interruption and wait for something else.
        self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._look)
        if self._has_crashed():
            for task in self._waiting:
                task.cancel()
