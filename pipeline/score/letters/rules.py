"""The rules that find the answer in a response.

A `Response` in, an `Answer` out, or None if the rule finds none. Each rule chooses where the answer begins;
`pipeline/score/letters/reading.py` reads it to its end. `pipeline/score/extraction.py` tries the rules in the order of
`RULES`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property

from pipeline.score.letters.answer_words import LINK, LONGEST_LINK, AnswerWord, answer_words
from pipeline.score.letters.option_letters import CYRILLIC, Letters, pure_letters
from pipeline.score.letters.option_mentions import Mention, Place, mentions
from pipeline.score.letters.plain_text import PlainText, Span
from pipeline.score.letters.reading import SENTENCE_BREAK, Answer, read


class Response:
    """A response as the rules see it: plain text and the mentions of options in it."""

    def __init__(self, plain: PlainText, options: str) -> None:
        self.plain, self.text, self.options = plain, plain.text, options

    @cached_property
    def mentions(self) -> list[Mention]:
        """The mentions of options, in order."""
        return mentions(self.plain, self.options)

    @cached_property
    def firsts(self) -> list[int]:
        """The place of the first letter of each mention."""
        return [mention.first for mention in self.mentions]

    @cached_property
    def option_lines(self) -> set[int]:
        """The numbers of the lines that begin with an option."""
        return {mention.line for mention in self.mentions if mention.place is Place.LINE}

    @cached_property
    def num_repeated(self) -> int:
        """The number of mentions at the beginning that repeat the question's options, all in order, unjudged."""
        listed = self.mentions[: len(self.options)]
        repeats = all(
            mention.letters == {option} and mention.place is Place.LINE and mention.verdict is None
            for mention, option in zip(listed, self.options, strict=False)
        )
        return len(listed) if repeats and len(listed) == len(self.options) else 0

    def read(self, first: int, stop: int | None = None) -> Answer:
        """Return the answer that begins with a mention; see `pipeline/score/letters/reading.py`."""
        return read(self.text, self.mentions, first, len(self.text) if stop is None else stop)


def _letters(found: Iterable[Mention]) -> Letters:
    """Return the letters of the mentions that are not denied."""
    return _union(mention.letters for mention in found if mention.verdict is not False)


def _union(parts: Iterable[Letters]) -> Letters:
    return frozenset[str]().union(*parts)


def _with_others(answer: Answer, *others: Letters) -> Answer:
    return replace(answer, others=answer.others.union(*others) - answer.letters)


def _agreed(answers: list[Answer]) -> Answer | None:
    """Return the answer if all are the same; if they differ, it is unclear."""
    if not answers:
        return None
    common = frozenset.intersection(*(answer.letters for answer in answers))
    every = _union(answer.letters | answer.others for answer in answers)
    return Answer(common, every - common, is_cut=answers[-1].is_cut)


# ---- bare letters and boxes


def _bare_letters(response: Response) -> Answer | None:
    """`B`, `(B)`, `A, C`, `A C`, `AC`, `A;C`, `A и C`: the response is nothing but letters."""
    letters = pure_letters(response.text, response.options)
    if letters is None or response.plain.bold or response.plain.boxed:
        return None
    return Answer(letters, is_cut=response.text[-1] in ",;/&")


def _boxed(response: Response) -> Answer | None:
    r"""Every \boxed{...} with letters, alone or before the options' texts."""
    text, boxed = response.text, response.plain.boxed
    contents = [Response(PlainText(text[start:end].strip(), (), ()), response.options) for start, end in boxed]
    together = pure_letters(text[boxed[0][0] : boxed[-1][1]], response.options) if boxed else None
    found = [Answer(together)] if together else [answer for content in contents if (answer := _of_box(content))]
    answer = _agreed(found)
    if answer is None:
        return None
    stops = [start for start, _ in boxed[1:]] + [len(text)]
    around = (_around(response, span, stop) for span, stop in zip(boxed, stops, strict=True))
    return _with_others(answer, *around)


def _of_box(content: Response) -> Answer | None:
    """Return the answer in a box; every letter in it is the answer's or makes it unclear."""
    if not content.text:
        return None
    answer = _bare_letters(content) or _answer_prefix(content)
    if answer is None and content.mentions and content.mentions[0].place is Place.LINE:
        answer = content.read(0)
    return _with_others(answer, _letters(content.mentions)) if answer and answer.letters else None


def _around(response: Response, box: Span, stop: int) -> Letters:
    """Return the letters of the answer that a box is only a part of."""
    index = bisect_right(response.firsts, box[0] - 1)
    while index > 0 and response.mentions[index - 1].end > box[0]:
        index -= 1
    if index == len(response.mentions) or response.mentions[index].first >= box[1]:
        return frozenset()
    answer = response.read(index, stop)
    return answer.letters | answer.others


# ---- words that introduce the answer

