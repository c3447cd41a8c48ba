"""The leaderboard server's checks, applied to any archive: ours, the harness's, or a hostile one.

In: a zip, the file names of the configuration's tasks in it, and the ids of their test rows. Out: findings, a line
each. The server refuses: a zip that cannot be read; a task that is missing or has another extension; a file without
`data` or `test`; a row without outputs, meta or id; outputs that are not text; a missing id. Of rows with the same id
the last one wins, and unknown files are ignored: these are warnings, as is what
`pipeline/publish/validation/warnings.py` finds in the answers. One task's file is in memory at a time.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from typing import IO, Any

from pipeline.publish.validation.findings import NUM_LISTED, Finding, first_of, quoted
from pipeline.publish.validation.warnings import answer_warnings
from pipeline.publish.validation.zip_reader import Archive, BadArchive, BadMember
from pipeline.terminal.text import counted

LOGS = "logs_public.zip"

_LAYOUT = '{"data": {"test": [...]}}'
_ROW = '{"outputs": "B", "meta": {"id": 1}}'

_MOST_LOG_BYTES = 4 << 30
_SPOOLED_BYTES = 64 << 20
_MOST_OBJECTS = 5_000_000
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A task that an archive must contain: its file, and the ids of its test rows (None: unknown)."""

    task: str
    file: str
    ids: frozenset[int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The findings, and what the archive contains: the number of readable task files, and of distinct ids in them."""

    findings: list[Finding]
    num_tasks: int
    num_answers: int

    @property
    def num_refusals(self) -> int:
        """Number of reasons for which the server would refuse the archive."""
        return sum(finding.level == "refused" for finding in self.findings)


def check(name: str, stream: IO[bytes], expected: list[Expected]) -> Report:
    """Validate an archive.

    Args:
        name: The archive's file name.
        stream: Its bytes, seekable.
        expected: The tasks that it must contain.
    """
    findings: list[Finding] = []
    if not name.endswith(".zip"):
        findings.append(Finding("refused", name, "wrong extension: pack it as a .zip, the server takes nothing else"))
    try:
        archive = Archive(stream)
    except BadArchive as error:
        refusal = Finding("refused", name, str(error))
        return Report(findings=[*findings, refusal], num_tasks=0, num_answers=0)
    findings += _members(name, archive, {*(task.file for task in expected), LOGS})
    num_tasks = num_answers = 0
    for task in expected:
        try:
            rows = _AnswerRows(_unpack(archive, task.file))
        except BadMember as error:
            findings.append(Finding("refused", task.file, str(error)))
            continue
        findings += rows.findings(task)
        num_tasks, num_answers = num_tasks + 1, num_answers + len(rows.ids)
    findings += _logs(archive, expected)
    return Report(findings=findings, num_tasks=num_tasks, num_answers=num_answers)


def _members(name: str, archive: Archive, known: set[str]) -> Iterator[Finding]:
    """Yield the findings about the list of members."""
    for member in islice((member for member in archive.members if archive.member_warnings(member)), NUM_LISTED):
        yield Finding("warning", member, "; ".join(archive.member_warnings(member)))
    for member in archive.repeated[:NUM_LISTED]:
        yield Finding(
            "warning",
            member,
            "the archive holds this name more than once, and the last one is read: pack it once",
        )
    unknown = sorted(archive.members.keys() - known)
    if unknown:
        what = f"{counted(len(unknown), 'file')} of no task here ({first_of(unknown)})"
        yield Finding("warning", name, f"{what}: the server ignores what it does not know: leave it out")


def _missing(archive: Archive, file: str) -> str:
    """Return the line for a missing task file, with the member that its author may have meant."""
    stem = file.removesuffix(".json").lower()
    for member in archive.members:
        directory, _, last = member.replace("\\", "/").rpartition("/")
        if last == file:
            return f"missing at the archive's root: it is in '{quoted(directory)}': pack it without the directory"
        if last.lower() == file.lower():
            return f"missing: '{quoted(member)}' is written in other letters: name it {file}"
        if last.lower().partition(".")[0] == stem:
            return f"missing: '{quoted(member)}' has the wrong extension: write it as JSON and name it {file}"
    return "missing: pack the task's answers under this name"


def _unpack(archive: Archive, file: str) -> list[Any]:
    """Return the rows of a task's file.

    Raises:
        BadMember: The file is missing, is not JSON, or does not have the server's layout.
    """
    if file not in archive.members:
        raise BadMember(_missing(archive, file))
    content = archive.read(file)
    if _is_huge(content):
        raise BadMember(f"holds more than the {_MOST_OBJECTS:,} objects that are read: leave out what is no answer")
    whole = _parsed(content)
    if not isinstance(whole, dict) or "data" not in whole:
        raise BadMember(f'has no "data": it must be {_LAYOUT}')
    data = whole["data"]
    if not isinstance(data, dict) or "test" not in data:
        raise BadMember(f'has no split "test" in "data": it must be {_LAYOUT}')
    if not isinstance(data["test"], list):
        raise BadMember(f'its "test" is {_kind(data["test"])}, not a list of rows: it must be {_LAYOUT}')
    return data["test"]


def _is_huge(content: bytes) -> bool:
    """Return whether a JSON text holds more objects, lists or values than are read: each takes up to 100 bytes."""
    for without_texts in (False, True):  # texts may hold brackets, and most files have few even so
        if content.count(b"{") + content.count(b"[") <= _MOST_OBJECTS and content.count(b",") <= 2 * _MOST_OBJECTS:
            return False
        if not without_texts:
            content = _TEXT.sub(b"", content)
    return True


def _parsed(content: bytes) -> Any:
    """Return the JSON value of a task's file.

    Raises:
        BadMember: The file is not JSON in UTF-8, or Python's parser, which the server uses, does not accept it.
    """
    if content.startswith(BOM_UTF8):
        raise BadMember("begins with a byte order mark, which JSON does not allow: write it as UTF-8 without one")
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadMember(f"is not UTF-8, byte {error.start} cannot be read: write it as UTF-8") from error
    except RecursionError as error:
        raise BadMember(f"is nested too deeply to be read: it must be {_LAYOUT}") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BadMember(f"is no JSON from {where} on ({error.msg}): write it with a JSON library") from error
    except ValueError as error:  # the only other one is from int(), which limits the number of digits
        most = f"{sys.get_int_max_str_digits():,}"
        raise BadMember(f"holds a number of more than {most} digits: give the ids of the data set") from error


class _AnswerRows:
    """The rows of one file: the `ids` in it, `outputs` by id (the last of duplicates), and the faults."""

    def __init__(self, rows: list[Any]) -> None:
        self.ids: set[int] = set()
        self.outputs: dict[int, str] = {}
        self._num_rows = len(rows)
        self._wrong = _Tally()
        self._repeated = _Tally()
        for number, row in enumerate(rows, start=1):
            self._read(number, row)

    def findings(self, task: Expected) -> Iterator[Finding]:
        """Yield the findings about the rows."""
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
        """Yield the findings about ids that are missing from the file or from the data set."""
        missing, unknown = ids - self.ids, self.ids - ids
        if missing:
            first = first_of(nsmallest(NUM_LISTED, missing), len(missing))
            what = f"no row for {len(missing):,} of {counted(len(ids), 'id')} of the test split ({first})"
            yield Finding("refused", file, f"{what}: one missing id fails the task: answer all and pack again")
        if unknown:
            first = first_of(nsmallest(NUM_LISTED, unknown), len(unknown))
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
    """Counts of faults by text, with their first places."""

    def __init__(self) -> None:
        self._nums: Counter[str] = Counter()
        self._first: dict[str, list[str]] = {}

    def add(self, what: str, where: str) -> None:
        self._nums[what] += 1
        first = self._first.setdefault(what, [])
        if len(first) < NUM_LISTED:
            first.append(where)

    def lines(self) -> Iterator[tuple[str, int, str]]:
        """Yield each fault, its count, and its first places."""
        for what, num in self._nums.items():
            yield what, num, first_of(self._first[what], num)


def _id(row: Any) -> int | None:
    """Return a row's id, or None if it has no integer id."""
    meta = row.get("meta") if isinstance(row, dict) else None
    row_id = meta.get("id") if isinstance(meta, dict) else None
    return row_id if isinstance(row_id, int) and not isinstance(row_id, bool) else None


def _faults(row: Any) -> list[str]:
    """Return the reasons for which the server refuses a row."""
    if not isinstance(row, dict):
        return ["no object but " + _kind(row)]
    found = []
    if "outputs" not in row:
        found.append('no "outputs"')
    elif not isinstance(row["outputs"], str):
        found.append(f"outputs that are {_kind(row['outputs'])}, not a text,")
    meta = row.get("meta")
    if not isinstance(meta, dict):
        found.append('no "meta"')
    elif "id" not in meta:
        found.append('no "id" in "meta"')
    elif _id(row) is None:
        found.append(f"an id that is {_kind(meta['id'])}, not an integer,")
    return found


def _kind(value: Any) -> str:
    """Return the type of a JSON value, for a message."""
    if value is None:
        return "null"
    names = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _logs(archive: Archive, expected: list[Expected]) -> Iterator[Finding]:
    """Yield the findings about the nested logs; the server accepts an archive without them."""
    if LOGS not in archive.members:
        yield Finding(
            "warning", LOGS, "missing: a public submission needs it: pack the zip of the harness's logs under this name"
        )
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
        yield Finding("warning", LOGS, "holds no results_<time>.json: pack it from the harness's --output_path")
    without = [task.task for task in expected if not any(name.startswith(f"samples_{task.task}_") for name in names)]
    if without:
        what = f"holds no samples_<task>_<time>.jsonl of {first_of(without)}"
        yield Finding("warning", LOGS, f"{what}: run the harness with --log_samples and pack them")
