"""What a lint says."""

from __future__ import annotations

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