_LOWER = rf"[a-z{CYRILLIC.lower()}](?!\w)"
_LOWER_LIST = re.compile(rf"{_LOWER}(?: ?(?:[,;/&+]|и|and)? ?{_LOWER})*+(?=[\"\])>]*\s*(?:[.!]?\s*(?:\n|\Z)))")
"""Lower-case letters and nothing else up to the end of the line."""
_BEFORE_PARENTHESES = re.compile(r"\"? ?[:—] ?[^\n.!?:;]{1,120} ")
"""Between `Ответ` and the letters in `Ответ: 54 ц (C)`."""


def _answer_prefix(response: Response) -> Answer | None:
    """`Ответ: B`, `Правильный ответ — B`, `Верно A`, `Итого: A, C`, on the same line or the next."""
    words = list(answer_words(response.text))
    stops = [word.start for word in words[1:]] + [len(response.text)]
    found: list[Answer] = []
    vague: Answer | None = None
    has_last = False
    for word, stop in zip(words, stops, strict=False):
        answer = _after(response, word, stop)
        if answer is None or not answer.letters:
            vague = answer if answer and answer.is_vague else vague
            continue
        if word.is_last and not has_last:
            found.clear()
            has_last = True
        found.append(answer)
    return _agreed(found) or vague


def _after(response: Response, word: AnswerWord, stop: int) -> Answer | None:
    """Return the answer that follows the words that introduce it."""
    text, index = response.text, bisect_left(response.firsts, word.end)
    mention = response.mentions[index] if index < len(response.mentions) else None
    if mention is None or mention.first >= stop:
        return _lower_case(response, word, stop)
    if mention.first <= word.end + LONGEST_LINK and LINK.fullmatch(text, word.end, mention.first):
        link = text[word.end : mention.first]
        is_far = ("\n" in link and ":" not in link) or ("(" in link and mention.mark == " ")
        if word.is_short and (is_far or (word.ends_sentence and mention.mark)):
            return None
        return response.read(index, stop)
    is_in_parentheses = text[mention.end - 1] == ")" and not mention.mark
    if is_in_parentheses and not word.is_short and _BEFORE_PARENTHESES.fullmatch(text, word.end, mention.start):
        return response.read(index, stop)
    return _lower_case(response, word, stop)


def _lower_case(response: Response, word: AnswerWord, stop: int) -> Answer | None:
    """Return the answer in lower-case letters; they must follow a colon, a dash or a line break."""
    link = LINK.match(response.text, word.end, word.end + LONGEST_LINK)
    assert link is not None  # every part of it is optional
    found = _LOWER_LIST.match(response.text, link.end(), min(stop, link.end() + LONGEST_LINK))
    letters = pure_letters(found[0], response.options) if found and re.search(r"[:=—\n-]", link[0]) else None
    return Answer(letters) if letters else None


# ---- the end of the response

_LINE_END = re.compile(r"[ \")\]>.]*(?:\n|\Z)")
_NEGATION = re.compile(
    r"(?<!\w)(?:(?:не|ни|нет|нельзя|кроме|если|или|ли|not?|if|or)(?!\w)|невер|неправ|ошиб|исключ|от вариант|wrong"
    r"|incorrect)",
    re.IGNORECASE,
)
_CLOSING_LENGTH = 300


def _last_line(response: Response) -> Answer | None:
    """Last lines, after others, that are nothing but letters."""
    end, letters = len(response.text), frozenset[str]()
    while end > 0:
        start = response.text.rfind("\n", 0, end) + 1
        line = pure_letters(response.text[start:end], response.options)
        if line is None:
            break
        letters |= line
        end = max(start - 1, 0)
    if not letters or end == 0:
        return None
    alone = (
        mention
        for mention in response.mentions
        if mention.place is Place.LINE and not mention.mark and _LINE_END.match(response.text, mention.end)
    )
    index, line_number = bisect_left(response.firsts, end), response.text.count("\n", 0, end + 1)
    first = response.num_repeated if response.num_repeated <= index else 0
    above = _above(response, first, index, line_number)
    return _with_others(Answer(letters), _letters(alone), above)


def _closing_option(response: Response) -> Answer | None:
    """`... — вариант B.`: the last sentence ends with an option that is named as one."""
    text, mention = response.text, response.mentions[-1] if response.mentions else None
    if mention is None or not mention.has_noun or not mention.is_clear or not _LINE_END.match(text, mention.end):
        return None
    sentence = text[max(0, mention.first - _CLOSING_LENGTH) : mention.first]
    sentence = re.split(r"[.!?]\s|\n", sentence)[-1]
    if text[mention.end :].strip(' ")].') or _NEGATION.search(sentence):
        return None
    same_sentence = (other for other in response.mentions[:-1] if other.first >= mention.first - len(sentence))
    return _with_others(Answer(mention.letters), _letters(same_sentence))


