"""Makes untrusted text safe to print: escapes control characters and truncates long text.

In: text of data sets, models, servers and archives. Out: text that is safe to print. The module has no layout and no
console, so every stage may import it.
"""

from __future__ import annotations

from collections.abc import Sequence

BRACKETS = "⟦⟧⟨⟩"
"""Brackets that `NUMBERED` and the preview of prompts use; they are escaped in text, so that it cannot imitate them."""

NUMBERED = "⟨U+{:04X}⟩"
"""The pipeline's own escape, for people."""
BACKSLASHED = "\\u{:04x}"
"""JSON's escape, for quotations from JSON files."""
DOT = "·"
"""One column wide, for cells of a narrow table."""


def escape_control(text: str, keep: str = "", mark: str = NUMBERED) -> str:
    """Replace the characters of a text that control a terminal or are invisible.

    These are control, format, private and unassigned characters, lone surrogates, and every space but " ".

    Args:
        text: Any text.
        keep: Characters that are not replaced, such as a line break.
        mark: The replacement: a format string that takes the code point.
    """
    reserved = BRACKETS if mark == NUMBERED else ""
    return "".join(
        each if each in keep or (each.isprintable() and each not in reserved) else mark.format(ord(each))
        for each in text
    )


def replace_surrogates(text: str | None) -> str | None:
    """Replace lone surrogates, which JSON and YAML can hold and UTF-8 cannot."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def truncate(text: str, most: int = 60, mark: str = "...") -> str:
    """Return at most `most` characters of a text, including `mark`, which replaces the rest."""
    return text if len(text) <= most else text[: most - len(mark)] + mark


def one_line(text: str, most: int) -> str:
    """Collapse each run of white space to one space and return at most `most` characters."""
    return " ".join(text.split())[:most]


def listed(items: Sequence[object], num: int) -> str:
    """Return `items`, the first of `num`, on one line, such as "1, 2 and 65 more"."""
    rest = num - len(items)
    return ", ".join(map(str, items)) + (f" and {rest:,} more" if rest else "")


def counted(num: int, noun: str) -> str:
    """Return a number with its noun, such as "1 row" or "2,000 rows"."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"
