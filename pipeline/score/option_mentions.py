"""Finds where a response mentions options, and how each mention stands in its sentence.

Plain text (`pipeline/score/plain_text.py`) and the question's option letters in, the `Mention`s in the order of the text
out. Letters that are words (`В почве`), parts of names (`E. coli`, `витамин C`) or of formulas (`C = 5`) are no mentions.
Each pattern looks at a bounded piece of the text, so time is linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from pipeline.score.option_letters import CYRILLIC, OTHER_CYRILLIC, Letters, letters_of
from pipeline.score.plain_text import PlainText, Span


class Place(Enum):
    """Where a mention stands: at the beginning of a line or sentence, after `,` or `и`, or elsewhere in a sentence."""

    LINE = "line"
    SENTENCE = "sentence"
    LIST = "list"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Mention:
    """One option, or several in a list: `B`, `(B)`, `вариант B`, `A, C и D`.

    `start` is where its negation, noun or brackets begin, `first` and `end` are the ends of its letters. `mark` is what
    follows: `)`, `.`, `:`, `—`, `(`, a space before a word, or nothing. `verdict` is what the text says of it
    (`A — верно`, `не A`), None if nothing; if it `is_quotable`, it is the only one and may as well be the text of
    the option, as in `A) Нет`. `is_clear` is False for what names no choice: `A или B`, `A — C`, `C: N`, initials.
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
    is_bold: bool


def mentions(plain: PlainText, options: str) -> list[Mention]:
    """Return the mentions of options in a text, in order."""
    lists = list(_lists(plain.text, options))
    ends = [following.start for following in lists[1:]] + [len(plain.text)]
    start_of = _starts(plain.bold)
    made: list[Mention] = []
    line = position = 0
    for found, end in zip(lists, ends, strict=False):
        line, position = line + plain.text.count("\n", position, found.first), found.first
        bold = start_of(found.first)
        made.append(_mention(plain.text, found, end, line, bold is not None and found.start - bold <= _LEAD_LENGTH))
    if sum(mention.is_quotable for mention in made) > 1:
        made = [replace(mention, is_quotable=False) for mention in made]
    return made


# ---- letters

_UPPER = f"A-Z{CYRILLIC}{OTHER_CYRILLIC}"
_LETTER = re.compile(rf"(?<![\w°'])(?<!\w-)(?:[{_UPPER}]{{1,8}}(?![\w'])(?!-\w)|[a-z](?=\)))")
_ONE = rf"[{_UPPER}](?!\w)"
_LEAD_LENGTH = 4
"""Characters that bold text may begin with before an option, such as `1. `."""
_BEFORE, _AFTER = 60, 60
"""Characters before and after a letter that are looked at."""

_NOUN = r"(?:вариант|букв|пункт|утвержден|option|choice|letter|statement)[а-яёa-z]{0,4}"
_NOUN_LED = re.compile(rf"(?<!\w){_NOUN} [\"(]?\Z", re.IGNORECASE)
_LED = re.compile(rf"(?<!\w)(?:{_NOUN}|(?:ответ|answer)[а-яёa-z]{{0,3}})[^\w\n]{{0,5}}\Z", re.IGNORECASE)

_VERBS = r"(?:is|are|was|and|or|because|since|as|only|not|but|than|seems|fits|correct|wrong|right|incorrect|true|false)"
_NAME_AFTER = re.compile(
    rf"\. ?[a-z]+(?:[aeiosrx]|um|ch)(?![a-z])| ?[=≈×^%]|[+-](?=\s*(?:[,;.)]|$))| +(?!{_VERBS}\b)[a-z]{{2}}| (?:клет|лимфоцит|реактивн|пептид|димер)"
)
"""`E. coli` (most English words end otherwise), `C = 5`, `A+`, `A plant`, `C реактивный белок`."""
_NAME_BEFORE = re.compile(
    r"(?:\d ?|[=×^] ?|(?<!\w)(?:витамин|гепатит|групп|крови|класс|тип|грипп|вирус|штамм|углерод|бор"
    r"|vitamin|hepatitis|type|class|group|influenza)\w{0,3} [\"(]?)\Z",
    re.IGNORECASE,
)
_AND_LETTER = re.compile(rf"(?: +(?i:и|или|либо|and|or) +(?i:{_NOUN} )?|, *(?i:и |а также |а ещ[её] )?)[\"(\[<]*{_ONE}")
_REASON_OR_VERDICT = re.compile(
    r" +(?:потому|так как|поскольку|ибо|(?:не ?)?(?:верн|верен|правильн|подход|явля)|исключ|ошиб)"
)
_WORD = re.compile(r" +\"?(?:[а-яёa-z]|[А-ЯЁ][а-яёА-ЯЁ])")

