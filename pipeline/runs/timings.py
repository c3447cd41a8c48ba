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

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - began

    def end(self) -> None:
        """Record the time since this object was created as `total`."""
        self.seconds["total"] = time.monotonic() - self._began

    def rounded(self) -> dict[str, float]:
        """Return the seconds by stage, rounded to milliseconds."""
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}
