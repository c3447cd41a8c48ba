"""The report's warnings, folded by kind: metrics, counts and the manifest in, a group for each kind out.

Warnings that differ in task, split and numbers only are one kind, so that nine of them are one line that opens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.metrics.confidence import is_wide
from pipeline.publish.report.texts import Recorded, Text, t
from pipeline.runs import failure_reasons
from pipeline.runs.manifest import Manifest

NO_ANSWER_SHARE = 0.05
"""A warning is shown if more than this fraction of a task's rows has no readable answer or was truncated."""

FAILED = "{name}: {num} of {total} rows failed and have no score"
TRUNCATED = "{name}: {num} of {total} rows ({share}) ran into the token budget"
NO_ANSWER = "{name}: {num} of {total} rows ({share}) have no readable answer"
WIDE = "{name}: the score {value} could be {low} to {high}: {num} rows were cut, empty or failed"

_HEADINGS = {
    FAILED: t("rows failed and have no score"),
    TRUNCATED: t("more than 5% of the rows ran into the token budget"),
    NO_ANSWER: t("more than 5% of the rows have no readable answer"),
    WIDE: t("cut, empty or failed rows may change the score by more than its interval"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningGroup:
    """The warnings of one kind, and the heading above them if they are several."""

    heading: Text | Recorded
    lines: tuple[Text | Recorded, ...]


def collect(rows: Iterable[Mapping[str, Any]], counts: Mapping[str, Any], manifest: Manifest) -> list[WarningGroup]:
    """Return the warnings about the scores by kind.

    Args:
        rows: The rows of metrics.parquet that are not of a group.
        counts: The numbers of samples and of failed and scored ones.
        manifest: The run's manifest, with the warnings of the other stages.
    """
    rows = list(rows)
    names = {f"{row['task']} {row['split']}" for row in rows} | {row["task"] for row in rows}
    groups: dict[str, list[Text | Recorded]] = {}
    for line in _lines(rows, counts, manifest):
        kind = line.key if isinstance(line, Text) else _kind(line.text, names)
        groups.setdefault(kind, []).append(line)
    return [WarningGroup(heading=_heading(kind, lines[0]), lines=tuple(lines)) for kind, lines in groups.items()]


def _kind(text: str, names: Iterable[str]) -> str:
    """Return a recorded warning without the names of tasks, numbers, quoted texts and the ids at its end."""
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", text)
    return re.sub(r"(#)(?:, #|,? and #(?: more)?)*", r"\1", failure_reasons.normalized(text)).replace("#", "…")


def _heading(kind: str, first: Text | Recorded) -> Text | Recorded:
    if isinstance(first, Text):
        return _HEADINGS.get(kind, first)
    return Recorded(kind.removeprefix("…: "))


def _lines(rows: list[Mapping[str, Any]], counts: Mapping[str, Any], manifest: Manifest) -> Iterator[Text | Recorded]:
    is_failed = counts["num_failed"] == counts["num_samples"]
    reasons = [] if is_failed else failure_reasons.lines(manifest.failures, counts["num_failed"])  # else in the banner
    answers = manifest.published.answers if manifest.published is not None else ()
    yield from map(Recorded, [*manifest.warnings, *reasons, *answers])
    for row in rows:
        if row["metric"] == "score" and row["level"] == "task" and not is_failed:
            yield from _of_task(row)
    num_preempted = sum(info.num_preempted_rows or 0 for info in manifest.engine.values())
    if num_preempted:
        yield t("{num} rows were preempted and computed again: the KV cache was full", num=num_preempted)
    if counts["num_scored"] == 0 and not is_failed:
        yield t("no sample has a score: the golds are hidden")


def _of_task(row: Mapping[str, Any]) -> Iterator[Text]:
    name, num = f"{row['task']} {row['split']}", row["num_total"]
    if row["num_failed"]:
        yield t(FAILED, name=name, num=row["num_failed"], total=num)
    for key, column in ((TRUNCATED, "num_truncated"), (NO_ANSWER, "num_no_answer")):
        if row[column] > NO_ANSWER_SHARE * num:
            yield t(key, name=name, num=row[column], total=num, share=f"{row[column] / num:.1%}")
    if row["value"] is not None and is_wide(row):
        value, low, high = (f"{row[each]:.3f}" for each in ("value", "bound_low", "bound_high"))
        yield t(WIDE, name=name, value=value, low=low, high=high, num=row["num_doubtful"])
