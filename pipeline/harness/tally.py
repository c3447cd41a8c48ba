"""Counts the questions of a task that agree, and compares extracted letters with exact match.

In: the differences of one question, and its scores. Out: counts of one task, and rows of extracted.parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.harness.diff import Difference

Verdict: TypeAlias = Literal["gained", "lost", "read"]

ASPECTS = {
    "id": "compared",
    "messages": "prompts",
    "prompt": "prompts",
    "doc": "rows",
    "generation": "arguments",
    "response": "responses",
    "em": "EM",
    "f1": "F1",
    "run": "run",
}
"""First part of a difference's field, and the column that it counts against."""

COLUMNS = tuple(column for column in dict.fromkeys(ASPECTS.values()) if column != "compared")


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one task: questions in the log, questions compared, those that agree by column, and verdicts."""

    left_out: tuple[str, ...] = ()
    num_logged: int = 0
    num_compared: int = 0
    num_equal: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[Verdict] = field(default_factory=Counter)

    def count(self, found: Iterable[Difference], verdict: Verdict | None) -> None:
        """Count one question that both sides have, with all its differences."""
        differ = {ASPECTS[difference.field.partition(".")[0]] for difference in found}
        self.num_compared += 1
        self.num_equal.update(column for column in COLUMNS if column not in differ)
        if verdict is not None:
            self.verdicts[verdict] += 1


def verdict(gold: str, response: str, answer: str | None, em: float | None, correct: float | None) -> Verdict | None:
    """Return how the extracted letters of a response score differently from its exact match, or None if they agree.

    Args:
        gold: The correct answer, empty when it is hidden.
        response: The text that the harness scored.
        answer: The letters that our extraction finds in it.
        em: Exact match, 0.0 or 1.0.
        correct: Whether the letters are those of the gold, 0.0 or 1.0.

    Returns:
        `gained`: the letters are correct, but the response is no exact match. `lost`: SQuAD's exact match accepts the
        response, but its letters are not correct, as for an empty response and the gold `A`. `read`: letters in a
        longer response whose gold is hidden.
    """
    if not gold:
        return "read" if answer is not None and answer != response.strip() else None
    if em is None or correct is None or em == correct:
        return None
    return "gained" if correct > em else "lost"
