"""SIGINT and SIGTERM: the first asks for an orderly end, the second for an immediate one.

Generating is not left half way: `Signals.deferred` lets what is under way land, for a time. Everywhere else the first
signal raises `Interrupted` where the program stands, which is safe because stages appear whole or not at all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import CAN_BE_RESUMED, Interrupted, PipelineError

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """The signals that this process has got. `listen` is entered in the main thread."""

    def __init__(self, grace_s: float) -> None:
        self.count = 0
        self.ended: PipelineError | None = None
        self._reason: PipelineError | None = None
        self._grace_s = grace_s
        self._deferring = False

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Take the signals over, and give them back at the end."""
        before = {number: signal.getsignal(number) for number in (*WATCHED, signal.SIGALRM)}
        self.take()
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def take(self) -> None:
        """Install the handlers again: Ray puts one of its own in place when it starts."""
        for number in WATCHED:
            signal.signal(number, self._heard)
        signal.signal(signal.SIGALRM, self._over)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only count the first signal in this block; the second, or the end of the grace, raises `Interrupted`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.count:  # heard, and all had landed by then
            self._over(signal.SIGALRM, None)

    def end_now(self, reason: PipelineError) -> None:
        """Raise the reason in the main thread. Called from another thread."""
        self._reason = reason
        os.kill(os.getpid(), signal.SIGALRM)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1 or not self._deferring or not self._grace_s:
            self._over(number, frame)
        signal.setitimer(signal.ITIMER_REAL, self._grace_s)

    def _over(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Once only: what ends now must not be interrupted in its turn.
        for each in (*WATCHED, signal.SIGALRM):
            signal.signal(each, signal.SIG_IGN)
        self.ended = self._reason or Interrupted(CAN_BE_RESUMED)
        raise self.ended
