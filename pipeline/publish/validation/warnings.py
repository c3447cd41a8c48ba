"""The one check of what came back: answers by id in, lines out, for a run's samples and for any archive alike.

Each warning is about answers that the server accepts but their author did not intend: they lose points, or win points
by accident. None is a reason for a refusal. Memory does not grow with the answers.
"""

from __future__ import annotations

import re
import string
import unicodedata
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping

from pipeline.metrics.squad import tokens
from pipeline.publish.validation.findings import NUM_LISTED, first_of, quoted
from pipeline.terminal.text import counted

SAME_SHARE = 0.5
SAME_FROM = 20
"""A warning is given if more than the fraction `SAME_SHARE` of at least `SAME_FROM` answers are the same. The questions
have four options or more, so an even distribution gives each letter a quarter at most. Twice that has a chance of 1 in
250 among 20 answers, and a negligible one among a task's thousands."""

LONG_CHARS = 2_000
"""A longer output is not an answer in letters: 2,000 characters are about 500 tokens of Russian."""

THOUGHTS = re.compile(
    r"</?(?:think|thinking|thought|reasoning|seed:think)>|\[/?THINK\]|◁/?think▷|<\|(?:START|END)_THINKING\|>"
    r"|<\|channel\|>(?:analysis|commentary)",
    re.IGNORECASE,
)
SPECIAL_TOKEN = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</?(?:s|bos|eos|pad|end_of_turn|start_of_turn)>|\[/?INST\]"
)
"""Tokens of chat templates that a tokenizer leaves out of its text, in the spellings of the common families."""

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}\\s]+")
_ALPHABETS = ("CYRILLIC", "GREEK", "FULLWIDTH")
"""How the Unicode names of letters begin that are taken for Latin ones, or typed in place of them."""

_SHORT = 64
_SHOWN_CHARS = 200
_MOST_TEXTS = 100_000


def answer_warnings(outputs: Mapping[int, str]) -> list[str]:
    """Return the warnings about a task's outputs, a line each, with the number of ids and the first few."""
    check = AnswerCheck()
    for row_id, text in outputs.items():
        check.add(row_id, text)
    return check.lines()


class AnswerCheck:
    """Collects the answers of one task and split."""

    def __init__(self) -> None:
        self._num = 0
        self._found = [_Kind() for _ in _KINDS]
        self._texts: Counter[tuple[int, str]] = Counter()

    def add(self, row_id: int, output: str, response: str | None = None) -> None:
        """Check an answer.

        Args:
            row_id: Its id.
            output: The text that is submitted.
            response: The model's response, if that is another text.
        """
        self._num += 1
        for (is_of_response, matches, _, _), kind in zip(_KINDS, self._found, strict=True):
            if matches(output if response is None or not is_of_response else response):
                kind.add(row_id)
        text = output.strip()
        self._texts[hash(text), text[:_SHOWN_CHARS]] += 1
        if len(self._texts) > _MOST_TEXTS:  # Misra-Gries: what is more than half of all stays
            self._texts = Counter({each: num - 1 for each, num in self._texts.items() if num > 1})

    def lines(self) -> list[str]:
        """Return the warnings."""
        found = [
            f"{what} in {kind.num:,} of {counted(self._num, 'output')} (id {first_of(kind.first, kind.num)}): {fix}"
            for (_, _, what, fix), kind in zip(_KINDS, self._found, strict=True)
            if kind.num
        ]
        return found + self._sameness()

    def _sameness(self) -> list[str]:
        if self._num < SAME_FROM:
            return []
        (_, text), num = self._texts.most_common(1)[0] if self._texts else ((0, ""), 0)
        if num <= SAME_SHARE * self._num:
            return []
        share = f"{num / self._num:.0%} of {self._num:,} outputs"
        why = "four even options give one letter a quarter: check the prompts and how the answers are read"
        return [f"{share} are '{quoted(text)}', more than {SAME_SHARE:.0%}: {why}"]


class _Kind:
    """The number of ids with a fault, and the smallest of them."""

    def __init__(self) -> None:
        self.num = 0
        self.first: list[int] = []

    def add(self, row_id: int) -> None:
        self.num += 1
        insort(self.first, row_id)
        del self.first[NUM_LISTED:]


def _is_empty(text: str) -> bool:
    return not text.strip()


def _is_accidental(text: str) -> bool:
    """Return whether a text has no SQuAD tokens and is not the answer `A`, which has none either."""
    if tokens(text[:_SHOWN_CHARS]):
        return False
    return bool(text.strip()) and not tokens(text) and _PUNCTUATION.sub("", text).lower() != "a"


def _has_look_alikes(text: str) -> bool:
    """Return whether a text consists of single letters, as in `А, C`, some of which only look like Latin ones."""
    letters = _PUNCTUATION.split(text.strip(string.punctuation + string.whitespace)) if len(text) <= _SHORT else []
    return all(len(letter) == 1 for letter in letters) and any(_looks_latin(letter) for letter in letters)


def _looks_latin(letter: str) -> bool:
    return letter.isalpha() and unicodedata.name(letter, "").startswith(_ALPHABETS)


def _has_thoughts(text: str) -> bool:
    return THOUGHTS.search(text) is not None


def _has_special_tokens(text: str) -> bool:
    return SPECIAL_TOKEN.search(text) is not None


def _is_long(text: str) -> bool:
    return len(text) > LONG_CHARS


_KINDS: tuple[tuple[bool, Callable[[str], bool], str, str], ...] = (
    (
        True,
        _is_empty,
        "no text",
        "an empty text matches the gold A and nothing else: the model may have written only reasoning, which "
        "reasoning_parser or the server took out, see the column reasoning, prompt.template_kwargs and max_gen_toks",
    ),
    (
        False,
        _is_accidental,
        "no word that counts",
        "they match the gold A, an article and so no word either, and nothing else: submit letters",
    ),
    (
        False,
        _has_look_alikes,
        "look-alikes of another alphabet (such as Cyrillic АВСЕНКМОРТХ) for letters",
        "they match no gold: write the Latin ones",
    ),
    (
        True,
        _has_thoughts,
        "reasoning (such as <think> or </think>)",
        "they are scored as the answer: give the reasoning_parser of the model, or cut them",
    ),
    (
        True,
        _has_special_tokens,
        "special tokens (such as <|im_end|>)",
        "they are scored as the answer: see the model's end-of-text ids, or generation.until",
    ),
    (
        False,
        _is_long,
        f"more than {LONG_CHARS:,} characters",
        "the gold is a few letters: submit them alone, as submission.mode=extracted does",
    ),
)
"""Each kind of fault: whether it is the response's even if other text is submitted, its test, its name, its fix."""
