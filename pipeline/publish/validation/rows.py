"""The rows of one task's file: a parsed list in, what the server refuses in it and what is suspicious out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

from pipeline.publish.validation.findings import NUM_SHOWN, Finding, first_of
from pipeline.publish.validation.warnings import answer_warnings
from pipeline.terminal.text import counted

_ROW = '{"outputs": "B", "meta": {"id": 1}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A task that an archive must hold: its file, and the ids of its test rows, None when they could not be had."""

    task: str
    file: str
    ids: frozenset[int] | None


class AnswerRows:
    """The rows of one file: `ids` that are there, `outputs` by id with the last of duplicates, and what is wrong."""

    def __init__(self, rows: list[Any]) -> None:
        self.ids: set[int] = set()
        self.outputs: dict[int, str] = {}
        self._num_rows = len(rows)
        self._wrong = _Tally()
        self._repeated = _Tally()
        for number, row in enumerate(rows, start=1):
            self._read(number, row)

    def findings(self, task: Expected) -> Iterator[Finding]:
        """Yield what there is to say of the rows."""
        rows = counted(self._num_rows, "row")
        for what, num, where in self._wrong.lines():
            yield Finding("refused", task.file, f"{what} in {num:,} of {rows} ({where}): a row is {_ROW}")
        if task.ids is not None:
            yield from self._compared(task.file, task.ids)
        for what, num, where in self._repeated.lines():
            line = f"{what} in {num:,} of {rows} ({where}): the last one wins: keep one row an id"
            yield Finding("warning", task.file, line)
        for line in answer_warnings(self.outputs):
            yield Finding("warning", task.file, line)

    def _compared(self, file: str, ids: frozenset[int]) -> Iterator[Finding]:
        """Yield how the ids stand against the data set's."""
        missing, unknown = ids - self.ids, self.ids - ids
        if missing:
            first = first_of(nsmallest(NUM_SHOWN, missing), len(missing))
            what = f"no row for {len(missing):,} of {counted(len(ids), 'id')} of the test split ({first})"
            yield Finding("refused", file, f"{what}: one missing id fails the task: answer all and pack again")
        if unknown:
            first = first_of(nsmallest(NUM_SHOWN, unknown), len(unknown))
            what = f"no question of the test split for {len(unknown):,} of {counted(len(self.ids), 'id')} ({first})"
            yield Finding(
                "warning", file, f"{what}: leave them out, or give the revision of the data set that has them"
            )

    def _read(self, number: int, row: Any) -> None:
        row_id = _id(row)
        where = f"row {number}" if row_id is None else f"id {row_id}"
        faults = _faults(row)
        for what in faults:
            self._wrong.add(what, where)
        if row_id is None:
            return
        text = None if faults else row["outputs"]
        if row_id in self.ids:
            same = text is not None and self.outputs.get(row_id) == text
            self._repeated.add(f"a repeated id with {'the same' if same else 'other'} outputs", where)
        self.ids.add(row_id)
        if text is not None:
            self.outputs[row_id] = text


class _Tally:
    """How often something was met, and where first."""

    def __init__(self) -> None:
        self._nums: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, what: str, where: str) -> None:
        self._nums[what] += 1
        first = self._first.setdefault(what, [])
        if len(first) < NUM_SHOWN:
            first.append(where)

    def lines(self) -> Iterator[tuple[str, int, str]]:
        """Yield what was met, how often, and where."""
        for what, num in self._nums.items():
            yield what, num, first_of(self._first[what], num)


def _id(row: Any) -> int | None:
    """Return a row's id, or None when it has none that is an integer."""
    meta = row.get("meta") if isinstance(row, dict) else None
    row_id = meta.get("id") if isinstance(meta, dict) else None
    return row_id if isinstance(row_id, int) and not isinstance(row_id, bool) else None


def _faults(row: Any) -> list[str]:
    """Return what the server refuses a row for."""
    if not isinstance(row, dict):
        return ["no object but " + kind(row)]
    found = []
    if "outputs" not in row:
        found.append('no "outputs"')
    elif not isinstance(row["outputs"], str):
        found.append(f"outputs that are {kind(row['outputs'])}, not a text,")
    meta = row.get("meta")
    if not isinstance(meta, dict):
        found.append('no "meta"')
    elif "id" not in meta:
        found.append('no "id" in "meta"')
    elif _id(row) is None:
        found.append(f"an id that is {kind(meta['id'])}, not an integer,")
    return found


def kind(value: Any) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
