"""The verdict of a comparison: one sentence on what has changed, and the same for programs.

In: a comparison. Out: the line that the terminal, the page, the gate and the report begin with, and compare.json.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.comparison.significance import Comparison
from pipeline.metrics.names import HEADLINE_METRICS, SCORES
from pipeline.metrics.paired_tests import ALPHA
from pipeline.records import MetricChange
from pipeline.terminal.text import counted

LEVELS = ("run", "domain", "task")

MOST_CHANGES = 3
"""Maximum number of significant changes in the line."""


def verdict(comparison: Comparison) -> str:
    """Return the verdict on one line, the significant changes of scores first."""
    scores = [row for row in comparison.rows if row.metric in SCORES]
    num_questions = sum(each.num_questions for each in comparison.split_questions)
    if is_identical(comparison):
        return f"no change: {counted(num_questions, 'question')}, and every metric of both runs is the same"
    if not scores:
        return "no score is compared: no question of both runs has a reference answer"
    significant = [row for row in scores if is_significant(row) and row.metric in HEADLINE_METRICS] or [
        row for row in scores if is_significant(row)
    ]
    if not significant:
        return f"no significant change: {_described(_headline(scores))}; {_flips(comparison)}"
    shown = [_described(row) for row in sorted(significant, key=_order)[:MOST_CHANGES]]
    more = [f"{len(significant) - MOST_CHANGES} more"] if len(significant) > MOST_CHANGES else []
    kinds = {row.difference > 0 for row in significant}
    word = "better" if kinds == {True} else "worse" if kinds == {False} else "better and worse"
    return f"significantly {word}: {'; '.join(shown + more)}; {_flips(comparison)}"


def is_identical(comparison: Comparison) -> bool:
    """Return whether no metric differs and no question has flipped."""
    return not comparison.num_flips and all(row.difference == 0 for row in comparison.rows)


def is_significant(row: MetricChange) -> bool:
    """Return whether a change is significant after its adjustment."""
    return row.p_holm < ALPHA and row.difference != 0


def is_worth_showing(row: MetricChange) -> bool:
    """Return whether a row of the table is printed: a change that is not 0, or the run's own score."""
    return row.difference != 0 or (row.level == "run" and row.metric in HEADLINE_METRICS)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return what compare.json holds."""
    return {
        "verdict": verdict(comparison),
        "base": {"run_id": comparison.base.config.run_id, "path": comparison.base.store.shown()},
        "new": {"run_id": comparison.new.config.run_id, "path": comparison.new.store.shown()},
        "num_questions": sum(each.num_questions for each in comparison.split_questions),
        "num_flips": comparison.num_flips,
        "changes": [{**asdict(row), "significant": is_significant(row)} for row in comparison.rows],
        "differences": [
            {"kind": each.kind, "name": each.name, "base": each.base, "new": each.new}
            for each in comparison.differences
        ],
    }


def _headline(scores: list[MetricChange]) -> MetricChange:
    return min(scores, key=_order)


def _order(row: MetricChange) -> tuple[int, int, str]:
    return LEVELS.index(row.level), ("score", "correct", *SCORES).index(row.metric), row.task


def _described(row: MetricChange) -> str:
    of = "" if row.level == "run" else f" of {row.task}"
    p_text = "p < 0.001" if row.p_holm < 0.001 else f"p {row.p_holm:.2g}"
    interval = f"95% {row.ci_low:+.3f}..{row.ci_high:+.3f}"
    change = f"{row.base:.3f} -> {row.new:.3f} ({row.difference:+.3f}, {interval}, adjusted {p_text})"
    return f"{row.metric}{of} {row.split} {change}"


def _flips(comparison: Comparison) -> str:
    """Return the flips of `correct`, or of `em` where no question has letters, over all tasks."""
    for metric in ("correct", "em"):
        rows = [row for row in comparison.rows if row.level == "task" and row.metric == metric]
        if rows:
            lost, gained = (sum(getattr(row, name) or 0 for row in rows) for name in ("num_lost", "num_gained"))
            return f"{counted(lost + gained, 'flip')} of {metric}: {lost:,} lost, {gained:,} gained"
    return counted(comparison.num_flips, "flip")
