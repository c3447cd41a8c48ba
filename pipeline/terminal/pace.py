"""How fast rows are generated and how long the rest takes.

In: the rows and tokens that have finished, and what the replicas report. Out: rates and the time that is left; None
where it is unknown. Nothing is printed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.records import ReplicaState


@dataclass(slots=True, kw_only=True)
class Pace:
    """Counts of a pass over `num_rows` rows, of which `num_left` were left at its begin.

    `expected_tokens` are the output tokens of these by a past run (None: unknown). `begun_at` is the time at which the
    first engine was ready: rates leave the start out.
    """

    num_rows: int
    num_left: int
    expected_tokens: float | None
    num_done: int = 0
    num_failed: int = 0
    num_tokens: int = 0
    expected_done: float | None = 0.0
    begun_at: float | None = None
    states: Sequence[ReplicaState] = field(default=())
    num_replicas: int | None = None

    @property
    def num_finished(self) -> int:
        """Rows that are finished, those of earlier sessions included."""
        return self.num_rows - self.num_left + self.num_done

    @property
    def percent(self) -> float:
        """Share of the rows that are finished, in percent."""
        return 100.0 * self.num_finished / self.num_rows

    @property
    def num_ready(self) -> int:
        """Replicas whose engine is up."""
        return sum(state.phase is None for state in self.states)

    def total(self, counter: Literal["num_running", "num_waiting", "num_preemptions"]) -> int | None:
        """Return the sum of a counter over the running engines; None if none of them reports it."""
        known = [value for state in self.states if (value := getattr(state, counter)) is not None]
        return sum(known) if known else None

    @property
    def kv_cache_usage(self) -> float | None:
        """The largest fraction of a KV cache in use; None if no engine reports it."""
        return max((state.kv_cache_usage for state in self.states if state.kv_cache_usage is not None), default=None)

    @property
    def num_generated(self) -> int:
        """Output tokens, as far as they are known those of rows in flight too."""
        return max(self.num_tokens, sum(state.num_output_tokens or 0 for state in self.states))

    def finish(self, num_rows: int, num_failed: int, num_tokens: int, expected_tokens: float | None) -> None:
        """Count finished rows, and the tokens that they were expected to have."""
        self.num_done += num_rows
        self.num_failed += num_failed
        self.num_tokens += num_tokens
        known = self.expected_done is not None and expected_tokens is not None
        self.expected_done = (self.expected_done or 0.0) + (expected_tokens or 0.0) if known else None

    def rate(self, now: float) -> float | None:
        """Return output tokens a second since the first engine was ready."""
        seconds = self._seconds(now)
        return self.num_generated / seconds if seconds else None

    def left_s(self, now: float) -> float | None:
        """Return the seconds that the remaining rows take at the pace so far.

        The pace is that of expected tokens where these are known, else that of rows. Tokens of rows in flight count, as
        a pass that begins with the longest rows finishes none of them for a long time.
        """
        seconds = self._seconds(now)
        if not seconds:
            return None
        total, done = float(self.num_left), float(self.num_done)
        if self.expected_tokens is not None and self.expected_done is not None:
            in_flight = self.num_generated - self.num_tokens
            if 0.0 < self.expected_done + in_flight < self.expected_tokens:  # rows may be longer than expected
                total, done = self.expected_tokens, self.expected_done + in_flight
        return seconds * (total - done) / done if done else None

    def _seconds(self, now: float) -> float | None:
        return now - self.begun_at if self.begun_at is not None else None
