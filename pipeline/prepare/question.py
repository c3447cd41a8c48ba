"""Validates a row of a data set and fills in its question.

`read_question` takes a row as a dict and returns a `Question`, with the instruction filled in by the benchmark's rules.
An invalid row is an error of the data set: it raises `DataError` with the task, the split, the id and the fix.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.errors import DataError
from pipeline.records import without_nulls
from pipeline.terminal.text import listed, one_line, truncate

LAYOUT = {
    "instruction": "a prompt with {placeholders}",
    "inputs": "an object of texts that fill them",
    "outputs": 'the right answer, or "" when it is hidden',
    "meta": "an object with an integer id",
}
"""The fields of a row, with what they hold."""

MOST_LISTED = 8
"""Maximum number of a row's own fields that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A validated row: `text` is the filled instruction, `doc` the row as JSON, `gold` None when it is hidden."""

    task: str
    split: str
    id: int
    categories: dict[str, str]
    doc: str
    text: str
    gold: str | None


def read_question(name: str, task: TaskConfig, split: str, number: int, row: Mapping[str, Any]) -> Question:
    """Return the question of a row.

    Args:
        name: The task's name.
        task: Its configuration.
        split: `train` or `test`.
        number: The row's position in the split, from 1; messages use it for a row without an id.
        row: `instruction`, `inputs`, `outputs` and `meta`. A key with the value None counts as absent, because Arrow
            adds the keys of all rows to every row; but `outputs` that are None are hidden ones.

    Raises:
        DataError: A field is missing or of the wrong type, or the instruction cannot be filled in.
    """
    at = f"{name} {split} row {number}"
    is_hidden = "outputs" in row and row["outputs"] is None
    try:
        row = without_nulls(row) | ({"outputs": ""} if is_hidden else {})
    except RecursionError as error:
        raise DataError(f"{at} is nested too deep: give a flat object") from error
    _require_layout(at, row)
    meta = _field(at, row, "meta", dict, "an object with the row's id")
    row_id = meta.get("id")
    if isinstance(row_id, bool) or not isinstance(row_id, int) or not -(2**63) <= row_id < 2**63:
        raise DataError(f"{at}: meta.id is {_as_text(row_id)}: give an integer of 64 bits that is unique in the task")
    at = f"{name} {split} id={row_id}"
    instruction = _field(at, row, "instruction", str, "a text with {placeholders}")
    inputs = _field(at, row, "inputs", dict, "an object of texts")
    for key, value in inputs.items():
        if not isinstance(value, str):
            raise DataError(f"{at}: inputs.{key} is {_as_text(value)}: give a text")
    outputs = _field(at, row, "outputs", str, 'the right answer as a text; "" or null when it is hidden')
    categories = meta.get("categories", {})
    if not isinstance(categories, dict):
        raise DataError(f"{at}: meta.categories is {_as_text(categories)}: give an object of texts")
    for key, value in categories.items():
        if not isinstance(value, (str, int)) and not (isinstance(value, float) and math.isfinite(value)):
            raise DataError(f"{at}: meta.categories.{truncate(str(key))} is {_as_text(value)}: give a text")
    text = fill(at, instruction, inputs, meta if "meta" in task.prompt_fields else {})
    if not text.strip():
        raise DataError(f"{at}: the question is empty: give an instruction with text or {{placeholders}}")
    return Question(
        task=name,
        split=split,
        id=row_id,
        categories={key: str(value) for key, value in categories.items()},
        doc=_json(at, row),
        text=text.strip() if task.strip else text,
        gold=outputs if outputs.strip() else None,
    )


def fill(at: str, instruction: str, inputs: Mapping[str, str], meta: Mapping[str, Any]) -> str:
    """Return `instruction.format(**inputs, **meta)` for plain placeholders; all others are rejected.

    A data set is untrusted input: `str.format` would let it access attributes and items (`{x.attr}`, `{x[0]}`) and pad
    to any width (`{x:>999999999}`).

    Raises:
        DataError: The braces are unbalanced, a placeholder is not plain or is unknown, or `inputs` and `meta` share a
            name. The message begins with `at`, which names the row.
    """
    both = sorted(inputs.keys() & meta.keys())
    if both:
        raise DataError(f"{at}: inputs and meta both have {both[0]!r}: rename one of them")
    values = {**meta, **inputs}
    try:
        pieces = list(string.Formatter().parse(instruction))
    except ValueError as error:
        raise DataError(f"{at}: instruction has unbalanced braces ({error}): double those that are text") from error
    parts: list[str] = []
    for literal, name, spec, conversion in pieces:
        parts.append(literal)
        if name is not None:
            _check_placeholder(at, name, spec or "", conversion)
            if name not in values:
                known = ", ".join(sorted(values)) or "none"
                raise DataError(f"{at}: placeholder {{{truncate(name)}}} is unknown: the row has {known}")
            parts.append(str(values[name]))
    return "".join(parts)


def _check_placeholder(at: str, name: str, spec: str, conversion: str | None) -> None:
    if not name or name.isdecimal():
        raise DataError(f"{at}: placeholder {{{truncate(name)}}} is positional: give the name of an input")
    if "." in name or "[" in name:
        raise DataError(f"{at}: placeholder {{{truncate(name)}}} reads into a value: only plain names are filled in")
    if conversion or spec:
        placeholder = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        raise DataError(f"{at}: placeholder {{{truncate(placeholder)}}} has a format: only plain names are filled in")


def _require_layout(at: str, row: Mapping[str, Any]) -> None:
    """Check that a row has a field of the benchmark's layout, so that a data set of another layout is found at once.

    Raises:
        DataError: It has none; the message names the row's own fields and those that it needs.
    """
    if row and not row.keys() & LAYOUT.keys():
        own = listed([truncate(str(name)) for name in list(row)[:MOST_LISTED]], len(row))
        needed = ", ".join(f"{name} ({what})" for name, what in LAYOUT.items())
        raise DataError(
            f"{at} has the fields {own}, and none of the benchmark's layout: write {needed}; docs/add-a-task.md "
            "converts a data set with other fields"
        )


def _field(at: str, row: Mapping[str, Any], key: str, kind: type, fix: str) -> Any:
    value = row.get(key)
    if value is None:
        raise DataError(f"{at}: {key} is missing: give {fix}")
    if not isinstance(value, kind):
        raise DataError(f"{at}: {key} is {_as_text(value)}: give {fix}")
    return value


def _json(at: str, row: Mapping[str, Any]) -> str:
    """Return the row as JSON that can be encoded as UTF-8; values that JSON cannot represent become strings.

    Raises:
        DataError: The row contains a lone surrogate, NaN or an infinite number, or is nested too deep.
    """
    try:
        doc = json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
    except (ValueError, RecursionError, TypeError) as error:
        raise DataError(
            f"{at} cannot be written as JSON ({one_line(str(error), 200)}): correct or drop the value"
        ) from error
    try:
        doc.encode("utf-8")
    except UnicodeEncodeError as error:
        broken = ascii(doc[error.start])
        raise DataError(f"{at}: {broken} is half of a character (a lone surrogate): correct or drop it") from error
    return doc


def _as_text(value: object) -> str:
    return "missing" if value is None else truncate(repr(value))
