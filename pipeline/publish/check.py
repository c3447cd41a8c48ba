"""The leaderboard's checks, played over an archive from anywhere: ours, the harness's, or a hostile one.

In: a zip, the files that the configuration's tasks have in it, and the ids of their test rows. Out: findings, a line
each. `refused` is what the server refuses: a zip that cannot be read, a task that is missing or has another extension,
no `data`, no `test`, a row without outputs, meta or id, outputs that are no text, an id that is missing. Of duplicates
of an id the last wins and unknown files are ignored: these are told as warnings, and so is what
`pipeline/publish/suspicions.py` finds in the answers. One task's file is in memory at a time.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import IO, Any

from pipeline.publish.archive import Archive, BadArchive, BadMember
from pipeline.publish.findings import NUM_SHOWN, Finding, listed, shown
from pipeline.publish.suspicions import suspicions

LOGS = "logs_public.zip"

_MOST_LOG_BYTES = 4 << 30
_SPOOLED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A task that an archive must hold: its file, and the ids of its test rows, None when they could not be had."""

    task: str
    file: str
    ids: frozenset[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found, and how much there was: files of tasks, and different ids in them."""

    findings: list[Finding]
    num_tasks: int
    num_answers: int

    @property
    def num_refusals(self) -> int:
        """For how many reasons the server would refuse the archive."""
        return sum(finding.level == "refused" for finding in self.findings)


def check(name: str, stream: IO[bytes], expected: list[Expected]) -> Report:
    """Return what there is to say of an archive.

    Args:
        name: The archive's file name.
        stream: Its bytes, seekable.
        expected: The tasks that it must hold.
    """
    findings: list[Finding] = []
    if not name.endswith(".zip"):
        findings.append(Finding("refused", name, "wrong extension: the server takes a .zip"))
    try:
        archive = Archive(stream)
    except BadArchive as error:
        refusal = Finding("refused", name, str(error))
        return Report(findings=[*findings, refusal], num_tasks=0, num_answers=0)
    findings += _members(name, archive, {*(task.file for task in expected), LOGS})
    num_tasks = num_answers = 0
    for task in expected:
        try:
            rows = _Rows(_unpack(archive, task.file))
        except BadMember as error:
            findings.append(Finding("refused", task.file, str(error)))
            continue
        findings += rows.findings(task)
        num_tasks, num_answers = num_tasks + 1, num_answers + len(rows.ids)
    findings += _logs(archive, expected)
    return Report(findings=findings, num_tasks=num_tasks, num_answers=num_answers)


def _members(name: str, archive: Archive, known: set[str]) -> Iterator[Finding]:
    """Yield what the list of members shows."""
    for member in islice((member for member in archive.members if archive.suspicions(member)), NUM_SHOWN):
        yield Finding("warning", member, "; ".join(archive.suspicions(member)))
    for member in archive.repeated[:NUM_SHOWN]:
        yield Finding("warning", member, "the archive holds this name more than once: the last one is read")
    unknown = sorted(archive.members.keys() - known)
    if unknown:
        yield Finding("warning", name, f"{len(unknown)} files of no task here are ignored: {listed(unknown)}")


def _missing(archive: Archive, file: str) -> str:
    """Return that a task's file is missing, with what its author may have meant."""
    stem = file.removesuffix(".json").lower()
    for member in archive.members:
        folder, _, last = member.replace("\\", "/").rpartition("/")
        if last == file:
            return f"missing at the archive's root: it lies in {shown(folder)!r}"
        if last.lower() == file.lower():
            return f"missing: {shown(member)!r} is written in other letters"
        if last.lower().partition(".")[0] == stem:
            return f"missing: {shown(member)!r} has the wrong extension, it must be .json"
    return "missing"


def _unpack(archive: Archive, file: str) -> list[Any]:
    """Return the rows of a task's file.

    Raises:
        BadMember: It is missing, is no JSON, or is not laid out as the server reads it.
    """
    if file not in archive.members:
        raise BadMember(_missing(archive, file))
    try:
        whole = json.loads(archive.read(file).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadMember(f"is not UTF-8: byte {error.start} cannot be read") from error
    except RecursionError as error:
        raise BadMember("is no JSON that can be read: it is nested too deeply") from error
    except ValueError as error:
        raise BadMember(f"is no JSON that can be read ({str(error)[:120]})") from error
    if not isinstance(whole, dict) or "data" not in whole:
        raise BadMember('has no "data": it must be {"data": {"test": [...]}}')
    data = whole["data"]
    if not isinstance(data, dict) or "test" not in data:
        raise BadMember('has no split "test" in "data": it must be {"data": {"test": [...]}}')
    if not isinstance(data["test"], list):
        raise BadMember(f'its "test" is {_kind(data["test"])}, not a list of rows')
    return data["test"]


class _Rows:
    """The rows of one file: `ids` that are there, `outputs` by id with the last of duplicates, and what is wrong."""

    def __init__(self, rows: list[Any]) -> None:
        self.ids: set[int] = set()
        self.outputs: dict[int, str] = {}
        self._wrong = _Tally()
        self._repeated = _Tally()
        for number, row in enumerate(rows, start=1):
            self._read(number, row)

    def findings(self, task: Expected) -> Iterator[Finding]:
        """Yield what there is to say of the rows."""
        for what, num, where in self._wrong.lines():
            yield Finding("refused", task.file, f"{num:,} rows {what}: {where}")
        if task.ids is not None:
            yield from self._compared(task.file, task.ids)
        for what, num, where in self._repeated.lines():
            yield Finding("warning", task.file, f"{num:,} rows repeat an id {what}, the last wins: {where}")
        for line in suspicions(self.outputs):
            yield Finding("warning", task.file, line)

    def _compared(self, file: str, ids: frozenset[int]) -> Iterator[Finding]:
        """Yield how the ids stand against the data set's."""
        missing, unknown = ids - self.ids, self.ids - ids
        if missing:
            first = listed(nsmallest(NUM_SHOWN, missing), len(missing))
            what = f"{len(missing):,} of {len(ids):,} ids are missing, and one missing id fails the task: {first}"
            yield Finding("refused", file, what)
        if unknown:
            first = listed(nsmallest(NUM_SHOWN, unknown), len(unknown))
            yield Finding("warning", file, f"{len(unknown):,} ids are not of the data set's test split: {first}")

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
            self._repeated.add("with the same outputs" if same else "with other outputs", where)
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
            yield what, num, listed(self._first[what], num)


def _id(row: Any) -> int | None:
    """Return a row's id, or None when it has none that is an integer."""
    meta = row.get("meta") if isinstance(row, dict) else None
    row_id = meta.get("id") if isinstance(meta, dict) else None
    return row_id if isinstance(row_id, int) and not isinstance(row_id, bool) else None


def _faults(row: Any) -> list[str]:
    """Return what the server refuses a row for."""
    if not isinstance(row, dict):
        return ["are no objects"]
    found = []
    if "outputs" not in row:
        found.append('have no "outputs"')
    elif not isinstance(row["outputs"], str):
        found.append(f"have outputs that are {_kind(row['outputs'])}, not a text")
    meta = row.get("meta")
    if not isinstance(meta, dict):
        found.append('have no "meta"')
    elif "id" not in meta:
        found.append('have no "id" in "meta"')
    elif _id(row) is None:
        found.append(f"have an id that is {_kind(meta['id'])}, not an integer")
    return found


def _logs(archive: Archive, expected: list[Expected]) -> Iterator[Finding]:
    """Yield what there is to say of the nested logs; the server takes an archive without them."""
    if LOGS not in archive.members:
        yield Finding("warning", LOGS, "missing: a public submission needs it")
        return
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as unpacked:
        try:
            archive.copy(LOGS, unpacked, _MOST_LOG_BYTES)
            unpacked.seek(0)
            logs = Archive(unpacked)
            logs.require_readable(_MOST_LOG_BYTES)
        except (BadArchive, BadMember) as error:
            yield Finding("warning", LOGS, str(error))
            return
    names = logs.members.keys()
    if not any(name.startswith("results_") and name.endswith(".json") for name in names):
        yield Finding("warning", LOGS, "holds no results_<time>.json")
    without = [task.task for task in expected if not any(name.startswith(f"samples_{task.task}_") for name in names)]
    if without:
        yield Finding("warning", LOGS, f"holds no samples_<task>_<time>.jsonl of {listed(without)}")


def _kind(value: Any) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names[type(value)]
