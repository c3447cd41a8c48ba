"""Samples in, the rows of metrics.parquet out, computed by DuckDB.

The value of a metric at each level:

    task, whole or one group       the mean over its rows that have this metric, or over its questions for a metric of
                                   questions: see `pipeline/score/outcomes.py`
    domain                         the mean of its tasks' values (the benchmark's definition)
    run, called `all`              the mean of its domains' values

A mean over no rows is null. A domain is null if one of its tasks has no value in a split or no rows at all, and then so
is the run: a mean over the remaining tasks would be mistaken for the mean over all. The same holds for standard errors
and bounds. `num_scored` is the number of rows or questions in the mean. `num_no_answer` is the number of rows that did
not fail and have no extracted letter, including truncated rows. Every repeat of a question is a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline.records import METRIC_SCHEMA
from pipeline.score.clusters import count_clusters
from pipeline.score.intervals import add_intervals
from pipeline.score.outcomes import count_outcomes
from pipeline.storage.repeats import Repeats, define, most

if TYPE_CHECKING:
    import pyarrow.dataset as pads

_OF_TASKS = """
CREATE TEMP TABLE of_tasks AS
WITH centred AS (
    SELECT *, sum(total * num_questions) OVER cell / nullif(sum(scored * num_questions) OVER cell, 0) AS mean
    FROM outcomes WINDOW cell AS (PARTITION BY task, split, group_by, "group", metric)
), summed AS (
    SELECT task, split, group_by, "group", metric, any_value(mean) AS value,
        -- Of several repeats a metric of questions may have a value for fewer of them than its bounds count.
        if(sum(possible) > 0, least(sum(low) / sum(possible), value), NULL) AS bound_low,
        if(sum(possible) > 0, greatest(sum(high) / sum(possible), value), NULL) AS bound_high,
        sum(num_questions * (total - mean * scored) ** 2) AS squares,
        coalesce(sum(num_questions) FILTER (scored > 0), 0) AS questions,
        count(*) FILTER (scored > 0) AS different_outcomes,
        sum(scored * num_questions)::BIGINT AS num_scored,
        sum(COLUMNS('^num_(total|truncated|no_answer|failed|doubtful)$'))::BIGINT AS '\\0'
    FROM centred GROUP BY task, split, group_by, "group", metric
)
-- Cluster-robust standard error of a mean: Cameron and Miller 2015, Journal of Human Resources 50:317;
-- with one row per question it is the standard deviation divided by the square root of their number. Questions are
-- taken as independent. Where all have the same value the sample shows nothing about the error: it is null, not 0.
-- With a category of dependent questions: see `pipeline/score/clusters.py`.
SELECT summed.* EXCLUDE squares, clusters,
    if(clusters IS NOT NULL, of_clusters.stderr, if(squares > 1e-12,
        sqrt(squares * questions / nullif(questions - 1, 0)) / nullif(num_scored, 0), NULL)) AS stderr
FROM summed LEFT JOIN of_clusters ON summed.group_by IS NULL AND summed.task = of_clusters.task
    AND summed.split = of_clusters.split AND summed.metric = of_clusters.metric
"""

_OF_DOMAINS = """
CREATE TEMP TABLE of_domains AS
WITH requested AS (
    SELECT domains.task, domain, split, metric
    FROM domains CROSS JOIN (SELECT DISTINCT split, metric FROM of_tasks)
)
SELECT domain AS task, split, metric, mean_of_all(value) AS value,
    error_of_all(stderr) AS stderr, mean_of_all(bound_low) AS bound_low, mean_of_all(bound_high) AS bound_high,
    coalesce(sum(COLUMNS('^num_.*')), 0)::BIGINT AS '\\0'
FROM requested LEFT JOIN (SELECT * FROM of_tasks WHERE group_by IS NULL) USING (task, split, metric)
GROUP BY domain, split, metric
"""

_OF_RUN = """
CREATE TEMP TABLE of_run AS
SELECT 'all' AS task, split, metric, mean_of_all(value) AS value,
    error_of_all(stderr) AS stderr, mean_of_all(bound_low) AS bound_low, mean_of_all(bound_high) AS bound_high,
    sum(COLUMNS('^num_.*'))::BIGINT AS '\\0'
FROM of_domains GROUP BY split, metric
"""

_LEVELS = """
CREATE TEMP TABLE levels AS
WITH every AS (
    SELECT 1 AS depth, 'run' AS level, * FROM of_run
    UNION ALL BY NAME SELECT 2 AS depth, 'domain' AS level, * FROM of_domains
    UNION ALL BY NAME SELECT 3 AS depth, 'task' AS level, * FROM of_tasks
)
SELECT *,
    row_number() OVER (ORDER BY depth, task, split, group_by NULLS FIRST, "group" NULLS FIRST, metric) - 1 AS place
FROM every
"""

_MACROS = [
    "CREATE TEMP MACRO of_all(known, mean) AS CASE WHEN count(known) = count(*) THEN mean END",
    "CREATE TEMP MACRO mean_of_all(x) AS of_all(x, avg(x))",
    "CREATE TEMP MACRO error_of_all(x) AS of_all(x, sqrt(sum(x ** 2)) / count(*))",
]


def aggregate(
    database: duckdb.DuckDBPyConnection,
    files: Iterable[pads.Dataset],
    domains: Mapping[str, str],
    repeats: Repeats,
    clusters: Mapping[str, str],
) -> pa.Table:
    """Return the metrics of the samples, with `METRIC_SCHEMA`.

    Args:
        database: A connection; the function creates temporary tables in it.
        files: The samples, one data set per file, as for `count_outcomes`.
        domains: Domain of every active task, whether it has samples or not.
        repeats: Rows per question, the same for all splits or by split.
        clusters: By task the category whose questions are not independent; the others are taken as independent.

    Raises:
        ConfigError: No question of a task has its category.
    """
    database.execute("SET threads = 1")  # a fixed summation order makes the results reproducible to the last digit
    define(database, repeats)
    count_outcomes(database, files, most(repeats))
    count_clusters(database, clusters)
    database.register("domains", pa.table({"task": list(domains), "domain": list(domains.values())}))
    for statement in (*_MACROS, _OF_TASKS, _OF_DOMAINS, _OF_RUN, _LEVELS):
        database.execute(statement)
    table = add_intervals(database, domains)
    return pa.Table.from_arrays(
        [table.column(field.name).cast(field.type) for field in METRIC_SCHEMA], schema=METRIC_SCHEMA
    )