_UNCLEAR_AFTER = re.compile(
    rf"[\")]?\?|\. ?[A-ZА-ЯЁ]\. ?(?:[A-ZА-ЯЁ][а-яёa-z]|[а-яё]{{2}})| ?: ?{_ONE}"
    rf"| ?(?:—|\.\.+|-) ?{_ONE}(?=\s*(?:$|[,;)]|\.(?! ?[a-z])))"
)
"""`B?`, `В. И. Вернадский`, `C: N`, `A — C`."""
_UNCLEAR_BEFORE = re.compile(rf"(?<!\w){_ONE} ?(:|—|\.\.+|-|\.) ?\Z")


def _is_name(before: str, after: str) -> bool:
    return _NAME_AFTER.match(after) is not None or (_NAME_BEFORE.search(before) is not None and not _LED.search(before))


def _is_word(token: str, before: str, after: str) -> bool:
    """Return whether a letter is a Russian word; a capital in the middle of a list of letters never is."""
    if token not in CYRILLIC or _AND_LETTER.match(after) or _NOUN_LED.search(before):
        return False
    is_led = _LED.search(before) is not None
    if token == "А" and after.startswith(",") and not is_led:  # the conjunction, as in `А, может быть`
        return re.search(r"(?:^|[.!?,\n])\s*\Z", before) is not None
    return _WORD.match(after) is not None and not (is_led and _REASON_OR_VERDICT.match(after))


def _is_unclear(before: str, after: str) -> bool:
    if _UNCLEAR_AFTER.match(after):
        return True
    found = _UNCLEAR_BEFORE.search(before)
    if found is None or found[1] == ":":
        return found is not None
    return re.match(r"\. ?[A-ZА-ЯЁ][а-яёa-z]" if found[1] == "." else r"\s*(?:$|[.,;)])", after) is not None


# ---- lists of letters


@dataclass(slots=True)
class _List:
    """Letters with nothing but separators between them."""

    letters: Letters
    start: int
    first: int
    end: int
    is_clear: bool
    is_negated: bool
    has_noun: bool
    is_enclosed: bool


_GAP = re.compile(
    r"[\")\]>]{0,3}(?: {0,3}[,/&+|] {0,3}(?:(?:и|and|а также|а ещ[её]|плюс|(или|либо|or)) {1,3})?"
    r"| {1,3}(?:и|and|а также|плюс|(или|либо|or)) {1,3}|(?<!\)) {1,3}(?!\()|\) {1,3}(?=\())"
    rf"(?:{_NOUN} {{1,3}})?[\"(\[<]{{0,3}}",
    re.IGNORECASE,
)
"""Between two letters of a list; a group matched if it is an alternative."""
_LEAD = re.compile(
    r"((?<!\w)(?:(?:не|ни|not|neither|nor|кроме|except) {1,3}|(?:не ?вер|неправ|ошибоч|incorrect|wrong)[а-яa-z]{0,6}"
    rf"(?: [а-яa-z]{{1,12}})? ?[:—]? {{1,3}}))?([\"(\[<]{{0,3}})((?<!\w){_NOUN} {{1,3}})?([\"(\[<]{{0,3}})\Z",
    re.IGNORECASE,
)
"""Before the first letter of a list: a negation, a noun, brackets."""


def _lists(text: str, options: str) -> Iterator[_List]:
    current: _List | None = None
    name_end = -1
    for match in _LETTER.finditer(text):
        before = text[max(0, match.start() - _BEFORE) : match.start()]
        after = text[match.end() : match.end() + _AFTER]
        letters = letters_of(match[0], options)
        if letters is None:
            continue
        gap = _GAP.fullmatch(text, current.end, match.start()) if current else None
        if _is_name(before, after) or (0 <= name_end < match.start() and _GAP.fullmatch(text, name_end, match.start())):
            name_end = match.end()  # of the last of several, as in `витамины A и D`
            if current and gap:  # `C/N = 25`
                current.is_clear = False
            continue
        if not (gap and gap[0].strip()) and _is_word(match[0], before, after):
            continue
        is_clear = not _is_unclear(before, after)
        if current and gap:
            current.letters, current.end = current.letters | letters, match.end()
            current.is_clear = current.is_clear and is_clear and not (gap[1] or gap[2])
            continue
        if current:
            yield current
        current = _new_list(match, letters, before, is_clear=is_clear)
    if current:
        yield current


def _new_list(match: re.Match[str], letters: Letters, before: str, *, is_clear: bool) -> _List:
    lead = _LEAD.search(before)
    assert lead is not None  # every part of it is optional
    negation, outer, noun, inner = lead.groups()
    start = match.start() - len(lead[0])
    is_enclosed = "(" in outer + inner
    return _List(letters, start, match.start(), match.end(), is_clear, bool(negation), bool(noun), is_enclosed)


# ---- how they stand

