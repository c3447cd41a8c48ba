"""How many answers changed since the last run, against the pair of runs before; samples/ in, numbers out.

It needs no gold answer, so all questions count; it shows that something has changed, not in which direction. The answer
is the letters that were read, or the response where there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow.compute as pc

from pipeline.comparison.baseline import PooledRun
from pipeline.comparison.pairing import ComparedRun
from pipeline.runs.manifest import ChangedAnswers
from pipeline.storage import query

# A failed row has no answer, and counts neither as changed nor as the same. The repeat 0 stands for the question.
_ANSWERS = """
CREATE OR REPLACE TEMP TABLE {name} AS
SELECT id, md5_number(CASE WHEN answer IS NULL THEN concat('response ', response) ELSE concat('letters ', answer) END)
    AS answer
FROM samples WHERE error IS NULL
"""

_CHANGED = """
SELECT count(*) AS num, count(*) FILTER (now) AS now, count(*) FILTER (before) AS before,
    count(*) FILTER (now AND NOT before) AS more, count(*) FILTER (before AND NOT now) AS fewer
FROM (
    SELECT new.answer <> last.answer AS now, last.answer <> earlier.answer AS before
    FROM new_answers new JOIN last_answers last USING (id) JOIN earlier_answers earlier USING (id)
)
"""


def changed_answers(new: ComparedRun, earlier: Sequence[PooledRun]) -> ChangedAnswers | None:
    """Return how many answers changed since the last run, and how many between that and the one before.

    Every question counts that all of these runs have answered.

    The p-value is that of a one-sided sign test on the questions that changed in one of the two pairs alone: for three
    exchangeable runs both are equally likely (McNemar 1947, Psychometrika 12:153, exact).

    Args:
        new: The new run.
        earlier: Runs with the same prompts, newest first; the first two are read.

    Returns:
        The numbers, or None without an earlier run.
    """
    if not earlier:
        return None
    last, before = earlier[0], earlier[1] if len(earlier) > 1 else None
    answers = {"new_answers": new.samples, "last_answers": last.samples, "earlier_answers": (before or last).samples}
    totals: dict[str, int] = dict.fromkeys(("num", "now", "before", "more", "fewer"), 0)
    with query.connection() as database:
        for task, split in _cells(database, new):
            for name, samples in answers.items():
                where = query.cell(task, split) & (pc.field("repeat") == 0)
                database.register("samples", query.scanner(samples, ["id", "answer", "response", "error"], where))
                database.execute(_ANSWERS.format(name=name))
            (counts,) = query.rows(database, _CHANGED)
            totals = {name: total + int(counts[name]) for name, total in totals.items()}
    return ChangedAnswers(
        since=last.run_id,
        before=before.run_id if before is not None else None,
        num_questions=totals["num"],
        num_changed=totals["now"],
        num_before=totals["before"] if before is not None else None,
        p_value=sign_test(totals["more"], totals["fewer"]) if before is not None else None,
    )


def _cells(database: duckdb.DuckDBPyConnection, run: ComparedRun) -> list[tuple[Any, ...]]:
    database.register("cells", query.scanner(run.samples, ["task", "split"]))
    return database.execute("SELECT DISTINCT task, split FROM cells ORDER BY ALL").fetchall()


def sign_test(num_more: int, num_fewer: int) -> float:
    """Return the one-sided p-value that questions change in the new pair alone more often than in the old one alone."""
    if num_more + num_fewer == 0:
        return 1.0
    from scipy.special import bdtrc  # takes a tenth of a second to import

    return float(bdtrc(num_more - 1, num_more + num_fewer, 0.5)) if num_more else 1.0


def line(found: ChangedAnswers | None) -> str:
    """Return the changed answers as a line for the user."""
    if found is None or not found.num_questions:
        return "there is no earlier run whose answers could be compared"
    num = found.num_questions
    text = f"{found.num_changed:,} of {num:,} answers ({found.num_changed / num:.1%}) changed since run {found.since}"
    if found.num_before is None:
        return f"{text}; no pair of runs before to compare with"
    return (
        f"{text}, {found.num_before:,} ({found.num_before / num:.1%}) since run {found.before} before (p {_p(found)})"
    )


def _p(found: ChangedAnswers) -> str:
    assert found.p_value is not None
    return "<0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"


def rise(found: ChangedAnswers | None) -> float | None:
    """Return by how much the share of changed answers has risen; None if it is unknown."""
    if found is None or found.num_before is None or not found.num_questions:
        return None
    return (found.num_changed - found.num_before) / found.num_questions
