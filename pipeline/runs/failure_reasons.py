"""The commonest reasons why rows of a run failed: samples/ in, records for the manifest and lines to print out.

Alike messages, which differ in numbers, addresses or quoted texts only, are one reason. The terminal, the manifest and
the report all have what is made here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs.manifest import FailureReason
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

NUM_LISTED = 5
LONGEST_REASON = 300

_MOST_REASONS = 10_000
"""Reasons that are counted. The commonest messages are read first, so only rare reasons can be beyond it."""

_ERRORS = """
    SELECT error, count(*) AS num, min({'split': split, 'task': task, 'id': id}) AS first
    FROM samples WHERE error IS NOT NULL GROUP BY error ORDER BY num DESC, error
"""


_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|`[^`]*`")
"""An apostrophe inside a word, as in "the server's", begins no quoted text."""
_VARYING = re.compile(r"(?P<status>\bHTTP \d{3}\b)|0x[0-9a-fA-F]+|\b[0-9a-f]{8,}(?:-[0-9a-f]+)*\b|\d+")


def normalized(reason: str) -> str:
    """Return a reason without what differs from row to row: numbers, addresses, quoted texts; an HTTP status stays."""
    text = _QUOTED.sub("'...'", reason)
    return _VARYING.sub(lambda found: found["status"] or "#", text)[:LONGEST_REASON]


def commonest(run: ArtifactStore) -> tuple[FailureReason, ...]:
    """Return the commonest reasons of a run's failed rows, at most `NUM_LISTED`, the commonest first.

    Raises:
        DataError: The run has no samples, or they are damaged.
    """
    samples = run.require_artifact("samples", SAMPLE_SCHEMA)
    nums: dict[str, int] = {}
    examples: dict[str, tuple[str, str]] = {}
    with query.connection() as database:
        database.register("samples", query.scanner(samples, ["task", "split", "id", "error"]))
        for batch in query.batches(database, _ERRORS, rows=query.TEXT_ROWS):
            for row in batch.to_pylist():
                reason = normalized(row["error"])
                if reason not in nums and len(nums) >= _MOST_REASONS:
                    continue
                nums[reason] = nums.get(reason, 0) + row["num"]
                first = row["first"]
                examples.setdefault(reason, (row["error"], f"{first['task']} {first['split']} id={first['id']}"))
    listed = sorted(nums, key=lambda reason: (-nums[reason], reason))[:NUM_LISTED]
    return tuple(
        FailureReason(num=nums[reason], reason=_short(examples[reason][0]), example=examples[reason][1])
        for reason in listed
    )


def lines(failures: Sequence[FailureReason], num_failed: int) -> list[str]:
    """Return a line for each reason, and one for the rows that failed for others; none where no reason is known.

    Args:
        failures: What `commonest` returned.
        num_failed: The number of failed rows in all.
    """
    found = [f"{_rows(each.num)} failed: {each.reason} (such as {each.example})" for each in failures]
    rest = num_failed - sum(each.num for each in failures)
    if failures and rest > 0:
        found.append(f"{_rows(rest)} failed for other reasons: see the column error of samples/")
    return found


def _rows(num: int) -> str:
    return f"{num:,} row{'' if num == 1 else 's'}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 3]}..."
