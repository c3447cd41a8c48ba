"""The result of a preflight check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A problem that a check found. `reason` and `fix` are sentence fragments, without a full stop.

    A problem with which the engine is certain not to start `ends_run`; any other is a warning.
    """

    name: str
    reason: str
    fix: str
    ends_run: bool = False

    @property
    def line(self) -> str:
        """The name, reason and fix on one line."""
        return f"{self.name}: {self.reason}. Fix: {self.fix}"