_LINE_LEAD = re.compile(r"[ \"(\[<]*(?:• *)?(?:\(?\d{1,2} ?(?:[.):]|—) +)?(?:• *)?([✓✗] *)?[\"(\[<]*", re.IGNORECASE)
_SENTENCE_LEAD = re.compile(r"[.!?…][\")]? +[\"(\[<]*\Z")
_LIST_LEAD = re.compile(
    r"(?:[,;/&+] *(?:(?:и|а|но|and|but|а также|а ещ[её]|плюс) )?| (?:и|and|а также|плюс) )[\"(\[<]*\Z", re.IGNORECASE
)
_MARK = re.compile(
    r"[\"\]>]{0,3}(?: ?(—)| (-) | (?=[А-ЯЁ][а-яё])| ?(\()(?! ?\))|(\))|(:)(?=\s*\S)|(\.)(?= *[^\s.])|( )(?=[\w\"])(?! *(?:потому|так как|поскольку|ибо|because|since)))"
)


def _mention(text: str, found: _List, unit_end: int, line_number: int, is_bold: bool) -> Mention:
    lead = text[max(0, found.start - _BEFORE) : found.start]
    newline = lead.rfind("\n")
    is_whole_line = newline >= 0 or found.start <= _BEFORE
    line_lead = _LINE_LEAD.fullmatch(lead[newline + 1 :]) if is_whole_line else None
    end = found.end
    while found.is_enclosed and text[end : end + 1] in tuple(')]"'):
        end += 1
    mark = _MARK.match(text, end)
    sign = (next(filter(None, mark.groups()), ".") if mark else "").replace("-", "—")
    verdict, is_quotable = _verdict(text, mark.end() if mark and sign != "(" else end, unit_end, sign)
    if line_lead and line_lead[1]:
        verdict, is_quotable = line_lead[1].startswith("✓"), False
    if found.is_negated:
        verdict, is_quotable = False, False
    return Mention(
        letters=found.letters,
        start=found.start,
        first=found.first,
        end=end,
        line=line_number,
        place=_place(lead, line_lead is not None),
        mark=")" if sign == " " and found.is_enclosed else sign,
        has_noun=found.has_noun,
        verdict=verdict,
        is_quotable=is_quotable,
        is_clear=found.is_clear,
        is_bold=is_bold,
    )


def _place(lead: str, begins_line: bool) -> Place:
    if begins_line:
        return Place.LINE
    if _SENTENCE_LEAD.search(lead):
        return Place.SENTENCE
    return Place.LIST if _LIST_LEAD.search(lead) else Place.TEXT


_END = r"(?=\s*(?:$|[.,;:!?)(—\n]| - )| (?:потому|так как|поскольку|because|since)(?!\w))"
_THING = r"(?: (?:ответ|вариант|утвержден|выбор|option|answer|choice|statement)[а-яa-z]{0,4}(?!\w)|" + _END + ")"
_VERDICT = re.compile(
    r"(?:^|[—:,(|]| - |(?P<sentence>[.;]))[ \"]*"
    r"(?:(?:это|тоже|также|все|оба|is|are|was|an?|the|явля[ею]тся|оказал[аои]сь) ){0,3}"
    rf"(?:(?P<no>(?:нет|ложь|ложно|не ?верно|не ?правильно|no|false|✗){_END}|не ?(?:верен|верна|верны|прав|права|правы)"
    rf"{_END}|(?:не ?верн|не ?правильн|ошибочн|incorrect|wrong|not correct|not right)\w{{0,3}}{_THING}"
    r"|не (?:подход|является (?:верн|правильн))\w{0,4}(?!\w)|(?:исключа|отпада|отбрасыва|отверга)\w{1,6}(?!\w))"
    rf"|(?P<yes>(?:да|верно|правильно|истина|истинно|yes|true|✓){_END}|(?:верен|верна|верны){_END}"
    rf"|(?:верн|правильн|correct|right)\w{{0,3}}{_THING}|подход[ия]\w{{1,3}}(?!\w)))",
    re.IGNORECASE,
)
_ENDS_SENTENCE = re.compile(r"\s*(?:$|[.!;\n])")
_LINE_END = re.compile(r"[\n;]")


def _verdict(text: str, start: int, end: int, mark: str) -> tuple[bool | None, bool]:
    """Return what the text says of a mention, up to the end of its line or the next mention, and if it is quotable."""
    stop = _LINE_END.search(text, start, end)
    unit = text[start : stop.start() if stop else end]
    found: set[bool] = set()
    is_quotable = False
    for match in _VERDICT.finditer(unit):
        if match["sentence"] and not _ENDS_SENTENCE.match(unit, match.end()):
            continue
        found.add(match["yes"] is not None)
        is_quotable = mark in (")", ".") and not unit[: match.start("no" if match["no"] else "yes")].strip(' "')
    if len(found) != 1:
        return None, False
    return found.pop(), is_quotable


def _starts(spans: tuple[Span, ...]) -> Callable[[int], int | None]:
    """Return a function from ascending positions to the start of the span that each is within, or None."""
    rest = list(reversed(spans))

    def start_of(position: int) -> int | None:
        while rest and rest[-1][1] <= position:
            rest.pop()
        return rest[-1][0] if rest and rest[-1][0] <= position else None

    return start_of
