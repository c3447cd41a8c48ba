"""Finds the words that introduce an answer: `Ответ:`, `Верный вариант —`, `Итого:`, `Подходит`, `Это`.

Plain text in, the `AnswerWord`s in the order of the text out. Each pattern looks at a bounded piece of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_RIGHT = r"(?:правильн|верн|корректн|подходящ|correct|right|best)[а-яёa-z]{0,4}"
_CHOICE = r"(?:вариант|букв|пункт|утвержден|суждени|выбор|option|choice|letter|statement)[а-яёa-z]{0,4}"
_LAST = r"(?:окончательн|итогов|финальн|заключительн|final)[а-яё]{0,3}"
_PATTERN = re.compile(
    rf"(?<!\w)(?:(?P<last>{_LAST} {{1,3}}(?:{_RIGHT} {{1,3}})?(?:ответ[а-яё]{{0,3}}|answers?|{_CHOICE})|итого?|вывод|conclusion)"
    rf"|(?P<answer>ответ(?:ы|а|ом|ами|у|ов)?|answers?|{_RIGHT} {{1,3}}(?:из )?{_CHOICE})"
    r"|(?P<short>(?:верн|правильн)(?:о|ый|ая|ое|ые|ым|ыми|ы|а|ен)|подход(?:ит|ят|ящий|ящие)|выбор|выбира(?:ю|ем)|выбер(?:у|ем)|выбрал[аи]?"
    r"|оста[её]тся|соответствует|choose|choice)"
    r"|(?P<bare>это|итак,?|значит,?|следовательно,?|таким образом,?|поэтому|thus,?|therefore,?|hence,?|so,?))(?!\w)",
    re.IGNORECASE,
)
_LINK_WORDS = (
    r"(?:это|явля[ею]тся|буд[еу]т|под|букв\w{1,3}|вариант\w{0,3}|пункт\w{0,3}|ответ\w{0,3}|номер|только|лишь|именно|такой"
    r"|следующ\w{2,3}|таков\w?|указан\w?|содержится|находится|обозначен\w?|в(?= вариант| пункт)|скорее всего,?|вероятно,?|на (?:этот |данный )?(?:вопрос|задачу|задание)"
    r"|is|are|the|to|this|question|only|options?|letters?|choices?)(?!\w)"
)
LINK = re.compile(
    rf"(?:[\s\"'»:=—•-]|[\"(\[<\])>]|(?<=\n)\d{{1,2}}[.)] |(?:не|ни|not) |{_LINK_WORDS})*+", re.IGNORECASE
)
LONGEST_LINK = 100

_BEFORE = 100
_SENTENCE_END = re.compile(r"[.!?\n]")
_CLAUSE_END = re.compile(r"[;:,]")
_TURN = re.compile(r"(?<!\w)(?:но|однако|but|however|после проверки)(?!\w)", re.IGNORECASE)
_DENIED = ("невер", "неправ", "ошибоч", "incorrect", "wrong")
_NEGATIONS = {"не", "ни", "not", "нет"}
_RIGHT_START = ("прав", "верн", "correct", "right")
_IS_OPTION = re.compile(rf" (?:и есть )?{_CHOICE} ", re.IGNORECASE)
_TENTATIVE = re.compile(
    r"(?<!\w)(?:(?:сначала|первоначально|поначалу|initially|first).{0,30}(?:дума|каза|счит|полага|предполож|thought)"
    r"|предварительн|на первый взгляд|если|if)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class AnswerWord:
    """Words that introduce an answer, from `start` to `end`.

    `is_last`: a later answer replaces all before it, as `Итоговый ответ` does. `is_short`: the letter must follow at
    once, for the word has other uses (`верно`). `ends_sentence`: the letter must also end the sentence (`Значит, B.`).
    """

    start: int
    end: int
    is_last: bool
    is_short: bool
    ends_sentence: bool


def answer_words(text: str) -> Iterator[AnswerWord]:
    """Yield the words that introduce an answer, without those that are negated, tentative or introduce the options."""
    for match in _PATTERN.finditer(text):
        sentence = _SENTENCE_END.split(text[max(0, match.start() - _BEFORE) : match.start()])[-1]
        if not _is_refused(match, sentence):
            yield AnswerWord(
                match.start(),
                match.end(),
                bool(match["last"]),
                not match["last"] and not match["answer"],
                bool(match["bare"]),
            )


def _is_refused(match: re.Match[str], sentence: str) -> bool:
    words = _CLAUSE_END.split(sentence)[-1].lower().split()[-3:]
    if any(word.startswith(_DENIED) or word in _NEGATIONS for word in words):
        return True
    if words and words[-1].startswith("вариант") and not any(word.startswith(_RIGHT_START) for word in words):
        return True  # `Варианты ответа:`
    if match[0].lower() == "это" and sentence.strip(' "•') and not _IS_OPTION.match(match.string, match.end()):
        return True
    return _TENTATIVE.search(_TURN.split(sentence)[-1]) is not None
