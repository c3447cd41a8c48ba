"""Finds the option letters in a text: each by itself, or several in a list (`A, C и D`).

Text and the question's option letters in, `LetterList`s in the order of the text out. Left out are letters that are
words (`В почве`), parts of names (`E. coli`, `витамин C`) or of formulas (`C = 5`). Each pattern matches a bounded
piece of the text, so time is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.score.letters.option_letters import CYRILLIC, OTHER_CYRILLIC, Letters, letters_of

NOUN = r"(?:вариант|букв|пункт|утвержден|option|choice|letter|statement)[а-яёa-z]{0,4}"
"""A word for an option, in any case and number."""
BEFORE, AFTER = 48, 60
"""Characters before and after a letter that are examined."""
_JUST_BEFORE = 24
"""Of these, those that can make the letter part of a name."""


@dataclass(slots=True)
class LetterList:
    """Letters with nothing but separators between them.

    `start` is where what belongs to them begins: a negation, a noun, brackets. `first` and `end` are the ends of the
    letters themselves. `is_clear` is False for what names no choice: `A или B`, `A — C`, `C: N`, `B?`, initials.
    """

    letters: Letters
    start: int
    first: int
    end: int
    is_clear: bool
    is_negated: bool
    has_noun: bool
    is_enclosed: bool


_UPPER = f"A-Z{CYRILLIC}{OTHER_CYRILLIC}"
_LETTER = re.compile(rf"(?<![\w°])(?<!\w[-'])(?:[{_UPPER}]{{1,8}}(?!\w|[-']\w)|[a-z](?=\)))")
_GAP = re.compile(
    r"[\")\]>]{0,3}(?: {0,3}[,/&+|] {0,3}(?:(?:(?:так )?и|and|а также|а ещ[её]|плюс|(или|либо|or)) {1,3})?"
    r"| {1,3}(?:и|and|а также|плюс|(или|либо|or)) {1,3}|(?<!\)) {1,3}(?!\()|\) {1,3}(?=\())"
    rf"(?:{NOUN} {{1,3}})?[\"(\[<]{{0,3}}",
    re.IGNORECASE,
)
"""What is between two letters of a list; a group matched if they are alternatives."""


def letter_lists(text: str, options: str) -> Iterator[LetterList]:
    """Yield the letters of the text, those of a list together."""
    current: LetterList | None = None
    name_end = -1
    for match in _LETTER.finditer(text):
        letters = letters_of(match[0], options)
        if letters is None:
            continue
        before = text[max(0, match.start() - _JUST_BEFORE) : match.start()]
        after = text[match.end() : match.end() + AFTER]
        gap = _GAP.fullmatch(text, current.end, match.start()) if current else None
        if _is_name(before, after, options) or (name_end >= 0 and _GAP.fullmatch(text, name_end, match.start())):
            name_end = match.end()  # of the last of several, as in `витамины A и D`
            if current and gap:  # `C/N = 25`
                current.is_clear = False
        elif not (gap and gap[0].strip()) and _is_word(match[0], before, after):
            continue
        elif current and gap:
            current.letters, current.end = current.letters | letters, match.end()
            current.is_clear = current.is_clear and not (gap[1] or gap[2] or _is_unclear(before, after))
        else:
            if current:
                yield current
            current = _begin(match, letters, text[max(0, match.start() - BEFORE) : match.start()], after)
    if current:
        yield current


_LEAD = re.compile(
    r"((?<!\w)(?:(?:не|ни|not|neither|nor|кроме|except) {1,3}|(?:не ?вер|неправ|ошибоч|incorrect|wrong)[а-яa-z]{0,6}"
    rf"(?: [а-яa-z]{{1,12}})? ?[:—]? {{1,3}}))?([\"(\[<]{{0,3}})((?<!\w){NOUN} {{1,3}})?([\"(\[<]{{0,3}})\Z"
)
"""In lower case, as the words that introduce an answer."""


def _begin(match: re.Match[str], letters: Letters, before: str, after: str) -> LetterList:
    lowered = before.lower()
    lead = _LEAD.search(lowered if len(lowered) == len(before) else before)
    assert lead is not None  # every part of it is optional
    negation, outer, noun, inner = lead.groups()
    return LetterList(
        letters=letters,
        start=match.start() - len(lead[0]),
        first=match.start(),
        end=match.end(),
        is_clear=not _is_unclear(before, after),
        is_negated=bool(negation),
        has_noun=bool(noun),
        is_enclosed="(" in outer + inner,
    )


# ---- letters that are no options

_NAMED_AFTER = re.compile(
    r"\. ?(?:[a-z]+(?:[aeiosrx]|um|ch)|Coli)(?![a-z])"  # `E. coli`; most English words end otherwise
    r"| ?[=≈×^%]|[+-](?=\s*(?:[,;.)]|$))"  # `C = 5`, `A+`
    r"| +(?!(?:is|are|was|and|or|because|since|as|only|not|but|than|seems|fits|correct|wrong|right|incorrect|true"
    r"|false)\b)[a-z]{2}"  # `A plant`
    r"| (?:клет|лимфоцит|реактивн|пептид|димер)"  # `C реактивный белок`
)
_NAMED_BEFORE = re.compile(
    r"(?:\d ?|[=×^] ?|(?<!\w)(?:витамин|гепатит|групп|крови|класс|тип|грипп|вирус|штамм|углерод|бор"
    r"|vitamin|hepatitis|type|class|group|influenza)\w{0,3} [\"(]?)\Z",
    re.IGNORECASE,
)
_ONE = rf"[{_UPPER}](?!\w)"
_RATIO = re.compile(rf" ?: ?({_ONE})")
_NOUN_LED = re.compile(rf"(?<!\w){NOUN} [\"(]?\Z", re.IGNORECASE)
_LED = re.compile(rf"(?<!\w)(?:{NOUN}|(?:ответ|answer)[а-яёa-z]{{0,3}})[^\w\n]{{0,5}}\Z", re.IGNORECASE)


def _is_name(before: str, after: str, options: str) -> bool:
    """Return whether a letter is part of a name, a quantity or a formula."""
    ratio = _RATIO.match(after)
    if ratio and not (letters_of(ratio[1], options) or frozenset()) <= set(options):  # `C:N`
        return True
    return _NAMED_AFTER.match(after) is not None or (
        _NAMED_BEFORE.search(before) is not None and not _LED.search(before)
    )


_AND_LETTER = re.compile(rf"(?: +(?i:и|или|либо|and|or) +(?i:{NOUN} )?|, *(?i:и |а также |а ещ[её] )?)[\"(\[<]*{_ONE}")
_REASON_OR_VERDICT = re.compile(
    r" +(?:потому|так как|поскольку|ибо|(?:не ?)?(?:верн|верен|правильн|подход|явля)|исключ|ошиб)"
)
_WORD = re.compile(r" +\"?(?:[а-яёa-z]|[А-ЯЁ][а-яёА-ЯЁ])")
_CLAUSE_START = re.compile(r"(?:^|[.!?,\n])\s*\Z")


def _is_word(letter: str, before: str, after: str) -> bool:
    """Return whether a letter is a Russian word, as А, В and С are before other words."""
    if letter not in CYRILLIC or _AND_LETTER.match(after) or _NOUN_LED.search(before):
        return False
    is_led = _LED.search(before) is not None
    if after.startswith(",") and letter == "А" and not is_led:  # the conjunction, as in `А, может быть`
        return _CLAUSE_START.search(before) is not None
    return _WORD.match(after) is not None and not (is_led and _REASON_OR_VERDICT.match(after))


# ---- letters that name no choice

_UNCLEAR_AFTER = re.compile(
    rf"[\")]?\?| (?:тоже|также)\s*(?:$|[.!])|\. ?[A-ZА-ЯЁ]\. ?(?:[A-ZА-ЯЁ][а-яёa-z]|[а-яё]{{2}})| ?: ?{_ONE}"
    rf"| ?(?:—|\.\.+|-) ?{_ONE}(?=\s*(?:$|[,;)]|\.(?! ?[a-z])))"
)
"""`B?`, `В. И. Вернадский`, `C: N`, `A — C`."""
_UNCLEAR_BEFORE = re.compile(rf"(?<!\w){_ONE} ?(:|—|\.\.+|-|\.) ?\Z")
_SURNAME = re.compile(r"\. ?[A-ZА-ЯЁ][а-яёa-z]")
_END = re.compile(r"\s*(?:$|[.,;)])")


def _is_unclear(before: str, after: str) -> bool:
    if _UNCLEAR_AFTER.match(after):
        return True
    found = _UNCLEAR_BEFORE.search(before)
    if found is None or found[1] == ":":
        return found is not None
    return (_SURNAME if found[1] == "." else _END).match(after) is not None
