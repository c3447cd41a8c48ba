"""Extracts the answer's letters from a response, with the rule that found them or the reason why there are none.

The response and the letters of the question's options in, an `Extraction` out. Only the letters metric uses it; the
exact metrics compare the whole response. It works in three steps:

1. `pipeline/score/plain_text.py` removes what stands around the words: special tokens, tags, LaTeX, Markdown.
2. `pipeline/score/option_mentions.py` finds where options are mentioned, and what the text says of each.
3. The rules here, in the order of `RULES`, each choose where the answer begins. From there it is read to its end: the
   mentions that stand like its first one belong to it. The first rule that finds an answer decides.

Precision comes before recall. An answer in whose own lines another option stands is no answer (`conflict`), and neither
are two answers that differ: picking one would reward a model that names every option. Time is linear in the length of
the response, for any response.

Try it: `python -c "from pipeline.score.extraction import extract; print(extract('Ответ: B', 'ABCD'))"`
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.score.answer_words import LINK, LONGEST_LINK, AnswerWord, answer_words
from pipeline.score.option_letters import CYRILLIC, Letters, pure_letters
from pipeline.score.option_mentions import Mention, Place, mentions
from pipeline.score.plain_text import PlainText, Span, plain_text
from pipeline.score.reading import Answer, read

FAILED = "failed"
"""The row failed and has no response."""
TRUNCATED = "truncated"
"""The response ended at the token limit before an answer, or within it."""
EMPTY = "empty"
"""The response has no text outside its reasoning."""
NO_LETTER = "no_letter"
"""No rule found an answer."""
CONFLICT = "conflict"
"""There is an answer, but it is not clear which options belong to it."""
UNKNOWN_OPTION = "unknown_option"
"""The answer names a letter that the question does not offer."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer as sorted letters, such as `A, C`, or None; and the rule's name, or the reason for None.

    `seen` is the letters that a `conflict` or `unknown_option` is about, in the same form; else None.
    """

    answer: str | None
    rule: str
    seen: str | None = None


def extract(response: str, options: str, *, truncated: bool = False) -> Extraction:
    """Return the letters that a response answers with.

    Args:
        response: The text that the leaderboard would receive. Reasoning left in it is ignored.
        options: The letters of the question's options, such as `ABCD`; no other letter is an answer.
        truncated: The response ended at the token limit. If there is no answer, this is the reason.
    """
    content = response.rpartition("</think>")[2]
    plain = plain_text(content)
    if "<think>" in content or not plain.text:
        return Extraction(None, TRUNCATED if truncated else EMPTY)
    read_response = Response(plain, options)
    for name, rule in RULES.items():
        answer = rule(read_response)
        if answer is None:
            continue
        if truncated and answer.is_cut:
            break
        if not answer.letters and not answer.others:
            break
        seen = format_letters(answer.letters | answer.others)
        if not answer.letters <= set(options):
            return Extraction(None, UNKNOWN_OPTION, seen)
        return Extraction(None, CONFLICT, seen) if answer.others else Extraction(seen, name)
    return Extraction(None, TRUNCATED if truncated else NO_LETTER)


_LOWER = rf"[a-z{CYRILLIC.lower()}](?!\w)"
LOWER = re.compile(rf"[\"(\[<]*{_LOWER}(?: ?(?:[,;/&+]|и|and)? ?{_LOWER})*+[\"\])>]*\s*(?:[.!]?\s*(?:\n|$))")
"""Lower-case letters and nothing else up to the end of the line."""


def format_letters(letters: Letters) -> str:
    """Return the letters sorted and joined, such as `A, C`."""
    return ", ".join(sorted(letters))


class Response:
    """A response as the rules see it."""

    def __init__(self, plain: PlainText, options: str) -> None:
        self.plain, self.text, self.options = plain, plain.text, options

    @cached_property
    def mentions(self) -> list[Mention]:
        """The mentions of options, in order."""
        return mentions(self.plain, self.options)

    @cached_property
    def option_lines(self) -> set[int]:
        """The numbers of the lines that begin with an option."""
        return {mention.line for mention in self.mentions if mention.place is Place.LINE}

    @cached_property
    def firsts(self) -> list[int]:
        """Where the first letter of each mention stands."""
        return [mention.first for mention in self.mentions]

    @cached_property
    def ends(self) -> list[int]:
        """Where each mention ends."""
        return [mention.end for mention in self.mentions]

    def read(self, first: int, stop: int | None = None) -> Answer | None:
        """Return the answer that begins with a mention; see `pipeline/score/reading.py`."""
        end = len(self.text) if stop is None else stop
        return read(self.text, self.mentions, first, end)


def _agreed(answers: list[Answer]) -> Answer | None:
    """Return the answer if all are the same; if they differ, it is unclear."""
    if not answers:
        return None
    every = frozenset[str]().union(*(answer.letters | answer.others for answer in answers))
    return Answer(answers[0].letters, every - answers[0].letters, is_cut=answers[-1].is_cut)


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
    if together:
        answer = Answer(together)
    else:
        answer = _agreed(
            [
                found
                for content in contents
                if (found := _bare_letters(content) or _first_line(content) or _answer_prefix(content))
            ]
        )
    if answer is None:
        return None
    inside = [_letters(content.mentions) for content in contents if not together]
    stops = [start for start, _ in boxed[1:]] + [len(text)]
    around = [_around(response, span, stop) for span, stop in zip(boxed, stops, strict=True)]
    return _with_others(answer, *inside, *around)


def _letters(mentions: Iterable[Mention]) -> Letters:
    """Return the letters of mentions that are not denied."""
    return frozenset[str]().union(*(mention.letters for mention in mentions if mention.verdict is not False))


def _with_others(answer: Answer, *others: Letters) -> Answer:
    return replace(answer, others=answer.others.union(*others) - answer.letters)


def _around(response: Response, span: Span, stop: int) -> Letters:
    """Return the letters of the answer that a box is only a part of."""
    index = bisect_right(response.ends, span[0])
    if index == len(response.mentions) or response.mentions[index].first >= span[1]:
        return frozenset()
    answer = response.read(index, stop)
    return answer.letters | answer.others if answer else frozenset()


def _first_line(response: Response) -> Answer | None:
    """The text begins with an option."""
    if not response.mentions or response.mentions[0].place is not Place.LINE or response.mentions[0].mark == " ":
        return None
    answer = response.read(0)
    return answer if answer and answer.letters else None


def _answer_prefix(response: Response) -> Answer | None:
    """`Ответ: B`, `Правильный ответ — B`, `Верно A`, `Итого: A, C`, on the same line or the next."""
    words = list(answer_words(response.text))
    stops = [word.start for word in words[1:]] + [len(response.text)]
    found: list[Answer] = []
    unclear: Answer | None = None
    has_last = False
    for word, stop in zip(words, stops, strict=False):
        answer = _after(response, word, stop)
        if answer is None or not answer.letters:
            unclear = unclear or answer
            continue
        if word.is_last and not has_last:
            found.clear()
            has_last = True
        found.append(answer)
    return _agreed(found) or unclear


def _after(response: Response, word: AnswerWord, stop: int) -> Answer | None:
    """Return the answer that follows an answer word."""
    text, index = response.text, bisect_left(response.firsts, word.end)
    mention = response.mentions[index] if index < len(response.mentions) else None
    if mention and mention.first < min(stop, word.end + LONGEST_LINK) and LINK.fullmatch(text, word.end, mention.first):
        link = text[word.end : mention.first]
        is_apart = (
            ("\n" in link and ":" not in link)
            or ("(" in link and mention.mark == " ")
            or (word.ends_sentence and mention.mark)
        )
        return None if word.is_short and is_apart else response.read(index, stop)
    if mention and mention.first < stop and not word.is_short and _AT_END.fullmatch(text, word.end, mention.start):
        answer = response.read(index, stop) if text[mention.end - 1] == ")" and not mention.mark else None
        if answer:
            return answer
    link_end = LINK.match(text, word.end, word.end + LONGEST_LINK).end()
    lower = LOWER.match(text, link_end, min(stop, link_end + LONGEST_LINK))
    if lower is None or not re.search(r"[:=—\n-]", text[word.end : link_end]):
        return None
    letters = pure_letters(lower[0], response.options)
    return Answer(letters) if letters else None


_AT_END = re.compile(r"\"? ?[:—] ?[^\n.!?:;]{1,120} ")
"""Between `Ответ` and the letters of `Ответ: 54 ц (C)`."""


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
    alone = [mention for mention in response.mentions if _is_alone(response.text, mention)]
    above = _above(
        response, _num_repeated(response), bisect_left(response.firsts, end), response.text.count("\n", 0, end + 1)
    )
    return _with_others(Answer(letters), _letters(alone), above)


def _is_alone(text: str, mention: Mention) -> bool:
    return mention.place is Place.LINE and not mention.mark and _LINE_END.match(text, mention.end) is not None


_LINE_END = re.compile(r"[ \")\]>.]*(?:\n|\Z)")


def _above(response: Response, first: int, index: int, line: int) -> Letters:
    """Return the letters that are not denied earlier on a line, and on the lines directly above that begin with options.

    Args:
        response: The response.
        first: The index of the first mention to look at.
        index: The index of the first mention of the answer.
        line: The answer's first line.
    """
    found: list[Mention] = []
    for mention in reversed(response.mentions[first:index]):
        if mention.line == line - 1 and mention.line in response.option_lines:
            line -= 1
        if mention.line != line:
            break
        found.append(mention)
    return _letters(found)


def _verdicts(response: Response) -> Answer | None:
    """`A — нет; B — да`, `Вариант B верен`: what the response says of each option."""
    judged = [
        (index, mention)
        for index, mention in enumerate(response.mentions)
        if mention.verdict is not None
        and not mention.is_quotable
        and (mention.place is not Place.TEXT or mention.has_noun or not mention.is_bold)
    ]
    right = frozenset[str]().union(*(mention.letters for _, mention in judged if mention.verdict))
    wrong = frozenset[str]().union(*(mention.letters for _, mention in judged if not mention.verdict))
    if not right:
        return None
    stops = [mention.start for _, mention in judged[1:]] + [len(response.text)]
    others = right & wrong
    for (index, mention), stop in zip(judged, stops, strict=False):
        answer = response.read(index, stop) if mention.verdict else None
        others |= answer.letters | answer.others if answer else frozenset()
    unjudged = (mention.letters for mention in response.mentions if mention.place is Place.LINE)
    return Answer(right, others.union(*unjudged) - right - wrong | (right & wrong))


def _leading_option(response: Response) -> Answer | None:
    """`B. text`, `B) text`: the first or the last lines begin with options.

    If every option is listed, the lines repeat the question, and only other lines answer it.
    """
    explanation = _EXPLANATION.search(response.text)
    blocks = _blocks(
        response, lambda mention: mention.place is Place.LINE and mention.mark != " ", _num_repeated(response)
    )
    if explanation:
        blocks = [block for block in blocks if response.firsts[block[0]] < explanation.start()] or blocks
    if blocks and response.mentions[blocks[0][0]].is_bold:
        return None
    chosen = [answer for _, answer in blocks if len(answer.letters) < len(response.options)]
    if not chosen:
        listed = frozenset[str]().union(*(mention.letters for mention in response.mentions[: len(response.options)]))
        return Answer(frozenset(), listed) if blocks or _num_repeated(response) else None
    is_first = "\n" not in response.text[: response.firsts[blocks[0][0]]]
    is_last = response.mentions[blocks[-1][1].last].first > response.text.rfind("\n")
    return _agreed(chosen) if is_first or is_last or len(chosen) > 1 else None


_EXPLANATION = re.compile(
    r"^[ \d.)•]{0,6}(?:пояснени|обосновани|объяснени|комментари|почему|разбор|explanation)", re.I | re.M
)


def _num_repeated(response: Response) -> int:
    """Return the number of mentions at the beginning that repeat the question's options, in order and without a word."""
    listed = response.mentions[: len(response.options)]
    is_repeated = [mention.letters for mention in listed] == [frozenset(option) for option in response.options] and all(
        mention.place is Place.LINE and mention.verdict is None for mention in listed
    )
    return len(listed) if is_repeated else 0


def _bold(response: Response) -> Answer | None:
    """`**B**`, `**B) text**`: options in bold."""
    return _agreed([answer for _, answer in _blocks(response, lambda mention: mention.is_bold)])


def _blocks(response: Response, begins: Callable[[Mention], bool], first: int = 0) -> list[tuple[int, Answer]]:
    """Return the answers that begin with certain mentions, each with its first mention's index; none twice."""
    found: list[tuple[int, Answer]] = []
    last = first - 1
    for index, mention in enumerate(response.mentions):
        if index > last and begins(mention):
            answer = response.read(index)
            if answer and answer.letters:
                above = _above(response, last + 1, index, mention.line)
                found.append((index, _with_others(answer, above)))
                last = answer.last
    return found


RULES: dict[str, Callable[[Response], Answer | None]] = {
    "bare_letters": _bare_letters,
    "boxed": _boxed,
    "answer_prefix": _answer_prefix,
    "last_line": _last_line,
    "verdicts": _verdicts,
    "leading_option": _leading_option,
    "bold": _bold,
}
"""The rules by the name that samples record. Each returns the answer that it finds, or None if it finds none."""
