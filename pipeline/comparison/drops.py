"""Tests whether scores have dropped: a run, its baseline and the rows of their comparison in, p-values out.

Each question's score in each of the runs is read by DuckDB, one task and split at a time; the test itself is
`pipeline/metrics/max_t.py`. All rows are one family: tasks, domains, the run, the headline metrics and the splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import duckdb

from pipeline.comparison.pairing import ComparedRun
from pipeline.metrics.confidence import generator
from pipeline.metrics.max_t import DropTest, TaskChanges, adjusted, num_draws
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.metrics.weights import weights_of
from pipeline.records import MetricChange
from pipeline.storage import query

_COLUMNS = ["id", "em", "f1", "correct"]

_RUN_SCORES = """
INSERT INTO run_scores
SELECT $run, id, avg((em + f1) / 2), avg(correct) FROM samples WHERE em IS NOT NULL GROUP BY id
"""

# Run 0 is the new one. A question that only one side has scored is left out, as in a comparison.
_QUESTIONS = """
CREATE OR REPLACE TEMP TABLE scored_questions AS
SELECT id, map(list(run), list(score)) AS score, map(list(run), list(correct)) AS correct,
    coalesce(max(score) - min(score) > 1e-12, false) OR coalesce(max(correct) - min(correct) > 1e-12, false) AS differs
FROM run_scores GROUP BY id
HAVING count(*) FILTER (run = 0) > 0 AND count(*) FILTER (run > 0) > 0
"""

_COUNTS = "SELECT count(score[0]) AS score, count(correct[0]) AS correct FROM scored_questions"

# The numbers of a question in one list: score and correct of the first run, then of the second, and so on.
_DIFFERING = """
SELECT flatten(list_transform(range($num_runs), lambda run: [score[run::INTEGER], correct[run::INTEGER]])) AS numbers
FROM scored_questions WHERE differs ORDER BY id
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskScores:
    """A task and split: the changes of its questions, and by headline metric how many questions are compared."""

    changes: TaskChanges
    num_questions: Mapping[str, int]


Tasks: TypeAlias = dict[tuple[str, str], TaskScores]
"""By task and split."""


def read(base: ComparedRun, new: ComparedRun, tasks: Iterable[tuple[str, str]]) -> Tasks:
    """Read the scores of tasks and splits from the samples of a run and of its baseline with the runs pooled with it.

    Raises:
        DataError: Samples are damaged.
    """
    with query.connection() as database:
        database.execute("SET threads = 1")  # a fixed summation order makes the results reproducible to the last digit
        return {(task, split): _read(database, base, new, task, split) for task, split in tasks}


def p_values(tasks: Tasks, rows: Sequence[MetricChange], domains: Mapping[str, str], alpha: float) -> list[float]:
    """Return the adjusted one-sided p-value of each row's drop; the rows are one family.

    Args:
        tasks: The tasks and splits of the rows.
        rows: Rows of a comparison, of `HEADLINE_METRICS`, at most one for each level, task, split and metric.
        domains: Domain of every task.
        alpha: The level that the p-values are compared with.
    """
    places = {key: place for place, key in enumerate(tasks)}
    tests = [
        DropTest(
            metric=HEADLINE_METRICS.index(row.metric),
            weights={
                places[key]: weight / max(1, tasks[key].num_questions[row.metric])
                for key, weight in weights_of_row(row, domains).items()
            },
        )
        for row in rows
    ]
    rngs = [generator(task, split, "drops") for task, split in tasks]
    return adjusted([each.changes for each in tasks.values()], tests, rngs, num_draws(alpha))


def weights_of_row(row: MetricChange, domains: Mapping[str, str]) -> dict[tuple[str, str], float]:
    """Return the weights of the tasks and splits in a row of a comparison."""
    if row.level == "task":
        return {(row.task, row.split): 1.0}
    weights = weights_of(domains, row.task if row.level == "domain" else None)
    return {(task, row.split): weight for task, weight in weights.items()}


def _read(
    database: duckdb.DuckDBPyConnection, base: ComparedRun, new: ComparedRun, task: str, split: str
) -> TaskScores:
    runs = [new.samples, base.samples, *base.pooled]
    database.execute("CREATE OR REPLACE TEMP TABLE run_scores (run INTEGER, id BIGINT, score DOUBLE, correct DOUBLE)")
    for number, samples in enumerate(runs):
        database.register("samples", query.scanner(samples, _COLUMNS, query.cell(task, split)))
        database.execute(_RUN_SCORES, {"run": number})
    database.execute(_QUESTIONS)
    (counts,) = query.rows(database, _COUNTS)
    changes = TaskChanges(num_metrics=len(HEADLINE_METRICS))
    for batch in query.batches(database, _DIFFERING, {"num_runs": len(runs)}, rows=query.BATCH_ROWS):
        numbers = batch.column(0).flatten().to_numpy(zero_copy_only=False).astype(float)
        changes.add(numbers.reshape(batch.num_rows, len(runs), len(HEADLINE_METRICS)))
    return TaskScores(changes=changes, num_questions=counts)
