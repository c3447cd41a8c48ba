"""What a lint says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What will cost the user something: why, and what to do. Both begin and end like parts of one sentence."""

    name: str
    reason: str
    fix: str

    @property
    def line(self) -> str:
        """All of it on one line."""
        return f"{self.name}: {self.reason}. Mend: {self.fix}"


def some(names: Sequence[str], count: int, most: int = 5) -> str:
    """Return the first names on one line, and how many more there are."""
    more = count - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more} more" if more else "")
