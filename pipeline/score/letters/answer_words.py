"""Finds the words that introduce an answer: `Ответ:`, `Верный вариант —`, `Итого:`, `Подходит`, `Значит,`.

Plain text in, `AnswerWord`s in the order of the text out. Each pattern matches a bounded piece of the text, so time is
linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnswerWord:
    """Words that introduce an answer, from `start` to `end`.

    `is_last`: the answer replaces those before it, as after `Итоговый ответ`. `is_short`: the words have other uses
    (`верно`), so the letter must follow at once. `ends_sentence`: it must also end the sentence (`Значит, B.`).
    """

    start: int
    end: int
    is_last: bool
    is_short: bool
    ends_sentence: bool


def answer_words(text: str) -> Iterator[AnswerWord]:
    """Yield the words that introduce an answer, without those that are negated, tentative or introduce the options."""
    lowered = text.lower()
    for match in _WORDS.finditer(lowered if len(lowered) == len(text) else text):  # positions must stay
        kind = match.lastgroup
        sentence = _SENTENCE_END.split(text[max(0, match.start() - _BEFORE) : match.start()])[-1]
        if not _is_refused(sentence, is_noun=kind == "noun"):
            is_short = kind in ("short", "ending")
            yield AnswerWord(match.start(), match.end(), kind == "last", is_short, kind == "ending")


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


_RIGHT = r"(?:правильн|верн|корректн|подходящ|correct|right|best)[а-яёa-z]{0,4}"
_CHOICE = r"(?:вариант|букв|пункт|утвержден|суждени|выбор|option|choice|letter|statement)[а-яёa-z]{0,4}"
_LAST = _any(
    rf"(?:окончательн|итогов|финальн|заключительн|исправленн|final)[а-яё]{{0,3}} {{1,3}}(?:{_RIGHT} {{1,3}})?"
    rf"(?:ответ[а-яё]{{0,3}}|answers?|{_CHOICE})",
    *("итого?", "в итоге", "вывод", "окончательно", "conclusion", r"(?:меняю|исправляю|изменяю) (?:свой )?ответ на"),
)
_NOUN = _any(
    *(r"ответ(?:ы|а|ом|ами|у|ов)?", "answers?", rf"{_RIGHT} {{1,3}}(?:из )?{_CHOICE}"),
    *(r"(?:selected|correct|chosen|final)_[a-z_]{1,20}", r"[\u4e00-\u9fff]{0,6}答案是?"),
)
_SHORT = _any(
    *(r"(?:верн|правильн)(?:о|ый|ая|ое|ые|ым|ыми|ы|а)", "верен", r"подход(?:ит|ят|ящий|ящие)", r"соответству[ею]т"),
    *("выбор", r"выбира(?:ю|ем)", r"выбер(?:у|ем)", r"выбрал[аи]?", r"оста[её]тся", "остаются", "choose", "choice"),
    *(r"останавлива(?:юсь|емся) на", r"склоня(?:юсь|емся) к"),
)
_ENDING = _any(
    *("это(?= (?:и есть )?(?:вариант|ответ))", r"(?:\A|(?<=[.!?•] )|(?<=\n))это", r"(?:итак|значит|следовательно),?"),
    *("таким образом,?", "то есть", "поэтому", r"(?:thus|therefore|hence|so),?"),
)
_WORDS = re.compile(
    r"(?<!\w)(?=[авзикмопстфэabcfhirst\u4e00-\u9fff])"
    rf"(?:(?P<last>{_LAST})|(?P<noun>{_NOUN})|(?P<short>{_SHORT})|(?P<ending>{_ENDING}))(?!\w)"
)
"""In lower case, which takes half the time of a pattern that ignores case."""

_LINK_WORDS = _any(
    *("это", r"явля[ею]тся", r"буд[еу]т", "под", r"букв\w{1,3}", r"вариант\w{0,3}", r"пункт\w{0,3}", r"ответ\w{0,3}"),
    *("номер", "только", "лишь", "именно", "сразу", "и", "все", "один", "два", "три", "четыре", "несколько", "такой"),
    *(r"следующ\w{2,3}", r"таков\w?", r"указан\w?", "содержится", "находится", r"обозначен\w?", r"отвеча[юе]т"),
    *("в(?= вариант| пункт)", "скорее всего,?", "вероятно,?", r"на (?:этот |данный )?(?:вопрос|задачу|задание)"),
    *("is", "are", "the", "to", "this", "question", "only", "options?", "letters?", "choices?", "two", "three"),
)
LINK = re.compile(
    rf"(?:[\s\"':=—•()\[\]<>-]|(?<=\n)\d{{1,2}}[.)] |(?:не|ни|not) |{_LINK_WORDS}(?!\w))*+", re.IGNORECASE
)
"""What may be between the words that introduce an answer and its first letter."""
LONGEST_LINK = 100

_BEFORE = 100
"""Characters before the words that are examined."""
_SENTENCE_END = re.compile(r"[.!?\n]")
_CLAUSE_END = re.compile(r"[;:,]")
_DENIED = ("невер", "неправ", "ошибоч", "incorrect", "wrong")
_NEGATIONS = {"не", "ни", "not", "нет"}
_RIGHT_START = ("прав", "верн", "correct", "right")
_TURN = re.compile(r"(?<!\w)(?:но|однако|but|however|после проверки|затем|потом|then)(?!\w)", re.IGNORECASE)
_TENTATIVE = re.compile(
    r"(?<!\w)(?:(?:сначала|изначально|первоначально|поначалу|initially)(?!\w)|предварительн|на первый взгляд"
    r"|(?:если|if)(?: \w{1,15}){0,2} ?\Z)",
    re.IGNORECASE,
)


def _is_refused(sentence: str, *, is_noun: bool) -> bool:
    before = _CLAUSE_END.split(sentence)[-1].lower().split()[-3:]
    if any(word.startswith(_DENIED) or word in _NEGATIONS for word in before):
        return True
    if is_noun and before and before[-1].startswith("вариант"):  # `Варианты ответа:`
        return not any(word.startswith(_RIGHT_START) for word in before)
    return _TENTATIVE.search(_TURN.split(sentence)[-1]) is not None
