"""Finds what a response states about an option: `верно`, `не подходит`, `✓`.

The text after an option in, True, False or None out. Only words about an answer count: `не относится к злакам` may be
what the question is about. Time is linear in the length of the text.
"""

from __future__ import annotations

import re

_STOP = r"(?=\s*(?:$|[.,;:!?)(—\n]| - )| (?:потому|так как|поскольку|because|since)(?!\w))"
_THING = r"(?: (?:ответ|вариант|утвержден|выбор|option|answer|choice|statement)[а-яa-z]{0,4}(?!\w)|" + _STOP + ")"
_NO = "|".join(
    [
        rf"(?:нет|ложь|ложно|не ?верно|не ?правильно|не ?(?:верен|верна|верны)|не ?прав[аы]?|no|false|✗){_STOP}",
        rf"(?:не ?верн|не ?правильн|ошибочн|incorrect|wrong|not correct|not right)\w{{0,3}}{_THING}",
        r"не (?:подход|является (?:верн|правильн))\w{0,4}(?!\w)",
        r"(?:исключ|отпада|отбрасыва|отверга)\w{1,6}(?!\w)",
    ]
)
_YES = "|".join(
    [
        rf"(?:да|верно|правильно|истина|истинно|верен|верна|верны|yes|true|✓){_STOP}",
        rf"(?:верн|правильн|correct|right)\w{{0,3}}{_THING}",
        r"подход[ия]\w{1,3}(?!\w)",
    ]
)
_FILLERS = (
    r"(?:(?:это|тоже|также|все|оба|можно|нужно|следует|сразу|точно|явно|здесь|явля[ею]тся|оказал[аои]сь"
    r"|is|are|was|an?|the) ){0,3}"
)
_VERDICT = re.compile(
    rf"(?:^|[—:,(|]| - |(?P<sentence>\.))[ \"]*{_FILLERS}(?:(?P<no>{_NO})|(?P<yes>{_YES}))", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"\s*(?:$|[.!\n])")
_UNIT_END = re.compile(r"[\n;]")


def find_verdict(text: str, start: int, end: int) -> tuple[bool | None, bool]:
    """Return what a text states about an option, None if nothing or both, and whether the verdict is its first one.

    Args:
        text: The whole text.
        start: Where the option ends, with its mark.
        end: Where the next option begins; a line or a semicolon may end before.
    """
    stop = _UNIT_END.search(text, start, end)
    unit = text[start : stop.start() if stop else end]
    found: set[bool] = set()
    is_first = False
    for match in _VERDICT.finditer(unit):
        if match["sentence"] and not _SENTENCE_END.match(unit, match.end()):
            continue  # of a further sentence only one that is nothing else counts
        found.add(match["yes"] is not None)
        is_first = is_first or not unit[: match.start("yes" if match["yes"] else "no")].strip(' "')
    return (found.pop(), is_first) if len(found) == 1 else (None, False)
