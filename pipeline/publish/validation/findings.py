"""What a check of an archive has to say: one line a finding, safe to print whatever it quotes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.terminal.text import BACKSLASHED, escape_control, listed, truncate

Level: TypeAlias = Literal["refused", "warning", "unchecked"]

NUM_SHOWN = 5
"""Ids of a finding that are shown, at most."""

_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `refused` when the server would refuse the archive for it, `warning` when it would not."""

    level: Level
    where: str
    what: str

    def __str__(self) -> str:
        """Return the line."""
        return f"{self.level}: {quoted(self.where)}: {self.what}"


def quoted(text: str) -> str:
    """Return a text of the archive on one line, truncated, with nothing in it that a terminal obeys."""
    return escape_control(truncate(text, _LONGEST), mark=BACKSLASHED)


def first_of(items: Sequence[object], num: int | None = None) -> str:
    """Return the first few of `num` items (by default all that are given), and how many more there are."""
    shown = [quoted(str(item)) for item in items[:NUM_SHOWN]]
    return listed(shown, len(items) if num is None else num)
