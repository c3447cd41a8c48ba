"""What the generate stage reports its progress to, and what interrupts it; the orchestrator passes both in."""

from __future__ import annotations

from typing import Protocol

from pipeline.errors import PipelineError


class Progress(Protocol):
    """Receives the stage's progress."""

    def begin(self, num_rows: int, num_left: int, order: str) -> None:
        """`num_left` of the stage's `num_rows` rows are still to be generated, in the order that `order` describes."""

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int) -> None:
        """`num_rows` rows have finished since the last call."""

    def report(self, line: str) -> None:
        """Something has happened that the user should see at once."""


class Interruptions(Protocol):
    """Counts the signals by which the user has asked to stop."""

    count: int

    def end_now(self, reason: PipelineError) -> None:
        """Raise the reason in the main thread, whatever it waits for."""
