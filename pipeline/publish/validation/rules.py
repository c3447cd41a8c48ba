"""The leaderboard's checks, played over an archive from anywhere: ours, the harness's, or a hostile one.

In: a zip, the files that the configuration's tasks have in it, and the ids of their test rows. Out: findings, a line
each. `refused` is what the server refuses: a zip that cannot be read, a task that is missing or has another extension,
no `data`, no `test`, a row without outputs, meta or id, outputs that are no text, an id that is missing. Of duplicates
of an id the last wins and unknown files are ignored: these are told as warnings, and so is what
`pipeline/publish/validation/warnings.py` finds in the answers. One task's file is in memory at a time.
"""

from __future__ import annotations

import json
import sys
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from pipeline.publish.validation.findings import NUM_SHOWN, Finding, first_of, quoted
from pipeline.publish.validation.rows import AnswerRows, Expected, kind
from pipeline.publish.validation.zip_reader import Archive, BadArchive, BadMember
from pipeline.terminal.text import counted

LOGS = "logs_public.zip"

_LAYOUT = '{"data": {"test": [...]}}'

_MOST_LOG_BYTES = 4 << 30
_SPOOLED_BYTES = 64 << 20
_MOST_OBJECTS = 5_000_000


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
            rows = AnswerRows(_unpack(archive, task.file))
        except BadMember as error:
            findings.append(Finding("refused", task.file, str(error)))
            continue
        findings += rows.findings(task)
        num_tasks, num_answers = num_tasks + 1, num_answers + len(rows.ids)
    findings += _logs(archive, expected)
    return Report(findings=findings, num_tasks=num_tasks, num_answers=num_answers)


def _members(name: str, archive: Archive, known: set[str]) -> Iterator[Finding]:
    """Yield what the list of members shows."""
    for member in islice((member for member in archive.members if archive.member_warnings(member)), NUM_SHOWN):
        yield Finding("warning", member, "; ".join(archive.member_warnings(member)))
    for member in archive.repeated[:NUM_SHOWN]:
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
    """Return that a task's file is missing, with what its author may have meant."""
    stem = file.removesuffix(".json").lower()
    for member in archive.members:
        directory, _, last = member.replace("\\", "/").rpartition("/")
        if last == file:
            return f"missing at the archive's root: it lies in '{quoted(directory)}': pack it without the directory"
        if last.lower() == file.lower():
            return f"missing: '{quoted(member)}' is written in other letters: name it {file}"
        if last.lower().partition(".")[0] == stem:
            return f"missing: '{quoted(member)}' has the wrong extension: write it as JSON and name it {file}"
    return "missing: pack the task's answers under this name"


def _unpack(archive: Archive, file: str) -> list[Any]:
    """Return the rows of a task's file.

    Raises:
        BadMember: It is missing, is no JSON, or is not laid out as the server reads it.
    """
    if file not in archive.members:
        raise BadMember(_missing(archive, file))
    content = archive.read(file)
    if content.count(b"{") > _MOST_OBJECTS:
        raise BadMember(f"holds more than the {_MOST_OBJECTS:,} objects that are read: leave out what is no answer")
    whole = _parsed(content)
    if not isinstance(whole, dict) or "data" not in whole:
        raise BadMember(f'has no "data": it must be {_LAYOUT}')
    data = whole["data"]
    if not isinstance(data, dict) or "test" not in data:
        raise BadMember(f'has no split "test" in "data": it must be {_LAYOUT}')
    if not isinstance(data["test"], list):
        raise BadMember(f'its "test" is {kind(data["test"])}, not a list of rows: it must be {_LAYOUT}')
    return data["test"]


def _parsed(content: bytes) -> Any:
    """Return what a task's file says.

    Raises:
        BadMember: It is no JSON in UTF-8, or not what Python's reader takes, which the server is written in.
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
    except ValueError as error:  # the only other one is of int(), which bounds what it converts
        most = f"{sys.get_int_max_str_digits():,}"
        raise BadMember(f"holds a number of more than {most} digits: give the ids of the data set") from error


def _logs(archive: Archive, expected: list[Expected]) -> Iterator[Finding]:
    """Yield what there is to say of the nested logs; the server takes an archive without them."""
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
