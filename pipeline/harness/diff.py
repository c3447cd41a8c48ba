"""One question of the harness against ours: every difference by name, and what our extraction reads in its response.

In: a `Pair` and the scores that our metrics give to the harness's own response. Out: `Difference`s. Fields:

    id                  a question that only one side has, or that the log has twice
    doc.<name>          the data set's row, such as doc.inputs.option_a
    messages, prompt    what the model was asked, as messages or as rendered text
    generation.<name>   do_sample, until, max_gen_toks and what else the harness sent
    response            what was scored is not the answer without leading white space
    em, f1              the same response has another value
    run.id, run.response   with run=: a run of ours lacks the question, or answered otherwise
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipeline.harness.log_lines import Logged
from pipeline.harness.normalize import flat_row, plain_messages, their_arguments

DIFFERENCE_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("theirs", pa.string()),
        pa.field("ours", pa.string()),
    ]
)

EXTRACTED_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("gold", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("extraction", pa.string(), nullable=False),
        pa.field("em", pa.float64()),
        pa.field("correct", pa.float64()),
    ]
)
"""A response that its letters judge otherwise than its exact match does: `verdict` is `tally.verdict`'s, the others are
columns of samples/."""

TOLERANCE = 1e-9
"""How far two floating-point sums of one formula may be apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Our row of a question: `doc` and `messages` as JSON, `prompt` None unless it was rendered."""

    id: int
    split: str
    doc: str
    messages: str
    prompt: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a run of ours answered; `response` is None when the row failed."""

    id: int
    response: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A question's two sides, at least one of them there, and the answer of the run that is compared.

    `is_duplicate`: an earlier line of the log has the same question under the same filter.
    """

    theirs: Logged | None
    ours: Ours | None
    answered: Answered | None
    is_duplicate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field of one question that differs. Columns: `DIFFERENCE_SCHEMA`; None: this side has no such thing."""

    id: int
    field: str
    theirs: str | None
    ours: str | None


def of_ids(pair: Pair) -> Iterator[Difference]:
    """Yield that only one side has the question, or that the log has it again."""
    if pair.theirs is None:
        assert pair.ours is not None
        yield Difference(id=pair.ours.id, field="id", theirs=None, ours=str(pair.ours.id))
    elif pair.ours is None:
        yield Difference(id=pair.theirs.id, field="id", theirs=str(pair.theirs.id), ours=None)
    if pair.theirs is not None and pair.is_duplicate:
        yield Difference(id=pair.theirs.id, field="id", theirs=f"again in line {pair.theirs.line}", ours="one row")


def of_prompt(theirs: Logged, ours: Ours, generation: Mapping[str, str]) -> Iterator[Difference]:
    """Yield what differs before a model is asked: the row, the prompt, the arguments.

    Args:
        theirs: The log's side.
        ours: Our side.
        generation: Our arguments, from `forms.our_arguments`.
    """
    yield from _each(ours.id, "doc", json.loads(theirs.doc), flat_row(json.loads(ours.doc)))
    if theirs.messages is not None:
        yield from _one(ours.id, "messages", theirs.messages, plain_messages(ours.messages))
    else:
        yield from _one(ours.id, "prompt", theirs.prompt, ours.prompt)
    yield from _each(ours.id, "generation", their_arguments(json.loads(theirs.arguments)), generation)


def of_scores(theirs: Logged, em: float | None, f1: float | None) -> Iterator[Difference]:
    """Yield what differs in what was scored and in its values; `em` and `f1` are ours of the same response."""
    yield from _one(theirs.id, "response", theirs.response, (theirs.content or "").lstrip())
    for name, value, own in (("em", theirs.em, em), ("f1", theirs.f1, f1)):
        if value is None or own is None or not math.isclose(value, own, rel_tol=0, abs_tol=TOLERANCE):
            yield Difference(id=theirs.id, field=name, theirs=_text(value), ours=_text(own))


def of_run(theirs: Logged, answered: Answered | None) -> Iterator[Difference]:
    """Yield how a run of ours differs from the harness's."""
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
