"""Findings of an archive's validation: one line each, safe to print whatever it quotes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.terminal.text import BACKSLASHED, escape_control, listed, truncate

Level: TypeAlias = Literal["refused", "warning", "unchecked"]

NUM_LISTED = 5
"""Maximum number of ids to list in a finding."""

_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `refused` if the server would refuse the archive because of it, `warning` if not."""

    level: Level
    where: str
    what: str

    def __str__(self) -> str:
        """Return the line."""
        return f"{self.level}: {quoted(self.where)}: {self.what}"


def quoted(text: str) -> str:
    """Return a text from the archive on one line, truncated, with control characters escaped."""
    return escape_control(truncate(text, _LONGEST), mark=BACKSLASHED)


def first_of(items: Sequence[object], num: int | None = None) -> str:
    """Return the first few of `num` items (by default `len(items)`), and the number of the others."""
    first = [quoted(str(item)) for item in items[:NUM_LISTED]]
    return listed(first, len(items) if num is None else num)
