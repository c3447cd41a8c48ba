"""What the generate stage reports its progress to, and what interrupts it; the orchestrator passes both in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.records import ReplicaEvent, ReplicaState


class Progress(Protocol):
    """Receives the stage's progress."""

    def begin(self, num_rows: int, num_left: int, order: str, expected_tokens: float | None) -> None:
        """`num_left` of the stage's `num_rows` rows are still to be generated, in the order that `order` describes.

        `expected_tokens` is the number of their output tokens by a past run; None is unknown.
        """

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int, expected_tokens: float | None) -> None:
        """`num_rows` rows have finished since the last call; a past run lets expect `expected_tokens` of them."""

    def update(self, states: Sequence[ReplicaState], num_replicas: int) -> None:
        """What the replicas are doing now; of the `num_replicas` some may not have reported anything yet."""

    def report(self, event: ReplicaEvent) -> None:
        """Something has happened that the user should see at once."""

    def stop(self) -> None:
        """The user has requested a stop: no row starts any more."""


class Interruptions(Protocol):
    """Counts the signals by which the user has requested a stop."""

    count: int

    def end_now(self, reason: PipelineError) -> None:
        """Raise the reason in the main thread, whatever it waits for."""
