"""SIGINT and SIGTERM: the first requests an orderly shutdown, the second an immediate one.

While the generate stage runs, `Signals.deferred` lets the requests in flight finish within a grace period. Everywhere
else the first signal raises `Interrupted` at once, which is safe because artifacts are published atomically.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import CAN_BE_RESUMED, Interrupted, PipelineError

WATCHED = (signal.SIGINT, signal.SIGTERM)

SAME_S = 0.5
"""Seconds within which a further signal repeats the first one: a terminal and Ray's `job stop` signal a process and its
parent, and the parent passes the signal on."""


class Signals:
    """The signals that this process has received. Enter `listen` in the main thread.

    `grace_s` is the longest wait, in seconds, for the requests in flight after the first signal.
    """

    def __init__(self, grace_s: float) -> None:
        self.count = 0
        self.ended: PipelineError | None = None
        self._reason: PipelineError | None = None
        self._grace_s = grace_s
        self._deferring = False
        self._first_at = 0.0

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Install the handlers for the duration of the block and restore the previous ones afterwards."""
        before = {number: signal.getsignal(number) for number in (*WATCHED, signal.SIGALRM)}
        self.take()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self) -> None:
        """Install the handlers. Called again after Ray starts, because Ray installs one of its own."""
        for number in WATCHED:
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, self._shut_down)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only count the first signal in this block; the second, or the end of the grace period, raises `Interrupted`.

        If a signal was counted and the block ended in time, `Interrupted` is raised at its end.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.count:  # a signal arrived, and all requests in flight finished within the grace period
            self._shut_down(signal.SIGALRM, None)

    def end_now(self, reason: PipelineError) -> None:
        """Raise `reason` in the main thread. Called from another thread."""
        self._reason = reason
        os.kill(os.getpid(), signal.SIGALRM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.count == 1 and now - self._first_at < SAME_S:
            return
        self._first_at = self._first_at or now
        self.count += 1
        if self.count > 1 or not self._deferring or not self._grace_s:
            self._shut_down(number, frame)
        signal.setitimer(signal.ITIMER_REAL, self._grace_s)

    def _shut_down(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Raise only once: the shutdown itself must not be interrupted.
        for each in (*WATCHED, signal.SIGALRM):
            signal.signal(each, signal.SIG_IGN)
        self.ended = self._reason or Interrupted(CAN_BE_RESUMED)
        raise self.ended
