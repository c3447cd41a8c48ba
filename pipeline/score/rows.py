"""One batch of joined rows in, the same rows with their scores out: columns as `SAMPLE_SCHEMA` has them.

A failed row and a hidden gold have null scores, never 0. A row that was answered, or cut off, and has a gold is
scored, so that no answer counts as a wrong one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from pipeline.records import SAMPLE_SCHEMA
from pipeline.score.extract import FAILED, extract, format_letters
from pipeline.score.letters import pure_letters
from pipeline.squad import exact_match, f1, tokens

SCORE_COLUMNS = ("response", "answer", "extraction", "em", "f1", "correct")
"""The columns of a sample that are made here; all others come from the prompt and the completion."""

MOST_OPTIONS = "ABCDEFGH"
"""Letters of a question whose row does not say what its options are: the benchmark's questions have up to 8."""

_SHORT = 64
"""Characters up to which a response is likely to come again, so that its scores are worth remembering."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What one row scored. `em`, `f1` and `correct` are from 0.0 to 1.0, or None where there is nothing to score."""

    response: str | None
    answer: str | None
    extraction: str
    em: float | None
    f1: float | None
    correct: float | None


_FAILED_ROW = Scores(None, None, FAILED, None, None, None)


def score_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the samples of a batch.

    Args:
        batch: The columns of `SAMPLE_SCHEMA` except `SCORE_COLUMNS`, and `content` and `doc`; all are read as they are.
    """
    read = (batch.column(name).to_pylist() for name in ("content", "gold", "doc", "finish_reason", "error"))
    scores = [
        score_row(content, gold, options_of(doc), truncated=finish_reason == "length") if error is None else _FAILED_ROW
        for content, gold, doc, finish_reason, error in zip(*read, strict=True)
    ]
    columns = [
        pa.array([getattr(row, field.name) for row in scores], field.type)
        if field.name in SCORE_COLUMNS
        else batch.column(field.name)
        for field in SAMPLE_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SAMPLE_SCHEMA)


def score_row(content: str | None, gold: str | None, options: str, *, truncated: bool) -> Scores:
    """Return the scores of a row that did not fail.

    Args:
        content: The completion after the reasoning parser; None when the thoughts never closed, and then the
            leaderboard receives an empty response.
        gold: The right answer, or None when it is hidden.
        options: The letters that the question offers.
        truncated: The completion ended at the token limit.
    """
    response = (content or "").lstrip()
    if len(response) <= _SHORT:
        return _short_response(response, gold, options, truncated)
    return _score(response, gold, options, truncated)


@lru_cache(maxsize=1)  # the repeats of a question follow each other
def options_of(doc: str) -> str:
    """Return the letters of a data set's row, such as `ABCD`: its inputs `option_a`, `option_b`, ... that hold text."""
    inputs = json.loads(doc).get("inputs")
    if not isinstance(inputs, dict):
        return MOST_OPTIONS
    named = ((name.removeprefix("option_"), text) for name, text in inputs.items() if name.startswith("option_"))
    letters = {name.upper() for name, text in named if len(name) == 1 and text is not None and str(text).strip()}
    return "".join(sorted(letters)) or MOST_OPTIONS


def _score(response: str, gold: str | None, options: str, truncated: bool) -> Scores:
    found = extract(response, options, truncated=truncated)
    if gold is None:
        return Scores(response, found.answer, found.rule, None, None, None)
    right, given = tokens(gold), tokens(response)
    letters = pure_letters(gold, options)
    correct = None if letters is None else float(found.answer == format_letters(letters))
    return Scores(response, found.answer, found.rule, exact_match(right, given), f1(right, given), correct)


_short_response = lru_cache(maxsize=2**16)(_score)
