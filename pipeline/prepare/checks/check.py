"""The result of a preflight check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A problem that a check found. `reason` and `fix` are sentence fragments, without a full stop."""

    name: str
    reason: str
    fix: str

    @property
    def line(self) -> str:
        """The name, reason and fix on one line."""
        return f"{self.name}: {self.reason}. Mend: {self.fix}"
