"""The tables `levels` and `outcomes` in, the metrics with their 95% intervals out.

    em, correct of a task or group, one repeat    Wilson's interval
    any other metric of a task or group           the percentiles of a bootstrap over its questions
    domain, run                                   the same, each task resampled independently
    a task with `tasks.<name>.cluster`            Wilson's for the effective number of questions: `clustered`; its
                                                  groups as above

The normal approximation replaces the bootstrap for the groups of a category that has more than `MOST_GROUPS` of them,
and for a task with more than `MOST_OUTCOMES` distinct outcomes. A null value has no interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.metrics.confidence import (
    MOST_OUTCOMES,
    Counts,
    Estimate,
    Floats,
    Z,
    bootstrap,
    clustered,
    generator,
    interval_of_mean,
    normal,
    wilson,
)
from pipeline.metrics.names import BINARY_METRICS
from pipeline.metrics.weights import weights_of
from pipeline.storage import query

MOST_GROUPS = 200
"""Groups of a category in a task up to which each group is resampled; at this number it takes two seconds."""

_CELLS = """
WITH counted AS (
    SELECT *, count(*) OVER (PARTITION BY task, split, group_by, metric) AS num_groups
    FROM levels WHERE level = 'task'
), cells AS (
    SELECT place, task, split, group_by, "group", metric FROM counted
    WHERE value IS NOT NULL AND different_outcomes <= $most_outcomes AND num_groups <= $most_groups
        AND (group_by IS NULL OR repeats_of(split) > 1 OR NOT list_contains($binary_metrics, metric))
)
SELECT place, any_value(COLUMNS(cells.* EXCLUDE place)),
    list(total ORDER BY total, scored) AS totals,
    list(scored ORDER BY total, scored)::DOUBLE[] AS scored,
    list(num_questions ORDER BY total, scored)::BIGINT[] AS num_questions
FROM cells JOIN outcomes ON cells.task = outcomes.task AND cells.split = outcomes.split
    AND cells.group_by IS NOT DISTINCT FROM outcomes.group_by AND cells."group" IS NOT DISTINCT FROM outcomes."group"
    AND cells.metric = outcomes.metric
WHERE scored > 0 GROUP BY place ORDER BY place
"""

_Drawn: TypeAlias = dict[tuple[str, str], dict[str, Estimate | None]]
"""By split and metric: the estimate of each whole task; None if it has too few clusters."""


def add_intervals(database: duckdb.DuckDBPyConnection, domains: Mapping[str, str]) -> pa.Table:
    """Return the table `levels`, ordered by `place`, with the columns ci_low and ci_high added.

    Args:
        database: A connection with the tables `levels` and `outcomes`, and the function `repeats_of`.
        domains: Domain of every task.
    """
    relation = database.sql("SELECT *, repeats_of(split) AS repeats FROM levels ORDER BY place")
    assert relation is not None  # a SELECT has a result
    table: pa.Table = relation.to_arrow_table()
    ends, is_resampled = _by_formula(table)
    drawn: _Drawn = defaultdict(dict)
    for cell in _cells(database):
        estimate = bootstrap(cell.totals, cell.scored, cell.num_questions, generator(*cell.names))
        if is_resampled[cell.place]:
            ends[:, cell.place] = estimate.low, estimate.high
        task, split, group_by, _, metric = cell.names
        if group_by is None:
            low, high = ends[:, cell.place]
            drawn[split, metric][task] = replace(estimate, low=float(low), high=float(high))
    _add_domains(table, ends, drawn, domains)
    for name, column in zip(("ci_low", "ci_high"), ends, strict=True):
        table = table.append_column(name, pa.array(column, from_pandas=True))  # NaN becomes null
    return table


def _by_formula(table: pa.Table) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the ends of the tasks' intervals by Wilson or the normal approximation, and which rows need resamples.

    Shapes: [2, rows], NaN where there is no interval yet, and [rows].
    """
    value, stderr, num_questions = (
        table.column(name).to_numpy().astype(float) for name in ("value", "stderr", "questions")
    )
    is_task = pc.equal(table["level"], "task").to_numpy() & ~np.isnan(value)
    is_binary = (table["repeats"].to_numpy() == 1) & pc.is_in(table["metric"], pa.array(BINARY_METRICS)).to_numpy()
    ends = np.full((2, len(value)), np.nan)
    ends[:, is_task] = wilson(value[is_task], num_questions[is_task])
    rough = is_task & ~is_binary & (stderr > 1e-9)  # Wilson's interval stays for equal scores
    ends[:, rough] = np.clip([value[rough] - Z * stderr[rough], value[rough] + Z * stderr[rough]], 0, 1)
    return ends, is_task & ~is_binary


def _add_domains(table: pa.Table, ends: Floats, drawn: _Drawn, domains: Mapping[str, str]) -> None:
    """Fill in the ends of the domains and the run; `drawn` has every task with at most `MOST_OUTCOMES` outcomes."""
    wholes = table.filter(pc.and_(pc.is_null(table["group_by"]), pc.is_valid(table["value"])))
    rows = wholes.select(["place", "level", "task", "split", "metric", "value", "stderr", "clusters"]).to_pylist()
    for row in rows:
        of_split = drawn[row["split"], row["metric"]]
        if row["clusters"] is not None:
            of_split[row["task"]] = clustered(row["value"], row["stderr"], row["clusters"])
            ends[:, row["place"]] = _ends(of_split[row["task"]])
        elif row["level"] == "task" and row["task"] not in of_split:
            rng = generator(row["task"], row["split"], None, None, row["metric"])
            of_split[row["task"]] = normal(row["value"], row["stderr"], rng)
    for row in rows:
        if row["level"] != "task":
            weights = weights_of(domains, row["task"] if row["level"] == "domain" else None)
            found = [drawn[row["split"], row["metric"]][name] for name in weights]
            estimates = [each for each in found if each is not None]
            if len(estimates) == len(weights):
                ends[:, row["place"]] = interval_of_mean(estimates, list(weights.values()))


def _ends(estimate: Estimate | None) -> tuple[float, float]:
    return (np.nan, np.nan) if estimate is None else (estimate.low, estimate.high)


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    """A row of `levels` to resample: its place, its keys, and its outcomes as arguments of `bootstrap`."""

    place: int
    names: tuple[str, str, str | None, str | None, str]
    totals: Floats
    scored: Floats
    num_questions: Counts


def _cells(database: duckdb.DuckDBPyConnection) -> Iterator[_Cell]:
    parameters = {"most_outcomes": MOST_OUTCOMES, "most_groups": MOST_GROUPS}
    for batch in query.batches(database, _CELLS, parameters | {"binary_metrics": list(BINARY_METRICS)}, rows=256):
        for place, task, split, group_by, group, metric, *outcomes in zip(*batch.columns, strict=True):
            names = tuple(name.as_py() for name in (task, split, group_by, group, metric))
            yield _Cell(place.as_py(), names, *(column.values.to_numpy() for column in outcomes))
