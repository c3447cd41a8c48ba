"""The differences between the harness and us in one question, by field.

In: a `Pair` and the scores that our metrics give to the harness's own response. Out: `Difference`s. Fields:

    id                  only one side has the question, or the log repeats it
    doc.<name>          the data set's row, such as doc.inputs.option_a
    messages, prompt    the prompt, as messages or as rendered text
    generation.<name>   do_sample, until, max_gen_toks and the other arguments that the harness sent
    response            the scored text is not the model's response without leading white space
    em, f1              the same response has another score
    run.id, run.response   with run=: that run lacks the question, or its response differs
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.harness.log_lines import Logged
from pipeline.harness.normalize import flat_row, plain_messages, their_arguments
from pipeline.records import column

DIFFERENCE_SCHEMA = pa.schema(
    [
        column("task", pa.string(), "Name of the task.", nullable=False),
        column("id", pa.int64(), "The question's id in the data set.", nullable=False),
        column("field", pa.string(), "What differs.", nullable=False),
        column("theirs", pa.string(), "What the harness logged; null if it has nothing."),
        column("ours", pa.string(), "What this project has; null if it has nothing."),
    ]
)

EXTRACTED_SCHEMA = pa.schema(
    [
        column("task", pa.string(), "Name of the task.", nullable=False),
        column("id", pa.int64(), "The question's id in the data set.", nullable=False),
        column(
            "verdict",
            pa.string(),
            "`gained` if only the letters are correct, `lost` if only the exact match is, "
            "`read` if letters were read and the gold is hidden.",
            nullable=False,
        ),
        column("response", pa.string(), "The response that both sides score.", nullable=False),
        column("gold", pa.string(), "The correct answer; null if it is hidden."),
        column("answer", pa.string(), "The letters that were read from the response; null if no rule reads them."),
        column(
            "extraction",
            pa.string(),
            "The rule that read `answer`, or the reason why there is none.",
            nullable=False,
        ),
        column("em", pa.float64(), "Exact match, 0 or 1."),
        column("correct", pa.float64(), "1 if `answer` has the letters of the gold, 0 if not."),
    ]
)
"""A response whose extracted letters and exact match score it differently. `verdict` is that of `tally.verdict`, the
other columns are those of samples/."""

TOLERANCE = 1e-9
"""Maximum difference between two floating-point sums of the same formula."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Our row of a question: `doc` and `messages` as JSON, `prompt` None unless it is rendered."""

    id: int
    split: str
    doc: str
    messages: str
    prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A response of our run; `response` is None when the row failed."""

    id: int
    response: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides of a question, at least one of them present, and the response of our run if one is compared.

    `is_duplicate`: an earlier line of the log has the same question under the same filter.
    """

    theirs: Logged | None
    ours: Ours | None
    answered: Answered | None
    is_duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field of one question that differs. Columns: `DIFFERENCE_SCHEMA`; None where a side lacks the field."""

    id: int
    field: str
    theirs: str | None
    ours: str | None


def of_ids(pair: Pair) -> Iterator[Difference]:
    """Yield a difference if only one side has the question, and one if the log repeats it."""
    if pair.theirs is None:
        assert pair.ours is not None
        yield Difference(id=pair.ours.id, field="id", theirs=None, ours=str(pair.ours.id))
    elif pair.ours is None:
        yield Difference(id=pair.theirs.id, field="id", theirs=str(pair.theirs.id), ours=None)
    if pair.theirs is not None and pair.is_duplicate:
        yield Difference(id=pair.theirs.id, field="id", theirs=f"again in line {pair.theirs.line}", ours="one row")


def of_prompt(theirs: Logged, ours: Ours, generation: Mapping[str, str]) -> Iterator[Difference]:
    """Yield the differences in the request: the data set's row, the prompt and the generation arguments.

    Args:
        theirs: The log's side.
        ours: Our side.
        generation: Our arguments, from `normalize.our_arguments`.
    """
    yield from _each(ours.id, "doc", json.loads(theirs.doc), flat_row(json.loads(ours.doc)))
    if theirs.messages is not None:
        yield from _one(ours.id, "messages", theirs.messages, plain_messages(ours.messages))
    else:
        yield from _one(ours.id, "prompt", theirs.prompt, ours.prompt)
    yield from _each(ours.id, "generation", their_arguments(json.loads(theirs.arguments)), generation)


def of_scores(theirs: Logged, em: float | None, f1: float | None) -> Iterator[Difference]:
    """Yield the differences in the scored text and in its scores; `em` and `f1` are our scores of the same response."""
    yield from _one(theirs.id, "response", theirs.response, (theirs.content or "").lstrip())
    for name, value, own in (("em", theirs.em, em), ("f1", theirs.f1, f1)):
        if value is None or own is None or not math.isclose(value, own, rel_tol=0, abs_tol=TOLERANCE):
            yield Difference(id=theirs.id, field=name, theirs=_text(value), ours=_text(own))


def of_run(theirs: Logged, answered: Answered | None) -> Iterator[Difference]:
    """Yield the differences between the harness's response and that of our run."""
    if answered is None:
        yield Difference(id=theirs.id, field="run.id", theirs=_text(theirs.id), ours=None)
    else:
        yield from _one(theirs.id, "run.response", theirs.response, answered.response)


def _each(row_id: int, prefix: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> Iterator[Difference]:
    names: Iterable[str] = {**ours, **theirs}
    for name in names:
        yield from _one(row_id, f"{prefix}.{name}", theirs.get(name), ours.get(name))


def _one(row_id: int, field: str, theirs: str | None, ours: str | None) -> Iterator[Difference]:
    if theirs != ours:
        yield Difference(id=row_id, field=field, theirs=theirs, ours=ours)


def _text(value: float | None) -> str | None:
    return None if value is None else repr(value)
