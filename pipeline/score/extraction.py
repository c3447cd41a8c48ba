"""Extracts the answer's letters from a response, with the rule that matched or the reason why none did.

The response text and the letters of the question's options in, an `Extraction` out. Only the letters metric uses it;
the exact metrics compare the whole response. The rules are tried in the order of `RULES` and the first one that matches
decides. If its matches disagree there is no answer (`conflict`): picking one of them would reward a model that names
every option. `pipeline/score/option_letters.py` distinguishes the Russian words А, В and С from option letters. Time is
linear in the length of the text, for any text.

Try it: `python -c "from pipeline.score.extraction import extract; print(extract('Ответ: B', 'ABCD'))"`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.score.option_letters import Letters, leading_letters, pure_letters

FAILED = "failed"
"""The row failed and has no response."""
TRUNCATED = "truncated"
"""The response ended at the token limit before an answer."""
EMPTY = "empty"
"""The response has no text outside its reasoning."""
NO_LETTER = "no_letter"
"""No rule matched a letter of the question's options."""
CONFLICT = "conflict"
"""The matches of the first rule that matched disagree."""

_WRAPPED = re.compile(r"\\(?:text|math)\w{0,6}\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s{0,3}\{([^{}]{0,200})\}")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*|__([^_\n]{1,200})__")
_ANSWER_WORD = re.compile(
    r"(?<!\w)(?:ответ(?:ы|а|ом|ами)?|answers?|"
    r"(?:правильн|верн|correct|right)\w{0,4}\s{1,3}(?:вариант|букв|option|choice|letter)\w{0,3})(?!\w)",
    re.IGNORECASE,
)
_LINK = re.compile(
    r"(?:[\s*_`\"'»:=—–-]|(?:это|явля[ею]тся|буд[еу]т|под|букв\w{1,3}|вариант\w{0,3}|ответ\w{0,3}"
    r"|is|are|the|options?|letters?)\b)*+",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?;:\n]")
_SECOND_OPTION = re.compile(r"[,;.]\s*([A-ZАВСЕНКМОРТХ])\)")
_DENIED = ("невер", "неправ", "ошибоч", "incorrect", "wrong")
_RIGHT = ("прав", "верн", "correct", "right")
_WINDOW = 160
"""Characters after `Ответ` that are examined."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer as sorted letters, such as `A, C`, or None; and the rule's name, or the reason for None."""

    answer: str | None
    rule: str


def extract(response: str, options: str, *, truncated: bool = False) -> Extraction:
    """Return the letters that a response answers with.

    Args:
        response: The text that the leaderboard would receive. Reasoning left in it is ignored.
        options: The letters of the question's options, such as `ABCD`; no other letter is an answer.
        truncated: The response ended at the token limit. If there is no answer, this is the reason.
    """
    text = _WRAPPED.sub(r"\1", response.rpartition("</think>")[2]).strip()
    if "<think>" in text or not text:
        return Extraction(None, TRUNCATED if truncated else EMPTY)
    for name, rule in RULES.items():
        found = set(rule(text, options))
        if found:
            letters = found.pop()
            return Extraction(None, CONFLICT) if found else Extraction(format_letters(letters), name)
    return Extraction(None, TRUNCATED if truncated else NO_LETTER)


def format_letters(letters: Letters) -> str:
    """Return the letters sorted and joined, such as `A, C`."""
    return ", ".join(sorted(letters))


def _bare_letters(text: str, options: str) -> Iterable[Letters]:
    """`B`, `(B)`, `A, C`, `A C`, `AC`, `A;C`, `A и C`: the response is nothing but letters."""
    return _some(pure_letters(text, options))


def _boxed(text: str, options: str) -> Iterable[Letters]:
    r"""Every \boxed{...} with letters, alone or before the option's text."""
    return _some(*(_either(match[1], options) for match in _BOXED.finditer(text)))


def _answer_prefix(text: str, options: str) -> Iterable[Letters]:
    """`Ответ: B`, `Правильный ответ — B`, `Answer: B`, `Ответ B.`, on the same line or the next."""
    return _some(*(_after(text, match, options) for match in _ANSWER_WORD.finditer(text)))


def _last_line(text: str, options: str) -> Iterable[Letters]:
    """A last line, after others, that is nothing but letters."""
    before, newline, line = text.rpartition("\n")
    return _some(pure_letters(line.replace("*", ""), options)) if newline and before.strip() else ()


def _leading_option(text: str, options: str) -> Iterable[Letters]:
    """`B. text`, `B) text`: the first or the last line begins with an option.

    Several such lines are one answer if there are no other lines and not every option is among them. Otherwise they
    discuss the options one by one, and each is an answer of its own.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    found = [_options_of_line(line, options) for line in lines]
    marked = [letters for letters in found if letters]
    together: Letters = frozenset().union(*marked)
    if len(marked) == len(lines) and len(together) < len(options) and sum(map(len, marked)) == len(together):
        return [together]
    return marked if len(set(marked)) > 1 or found[0] or found[-1] else ()


def _bold(text: str, options: str) -> Iterable[Letters]:
    """`**B**`, `**B) text**`: letters in bold."""
    whole = pure_letters(text.replace("*", "").replace("_", ""), options)
    return [whole] if whole else _some(*(_either(match[1] or match[2], options) for match in _BOLD.finditer(text)))


RULES: dict[str, Callable[[str, str], Iterable[Letters]]] = {
    "bare_letters": _bare_letters,
    "boxed": _boxed,
    "answer_prefix": _answer_prefix,
    "last_line": _last_line,
    "leading_option": _leading_option,
    "bold": _bold,
}
"""The rules by the name that samples record; each maps text and options to every answer that it finds."""

_Found: TypeAlias = Letters | None


def _some(*found: _Found) -> list[Letters]:
    return [letters for letters in found if letters]


def _either(text: str, options: str) -> _Found:
    return pure_letters(text, options) or leading_letters(text, options, certain=False)


def _after(text: str, keyword: re.Match[str], options: str) -> _Found:
    """Return the letters after the word for answer, unless the words before it negate it or introduce the options."""
    sentence = _SENTENCE_END.split(text[max(0, keyword.start() - 40) : keyword.start()])[-1]
    before = sentence.lower().split()[-2:]
    listed = bool(before) and before[-1].startswith("вариант") and not before[0].startswith(_RIGHT)
    if listed or any(word.startswith(_DENIED) for word in before):
        return None
    rest = text[keyword.end() : keyword.end() + _WINDOW]
    link = _LINK.match(rest)
    assert link is not None  # every part of it is optional
    block = rest[link.end() :]
    linked = "\n" in link[0] or bool(link[0].strip("*_`\"'» \t"))
    return (linked and pure_letters(block.partition("\n\n")[0], options)) or leading_letters(
        block, options, certain=linked
    )


def _options_of_line(line: str, options: str) -> _Found:
    """Return the options that a line begins with or lists, as in `A) text; C) text`; None if it lists all of them."""
    if line.lstrip().startswith(("А, ", "**", "__")):  # the conjunction, as in `А, может быть`; text for `bold`
        return None
    letters = leading_letters(line, options, certain=False)
    others = {match[1] for match in _SECOND_OPTION.finditer(line)} if letters else set()
    if not letters or not others:
        return letters
    listed = letters.union(*_some(*(pure_letters(letter, options) for letter in others)))
    return listed if len(listed) < len(options) else None
