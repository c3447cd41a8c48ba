"""Text from outside as it is shown and quoted: what a terminal obeys is escaped, what is long is truncated.

In: text of data sets, models, servers and archives. Out: text that is safe to print. No layout, no console: every stage
may import this module.
"""

from __future__ import annotations

from collections.abc import Sequence

BRACKETS = "⟦⟧⟨⟩"
"""Marks of `NUMBERED` and of the preview of prompts; in a text they are escaped, so that it cannot imitate them."""

NUMBERED = "⟨U+{:04X}⟩"
"""The pipeline's own escape, for people."""
BACKSLASHED = "\\u{:04x}"
"""As JSON writes it, for quotations from JSON files."""
DOT = "·"
"""One column, for cells of a narrow table."""


def escape_control(text: str, keep: str = "", mark: str = NUMBERED) -> str:
    """Return a text without characters that a terminal obeys or that cannot be seen.

    These are control, format, private and unassigned characters, lone surrogates, and every space but " ".

    Args:
        text: Any text.
        keep: Characters that stay as they are, such as a line break.
        mark: What replaces a character: a format string of its code point.
    """
    reserved = BRACKETS if mark == NUMBERED else ""
    return "".join(
        each if each in keep or (each.isprintable() and each not in reserved) else mark.format(ord(each))
        for each in text
    )


def replace_surrogates(text: str | None) -> str | None:
    """Return a text that can be written as UTF-8; JSON and YAML may hold halves of surrogate pairs, UTF-8 cannot."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def truncate(text: str, most: int = 60, mark: str = "...") -> str:
    """Return at most `most` characters of a text; `mark` is among them and replaces the rest."""
    return text if len(text) <= most else text[: most - len(mark)] + mark


def one_line(text: str, most: int) -> str:
    """Return at most `most` characters of a text with every run of white space as one space."""
    return " ".join(text.split())[:most]


def listed(items: Sequence[object], num: int) -> str:
    """Return the first items of `num` on one line, such as "1, 2 and 65 more"."""
    rest = num - len(items)
    return ", ".join(map(str, items)) + (f" and {rest:,} more" if rest else "")


def counted(num: int, noun: str) -> str:
    """Return a number with its noun, such as "1 row" or "2,000 rows"."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"
