"""What the server takes and an author did not mean: outputs by id in, a line a suspicion out.

None of these is a refusal, each costs points or wins them by accident.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping

from pipeline.metrics.squad import tokens
from pipeline.publish.validation.findings import NUM_SHOWN, first_of, quoted
from pipeline.terminal.text import counted

SAME_SHARE = 0.5
SAME_FROM = 20
"""Share of one answer above which a task is suspicious, and from how many answers on. The questions have four options
or more, so an even spread gives each letter a quarter at most; twice that by chance has odds of 1 to 250 among 20
answers, and next to none among a task's thousands."""

LONG_CHARS = 2_000
"""Characters beyond which an output is no answer in letters any more: about 500 tokens of Russian."""

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}\\s]+")
_CYRILLIC = frozenset("АВСЕНКМОРТХавсенкмортх")
_SHORT = 64


def answer_warnings(outputs: Mapping[int, str]) -> list[str]:
    """Return a line for each suspicion about a task's outputs, with the number of ids and the first few."""
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
    first = first_of(sorted(ids)[:NUM_SHOWN], len(ids))
    return f"{what} in {len(ids):,} of {counted(num_outputs, 'output')} (id {first}): {fix}"


def _is_accidental(text: str) -> bool:
    """Whether SQuAD's tokens of a text are none although it is not the answer `A`, which has none either."""
    return not tokens(text) and _PUNCTUATION.sub("", text).lower() != "a"


def _has_look_alikes(text: str) -> bool:
    """Whether a text is nothing but single letters, as in `А, C`, and some are Cyrillic."""
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
