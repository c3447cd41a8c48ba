"""What a row of a task must be, and the question that it asks.

In: a data set's row as a dict. Out: a `Question`, with the instruction filled in by the benchmark's rules. What is
wrong with a row here is wrong with the data set: it raises, and names the task, the split, the id and the mend.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import TaskConfig
from pipeline.errors import DataError
from pipeline.records import without_nulls
from pipeline.terminal.text import truncate


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A checked row: `text` is the filled instruction, `doc` the row as JSON, `gold` None when it is hidden."""

    task: str
    split: str
    id: int
    categories: dict[str, str]
    doc: str
    text: str
    gold: str | None


def read_question(name: str, task: TaskConfig, split: str, number: int, row: Mapping[str, Any]) -> Question:
    """Return the question of a data set's row.

    Args:
        name: The task's name.
        task: Its configuration.
        split: `train` or `test`.
        number: The row's place in the split, from 1; it names a row that has no id.
        row: `instruction`, `inputs`, `outputs` and `meta`; a None-valued key counts as absent, because Arrow gives
            every row the keys of all rows.

    Raises:
        DataError: A field is missing or of the wrong type, or the instruction cannot be filled in.
    """
    row = without_nulls(row)
    at = f"{name} {split} row {number}"
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
    outputs = _field(at, row, "outputs", str, 'the right answer as a text, or "" when it is hidden')
    categories = meta.get("categories", {})
    if not isinstance(categories, dict):
        raise DataError(f"{at}: meta.categories is {_as_text(categories)}: give an object of texts")
    text = fill(at, instruction, inputs, meta if "meta" in task.prompt_fields else {})
    return Question(
        task=name,
        split=split,
        id=row_id,
        categories={key: str(value) for key, value in categories.items()},
        doc=_json(at, row),
        text=text.strip() if task.strip else text,
        gold=outputs or None,
    )


def fill(at: str, instruction: str, inputs: Mapping[str, str], meta: Mapping[str, Any]) -> str:
    """Return `instruction.format(**inputs, **meta)` for plain placeholders; all others are refused.

    `str.format` would look into objects (`{x.attr}`, `{x[0]}`) and pad to any width (`{x:>999999999}`) at the word
    of a data set, which is input from outside.

    Raises:
        DataError: The instruction's braces, a placeholder, or a name that both `inputs` and `meta` have; `at` names
            the row.
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
        raise DataError(f"{at}: placeholder {{{truncate(name)}}} looks into a value: only plain names are filled in")
    if conversion or spec:
        placeholder = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        raise DataError(f"{at}: placeholder {{{truncate(placeholder)}}} has a format: only plain names are filled in")


def _field(at: str, row: Mapping[str, Any], key: str, kind: type, fix: str) -> Any:
    value = row.get(key)
    if value is None:
        raise DataError(f"{at}: {key} is missing: give {fix}")
    if not isinstance(value, kind):
        raise DataError(f"{at}: {key} is {_as_text(value)}: give {fix}")
    return value


def _json(at: str, row: Mapping[str, Any]) -> str:
    """Return the row as JSON that can be stored as UTF-8; what JSON has no form for is written as text."""
    doc = json.dumps(row, ensure_ascii=False, default=str)
    try:
        doc.encode("utf-8")
    except UnicodeEncodeError as error:
        broken = ascii(doc[error.start])
        raise DataError(f"{at}: {broken} is half of a character (a lone surrogate): mend or drop it") from error
    return doc


def _as_text(value: object) -> str:
    return "missing" if value is None else truncate(repr(value))
