"""What a check of an archive has to say: one line a finding, safe to print whatever it quotes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
        return f"{self.level}: {escape_control(self.where)}: {self.what}"


def escape_control(text: str) -> str:
    """Return a text from outside on one line, cut, with nothing in it that a terminal obeys."""
    cut = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in cut)


def listed(items: Sequence[object], num: int | None = None) -> str:
    """Return the first few of `num` items (by default all that are given), and how many more there are."""
    num = len(items) if num is None else num
    rest = f" and {num - NUM_SHOWN:,} more" if num > NUM_SHOWN else ""
    return ", ".join(escape_control(str(item)) for item in items[:NUM_SHOWN]) + rest


def counted(num: int, noun: str) -> str:
    """Return a number with its noun, such as "1 row" or "2,000 rows"."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"
