"""Warnings about answers that the server accepts but their author did not intend: outputs by id in, lines out.

Each of them loses points, or wins points by accident; none is a reason for a refusal.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping

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

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}\\s]+")
_CYRILLIC = frozenset("АВСЕНКМОРТХавсенкмортх")
_SHORT = 64


def answer_warnings(outputs: Mapping[int, str]) -> list[str]:
    """Return the warnings about a task's outputs, a line each, with the number of ids and the first few."""
    accidental = [row_id for row_id, text in outputs.items() if _is_accidental(text)]
    cyrillic = [row_id for row_id, text in outputs.items() if _has_look_alikes(text)]
    thinking = [row_id for row_id, text in outputs.items() if "<think>" in text or "</think>" in text]
    long = [row_id for row_id, text in outputs.items() if len(text) > LONG_CHARS]
    kinds = (
        (
            accidental,
            "no word that counts",
            "they match the gold A, an article and so no word either, and nothing else: submit letters",
        ),
        (
            cyrillic,
            "Cyrillic look-alikes (АВСЕНКМОРТХ) for letters",
            "they match no gold: write the Latin ones",
        ),
        (
            thinking,
            "<think> or </think>",
            "the thoughts are scored as the answer: give the reasoning_parser of the model, or cut them",
        ),
        (
            long,
            f"more than {LONG_CHARS:,} characters",
            "the gold is a few letters: submit them alone, as submission.mode=extracted does",
        ),
    )
    return [_line(ids, len(outputs), what, fix) for ids, what, fix in kinds if ids] + _sameness(outputs)


def _line(ids: list[int], num_outputs: int, what: str, fix: str) -> str:
    first = first_of(sorted(ids)[:NUM_LISTED], len(ids))
    return f"{what} in {len(ids):,} of {counted(num_outputs, 'output')} (id {first}): {fix}"


def _is_accidental(text: str) -> bool:
    """Return whether a text has no SQuAD tokens and is not the answer `A`, which has none either."""
    return not tokens(text) and _PUNCTUATION.sub("", text).lower() != "a"


def _has_look_alikes(text: str) -> bool:
    """Return whether a text consists of single letters, as in `А, C`, some of which are Cyrillic."""
    letters = _PUNCTUATION.split(text.strip(string.punctuation + string.whitespace)) if len(text) <= _SHORT else []
    return all(len(letter) == 1 for letter in letters) and any(letter in _CYRILLIC for letter in letters)


def _sameness(outputs: Mapping[int, str]) -> list[str]:
    counts = Counter(text.strip() for text in outputs.values())
    if len(outputs) < SAME_FROM:
        return []
    text, num = counts.most_common(1)[0]
    if num <= SAME_SHARE * len(outputs):
        return []
    share = f"{num / len(outputs):.0%} of {len(outputs):,} outputs"
    why = "four even options give one letter a quarter: look at the prompts and at how the answers are read"
    return [f"{share} are '{quoted(text)}', more than {SAME_SHARE:.0%}: {why}"]
