"""A batch of joined rows in, the same rows with their scores out, with `SAMPLE_SCHEMA`.

Failed rows and rows with a hidden gold have null scores, never 0. Every other row is scored, truncated or not, so a
missing answer counts as wrong.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pipeline import records
from pipeline.metrics.names import SAMPLE_METRICS
from pipeline.metrics.squad import exact_match, f1, tokens
from pipeline.records import SAMPLE_SCHEMA
from pipeline.score.extraction import FAILED, NO_LETTER, Extraction, extract, format_letters, free_text
from pipeline.score.letters.option_letters import Letters, pure_letters

SCORE_COLUMNS = ("response", "answer", "extraction", "seen_letters", *SAMPLE_METRICS)
QUESTION_COLUMNS = ("instruction", "num_options", "answer_kind")
"""With `SCORE_COLUMNS`, the columns of a sample computed here; all others come from the prompt and the completion."""

MOST_OPTIONS = "ABCDEFGH"
"""Letters assumed for a question whose row has no options: the benchmark's questions have up to 8."""

_SHORT = 64
"""Length up to which a response is likely to recur, so its scores are cached."""


_OPTIONS = re.compile(r"\{option_[a-z]\}.*\{option_[a-z]\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one row. `em`, `f1` and `correct` are from 0.0 to 1.0, or None where there is nothing to score."""

    response: str | None
    answer: str | None
    extraction: str
    seen_letters: str | None
    em: float | None
    f1: float | None
    correct: float | None


@dataclass(frozen=True, slots=True)
class QuestionInfo:
    """Properties of a question, read from its data set row.

    `options` is the letters of its options, such as `ABCD`. `num_options` is their number and `instruction` the name of
    its wording; None where the row lacks them.
    """

    options: str
    num_options: int | None
    instruction: str | None


_FAILED_ROW = Scores(None, None, FAILED, None, None, None, None)


def score_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the samples of a batch.

    Args:
        batch: The columns of `SAMPLE_SCHEMA` except `SCORE_COLUMNS` and `QUESTION_COLUMNS`, and `content` and `doc`;
            unmodified.
    """
    read = (batch.column(name).to_pylist() for name in ("content", "gold", "doc", "finish_reason", "error"))
    made: dict[str, list[Any]] = {name: [] for name in SCORE_COLUMNS + QUESTION_COLUMNS}
    for content, gold, doc, finish_reason, error in zip(*read, strict=True):
        question = read_doc(doc)
        row = _FAILED_ROW
        if error is None:
            truncated, has_options = finish_reason == "length", question.num_options is not None
            row = score_row(content, gold, question.options, truncated=truncated, has_options=has_options)
        for name in SCORE_COLUMNS:
            made[name].append(getattr(row, name))
        made["instruction"].append(question.instruction)
        made["num_options"].append(question.num_options)
        made["answer_kind"].append(answer_kind(gold, question.options))
    columns = [
        pa.array(made[field.name], field.type) if field.name in made else batch.column(field.name).cast(field.type)
        for field in SAMPLE_SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SAMPLE_SCHEMA)


def score_row(
    content: str | None, gold: str | None, options: str, *, truncated: bool, has_options: bool = True
) -> Scores:
    """Return the scores of a row that did not fail.

    A question without options whose gold is no letters is free-form: its answer is the text of the response.

    Args:
        content: The completion after the reasoning parser; None when the reasoning was never closed, and then the
            leaderboard receives an empty response.
        gold: The correct answer, or None when it is hidden.
        options: The letters of the question's options.
        truncated: The completion ended at the token limit.
        has_options: Whether the question's row has options, and `options` is not just assumed.
    """
    response = (content or "").lstrip()
    if len(response) <= _SHORT:
        return _short_response(response, gold, options, truncated, has_options)
    return _score(response, gold, options, truncated, has_options)


@lru_cache(maxsize=1)  # the repeats of a question are consecutive
def read_doc(doc: str) -> QuestionInfo:
    """Return the properties of a question from its row as JSON; its options are the inputs `option_a` ... with text.

    Raises:
        DataError: It is not a JSON object.
    """
    row = records.read_doc(doc)
    inputs, instruction = row.get("inputs"), row.get("instruction")
    name = wording_name(instruction) if isinstance(instruction, str) else None
    named = inputs.items() if isinstance(inputs, dict) else ()
    offered = ((key.removeprefix("option_"), text) for key, text in named if key.startswith("option_"))
    letters = {key.upper() for key, text in offered if len(key) == 1 and text is not None and str(text).strip()}
    if not letters:
        return QuestionInfo(MOST_OPTIONS, None, name)
    return QuestionInfo("".join(sorted(letters)), len(letters), name)


@lru_cache(maxsize=2**12)
def answer_kind(gold: str | None, options: str) -> str | None:
    """Return `single` or `multiple` for the number of correct letters; None if the gold is hidden or not letters."""
    letters = _letters_of_gold(gold, options) if gold is not None else None
    if letters is None:
        return None
    return "single" if len(letters) == 1 else "multiple"


@lru_cache(maxsize=2**12)
def _letters_of_gold(gold: str, options: str) -> Letters | None:
    letters = pure_letters(gold, options)
    return letters if letters is not None and letters <= set(options) else None


@lru_cache(maxsize=2**12)
def wording_name(instruction: str) -> str:
    """Return the first 8 hexadecimal digits of the SHA-256 of an instruction template.

    Everything from the first option's placeholder to the last one's is replaced by `{options}`: a template lists as
    many options as its row has, and templates that differ only in this number are one wording.
    """
    return hashlib.sha256(_OPTIONS.sub("{options}", instruction).encode(errors="replace")).hexdigest()[:8]


def _score(response: str, gold: str | None, options: str, truncated: bool, has_options: bool) -> Scores:
    found = _extracted(response, gold, options, truncated, has_options)
    if gold is None:
        return Scores(response, found.answer, found.rule, found.seen, None, None, None)
    right, response_tokens = tokens(gold), tokens(response)
    letters = _letters_of_gold(gold, options)
    correct = None if letters is None else float(found.answer == format_letters(letters))
    em, overlap = exact_match(right, response_tokens), f1(right, response_tokens)
    return Scores(response, found.answer, found.rule, found.seen, em, overlap, correct)


def _extracted(response: str, gold: str | None, options: str, truncated: bool, has_options: bool) -> Extraction:
    """Return the letters of a response or, of a free-form question, its text.

    Without options and with a hidden gold it is not known whether letters are expected: they are read where they are.
    """
    is_free_form = not has_options and gold is not None and _letters_of_gold(gold, options) is None
    found = Extraction(None, NO_LETTER) if is_free_form else extract(response, options, truncated=truncated)
    may_be_free_form = is_free_form or (not has_options and gold is None and found.rule == NO_LETTER)
    return free_text(response, truncated=truncated) if may_be_free_form else found


_short_response = lru_cache(maxsize=2**16)(_score)
