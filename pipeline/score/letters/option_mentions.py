"""Finds where a response mentions options, and the position of each mention in its sentence.

Plain text (`pipeline/score/letters/plain_text.py`) and the question's option letters in, `Mention`s in the order of the
text out. Time is linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from pipeline.score.letters.option_letters import Letters
from pipeline.score.letters.option_lists import BEFORE, LetterList, letter_lists
from pipeline.score.letters.plain_text import PlainText, Span
from pipeline.score.letters.verdicts import find_verdict


class Place(Enum):
    """The place of a mention: at the beginning of a line or sentence, after `,` or `и`, or elsewhere in a sentence."""

    LINE = "line"
    SENTENCE = "sentence"
    LIST = "list"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """One option, or several in a list: `B`, `(B)`, `вариант B`, `A, C и D`.

    `letters`, `start`, `first`, `end`, `has_noun` and `is_clear` are those of `LetterList`; `end` is after the brackets
    of `(B)`. `mark` is what follows: `)`, `.`, `:`, `—`, `(`, a space before a word, or nothing. `verdict` is what the
    text states about it (`A — верно`, `не A`), None if nothing; if it `is_quotable`, it is the only one and may as well
    be the text of the option (`A) Нет`). `is_known`: the question offers all its letters.
    """

    letters: Letters
    start: int
    first: int
    end: int
    line: int
    place: Place
    mark: str
    has_noun: bool
    verdict: bool | None
    is_quotable: bool
    is_clear: bool
    is_known: bool
    is_bold: bool


_BOLD_LEAD = 4
"""Characters that bold text may begin with before an option, such as `1. `."""


def mentions(plain: PlainText, options: str) -> list[Mention]:
    """Return the mentions of options in a text, in order."""
    lists = list(letter_lists(plain.text, options))
    ends = [following.start for following in lists[1:]] + [len(plain.text)]
    span_around = _around(plain.bold)
    made: list[Mention] = []
    line = position = 0
    for found, end in zip(lists, ends, strict=False):
        line, position = line + plain.text.count("\n", position, found.first), found.first
        is_known = found.letters <= set(options)
        made.append(_mention(plain.text, found, end, line, span_around(found.first), is_known=is_known))
    if sum(mention.is_quotable for mention in made) > 1:
        made = [replace(mention, is_quotable=False) for mention in made]
    return made


def _around(spans: tuple[Span, ...]) -> Callable[[int], Span | None]:
    """Return a function from ascending positions to the span that each is within, or None."""
    rest = list(reversed(spans))

    def around(position: int) -> Span | None:
        while rest and rest[-1][1] <= position:
            rest.pop()
        return rest[-1] if rest and rest[-1][0] <= position else None

    return around


_REASON = r"(?:потому|так как|поскольку|ибо|because|since)"
_MARK = re.compile(
    rf"[\"\]>]{{0,3}}(?: ?(—)| (-) | (?=[А-ЯЁ][а-яё])| ?(\()(?! ?\))|(\))|(:)(?=\s*\S)|(\.)(?= *[^\s.])"
    rf"|( )(?=[\w\"])(?! *{_REASON}))"
)
"""What follows an option. A word with a capital after it begins the option's text, as after a full stop."""


def _mention(text: str, found: LetterList, unit_end: int, line: int, bold: Span | None, *, is_known: bool) -> Mention:
    end = found.end
    while found.is_enclosed and text[end : end + 1] in (")", "]", '"'):
        end += 1
    mark = _MARK.match(text, end)
    sign = (next(filter(None, mark.groups()), ".") if mark else "").replace("-", "—")
    verdict, is_first = find_verdict(text, mark.end() if mark and sign != "(" else end, unit_end)
    place, sign_before = _place(text[max(0, found.start - BEFORE) : found.start], is_start=found.start <= BEFORE)
    if sign_before or found.is_negated:
        verdict = sign_before == "✓" and not found.is_negated
    is_bold = bold is not None and found.start - bold[0] <= _BOLD_LEAD
    if bold and sign == " " and bold[1] > end + 1:  # a sentence in bold
        is_bold = False
    return Mention(
        letters=found.letters,
        start=found.start,
        first=found.first,
        end=end,
        line=line,
        place=place,
        mark=")" if sign == " " and found.is_enclosed else sign,
        has_noun=found.has_noun,
        verdict=verdict,
        is_quotable=is_first and sign in (")", ".") and not (sign_before or found.is_negated),
        is_clear=found.is_clear,
        is_known=is_known,
        is_bold=is_bold,
    )


_LINE_LEAD = re.compile(
    r"[ \"(\[<]*(?:[•—-] *)?(?:\(?\d{1,2} ?(?:[.):]|—) +)?(?:• *)?(?P<sign>[✓✗])? *[\"(\[<]*"
    r"(?:(?:только|лишь|именно|как|и|only|both|just) )?[\"(\[<]*",
    re.IGNORECASE,
)
"""What a line may begin with before an option: a bullet, a number, a check mark."""
_SENTENCE_LEAD = re.compile(r"[.!?…][\")]? +[\"(\[<]*\Z")
_LIST_LEAD = re.compile(
    r"(?:[,;/&+] *(?:(?:и|а|но|and|but|так и|а также|а ещ[её]|плюс) )?| (?:и|and|а также|плюс) )[\"(\[<]*\Z",
    re.IGNORECASE,
)


def _place(before: str, *, is_start: bool) -> tuple[Place, str | None]:
    """Return the position of a mention, and the check mark before it on its line if there is one.

    Args:
        before: The text before it.
        is_start: `before` is all of it.
    """
    lines = before.rsplit("\n", 1)
    lead = _LINE_LEAD.fullmatch(lines[-1]) if is_start or len(lines) > 1 else None
    if lead:
        return Place.LINE, lead["sign"]
    if _SENTENCE_LEAD.search(before):
        return Place.SENTENCE, None
    return (Place.LIST if _LIST_LEAD.search(before) else Place.TEXT), None