def _above(response: Response, first: int, index: int, line: int) -> Letters:
    """Return the letters before an answer on its line, and on the lines directly above that begin with options.

    Args:
        response: The response.
        first: The index of the first mention to examine.
        index: The index of the answer's first mention.
        line: The number of the answer's first line.
    """
    found: list[Mention] = []
    for mention in reversed(response.mentions[first:index]):
        if mention.line == line - 1 and mention.line in response.option_lines:
            line -= 1
        if mention.line != line:
            break
        found.append(mention)
    return _letters(found)


# ---- options with verdicts, texts or in bold


def _verdicts(response: Response) -> Answer | None:
    """`A — нет; B — да`, `Вариант B верен`: what the response states about each option."""
    judged = [
        (index, mention)
        for index, mention in enumerate(response.mentions)
        if mention.verdict is not None and not mention.is_quotable
        if mention.place is not Place.TEXT or mention.has_noun or not mention.is_bold
    ]
    right = _union(mention.letters for _, mention in judged if mention.verdict)
    wrong = _union(mention.letters for _, mention in judged if not mention.verdict)
    if not right:
        return None
    stops = [mention.start for _, mention in judged[1:]] + [len(response.text)]
    read_on = [
        response.read(index, stop) for (index, mention), stop in zip(judged, stops, strict=True) if mention.verdict
    ]
    others = _union(answer.letters | answer.others for answer in read_on)
    unjudged = _union(mention.letters for mention in response.mentions if mention.place is Place.LINE)
    return Answer(right, ((others | unjudged) - right - wrong) | (right & wrong))


_EXPLANATION = re.compile(
    r"^[ \d.)•]{0,6}(?:пояснени|обосновани|объяснени|комментари|почему|разбор|explanation)",
    re.IGNORECASE | re.MULTILINE,
)


def _leading_option(response: Response) -> Answer | None:
    """`B. text`, `B) text`: the first or the last lines begin with options.

    If every option is listed, the lines repeat the question, and only other lines answer it.
    """
    blocks = _blocks(response, _begins_line, first=response.num_repeated)
    explanation = _EXPLANATION.search(response.text)
    if explanation:
        blocks = [block for block in blocks if response.firsts[block[0]] < explanation.start()] or blocks
    chosen = [(first, answer) for first, answer in blocks if not _lists_all(response, first, answer)]
    if not chosen:
        listed = _letters(response.mentions[: response.num_repeated]).union(*(answer.letters for _, answer in blocks))
        return Answer(frozenset(), listed) if listed else None
    first, start = chosen[0][0], response.firsts[chosen[0][0]]
    if response.mentions[first].is_bold:
        return None
    answers = [answer for _, answer in chosen]
    if "\n" not in response.text[:start] or len({answer.letters for answer in answers}) > 1:
        return _agreed(answers)
    ends_text = "\n" not in response.text[response.mentions[answers[-1].last].first :]
    if not ends_text or SENTENCE_BREAK.search(response.text, start):
        return None  # in the middle of the text or with sentences of its own, an option is discussed
    answer = _agreed(answers)
    return replace(answer, is_cut=True) if answer else None


def _begins_line(mention: Mention) -> bool:
    return mention.place is Place.LINE and (mention.mark != " " or mention.verdict is False)


def _lists_all(response: Response, first: int, answer: Answer) -> bool:
    return len(answer.letters) == len(response.options) and answer.letters != response.mentions[first].letters


def _bold(response: Response) -> Answer | None:
    """`**B**`, `**B) text**`: options in bold."""
    letters = pure_letters(response.text, response.options) if response.plain.bold else None
    if letters:
        return Answer(letters)
    return _agreed([answer for _, answer in _blocks(response, lambda mention: mention.is_bold)])


def _blocks(response: Response, begins: Callable[[Mention], bool], first: int = 0) -> list[tuple[int, Answer]]:
    """Return the answers that begin with certain mentions, each with its first mention's index; none twice."""
    found: list[tuple[int, Answer]] = []
    vague: Letters = frozenset()
    last = first - 1
    for index, mention in enumerate(response.mentions):
        if index <= last or not begins(mention):
            continue
        answer = response.read(index)
        if answer.letters:
            found.append((index, _with_others(answer, _above(response, last + 1, index, mention.line))))
        elif answer.is_vague and mention.is_known:
            vague |= mention.letters
        last = answer.last
    return [(index, _with_others(answer, vague)) for index, answer in found]


RULES: dict[str, Callable[[Response], Answer | None]] = {
    "bare_letters": _bare_letters,
    "boxed": _boxed,
    "answer_prefix": _answer_prefix,
    "last_line": _last_line,
    "verdicts": _verdicts,
    "leading_option": _leading_option,
    "bold": _bold,
    "closing_option": _closing_option,
}
"""The rules by the name that samples record."""
