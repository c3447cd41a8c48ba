"""Times the stages of a session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Timings:
    """Seconds that each stage of a session took; `end` adds the session's `total`."""

    seconds: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _stage: str = ""
    _stage_began: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block; a second block of the same name adds to the first."""
        self._stage, self._stage_began = name, time.monotonic()
        try:
            yield
        finally:
            self._end_stage()

    def switch(self, name: str) -> None:
        """Time the rest of the block as another stage."""
        self._end_stage()
        self._stage, self._stage_began = name, time.monotonic()

    def _end_stage(self) -> None:
        elapsed = time.monotonic() - self._stage_began
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + elapsed

    def end(self) -> None:
        """Record the time since this object was created as `total`."""
        self.seconds["total"] = time.monotonic() - self._began

    def rounded(self) -> dict[str, float]:
        """Return the seconds by stage, rounded to milliseconds."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}
