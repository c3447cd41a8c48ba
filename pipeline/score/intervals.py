"""The tables `levels` and `outcomes` in, the metrics with their 95% intervals out.

    em, correct of a task or group, one repeat    Wilson's interval
    all else of a task or group                   the percentiles of a bootstrap over its questions
    domain, run                                   the same, each task resampled by itself

A group that is one of more than `MOST_GROUPS` of its kind, and a task with very many different outcomes, has the normal
approximation in the place of the bootstrap. Without a value there is no interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa

from pipeline import duck
from pipeline.statistics import (
    MOST_OUTCOMES,
    Counts,
    Estimate,
    Floats,
    Z,
    bootstrap,
    generator,
    interval_of_mean,
    normal,
    wilson,
)

MOST_GROUPS = 200
"""Groups of one category in one task up to which each is resampled, which then takes two seconds."""

_YES_OR_NO = ("em", "correct")
"""Metrics that are 0 or 1 on every row."""

_CELLS = """
WITH counted AS (
    SELECT *, count(*) OVER (PARTITION BY task, split, group_by, metric) AS num_groups
    FROM levels WHERE level = 'task'
), cells AS (
    SELECT place, task, split, group_by, "group", metric FROM counted
    WHERE value IS NOT NULL AND different_outcomes <= $most_outcomes AND num_groups <= $most_groups
        AND (group_by IS NULL OR $repeats > 1 OR metric NOT IN ('em', 'correct'))
)
SELECT place,
    list(total ORDER BY total, scored) AS totals,
    list(scored ORDER BY total, scored)::DOUBLE[] AS scored,
    list(num_questions ORDER BY total, scored)::BIGINT[] AS num_questions
FROM cells JOIN outcomes ON cells.task = outcomes.task AND cells.split = outcomes.split
    AND cells.group_by IS NOT DISTINCT FROM outcomes.group_by AND cells."group" IS NOT DISTINCT FROM outcomes."group"
    AND cells.metric = outcomes.metric
WHERE scored > 0 GROUP BY place ORDER BY place
"""


def add_intervals(database: duckdb.DuckDBPyConnection, domains: Mapping[str, str], repeats: int) -> pa.Table:
    """Return the table `levels` in the order of `place`, with the columns ci_low and ci_high.

    Args:
        database: A connection with the tables `levels` and `outcomes`.
        domains: Domain of every task.
        repeats: Rows of a question.
    """
    relation = database.sql("SELECT * FROM levels ORDER BY place")
    assert relation is not None  # a SELECT has a result
    table: pa.Table = relation.to_arrow_table()
    level, task, split, group_by, group, metric = (
        table.column(name).to_pylist() for name in ("level", "task", "split", "group_by", "group", "metric")
    )
    value, stderr, num_questions = (
        table.column(name).to_numpy().astype(float) for name in ("value", "stderr", "questions")
    )
    is_task = (np.array(level) == "task") & ~np.isnan(value)
    resampled = is_task & ~((repeats == 1) & np.isin(metric, _YES_OR_NO))
    low, high = np.full((2, len(value)), np.nan)
    low[is_task], high[is_task] = wilson(value[is_task], num_questions[is_task])
    rough = resampled & (stderr > 1e-9)
    low[rough] = np.maximum(0, value[rough] - Z * stderr[rough])
    high[rough] = np.minimum(1, value[rough] + Z * stderr[rough])

    drawn: dict[tuple[str, str], dict[str, Estimate]] = defaultdict(dict)
    for place, totals, scored, num in _cells(database, repeats):
        rng = generator(task[place], split[place], group_by[place], group[place], metric[place])
        estimate = bootstrap(totals, scored, num, rng)
        if resampled[place]:
            low[place], high[place] = estimate.low, estimate.high
        if group_by[place] is None:
            drawn[split[place], metric[place]][task[place]] = replace(estimate, low=low[place], high=high[place])
    for place in np.flatnonzero(is_task):
        of_split = drawn[split[place], metric[place]]
        if group_by[place] is None and task[place] not in of_split:
            rng = generator(task[place], split[place], None, None, metric[place])
            of_split[task[place]] = normal(value[place], stderr[place], rng)
    for place in np.flatnonzero(~np.isnan(value) & ~is_task):
        weights = _weights(domains, task[place] if level[place] == "domain" else None)
        of_split = drawn[split[place], metric[place]]
        low[place], high[place] = interval_of_mean([of_split[name] for name in weights], list(weights.values()))
    ends = {"ci_low": pa.array(low, from_pandas=True), "ci_high": pa.array(high, from_pandas=True)}
    for name, column in ends.items():
        table = table.append_column(name, column)
    return table


def _cells(database: duckdb.DuckDBPyConnection, repeats: int) -> Iterator[tuple[int, Floats, Floats, Counts]]:
    """Give the place of each row that is resampled, and its outcomes as `bootstrap` takes them."""
    limits = {"most_outcomes": MOST_OUTCOMES, "most_groups": MOST_GROUPS, "repeats": repeats}
    for batch in duck.batches(database, _CELLS, limits, rows=256):
        for place, *outcomes in zip(*(batch.column(name) for name in batch.schema.names), strict=True):
            totals, scored, num = (scalar.values.to_numpy() for scalar in outcomes)
            yield place.as_py(), totals, scored, num


def _weights(domains: Mapping[str, str], domain: str | None) -> dict[str, float]:
    """Return what each task weighs in a domain, or in the run: domains weigh the same, and tasks in a domain."""
    tasks = defaultdict(list)
    for name, of_domain in domains.items():
        if domain in (None, of_domain):
            tasks[of_domain].append(name)
    return {name: 1 / (len(tasks) * len(names)) for names in tasks.values() for name in names}
