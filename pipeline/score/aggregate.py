"""Samples in, the rows of metrics.parquet out, counted by DuckDB.

What a value is, from the inside out:

    task, whole or one group of a category   the mean over its rows that have this metric
    domain                                   the mean of its tasks' values (the benchmark's definition)
    run, called `all`                        the mean of its domains' values

A mean over nothing is null. A domain with a task that has no value in a split, or no rows at all, is null too, and so
is the run: the mean of the others would pass for the whole. Metrics: `em`, `f1`, `score` = (em + f1) / 2, which is the
leaderboard's, and `correct`. `num_scored` counts the rows that have the metric, `num_no_answer` those that did not fail
and in which no letter was found, truncated ones among them; every repeat of a question is a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from pipeline.records import METRIC_SCHEMA

SAMPLE_COLUMNS = ["task", "split", "categories", "answer", "finish_reason", "em", "f1", "correct", "error"]
"""What is read of the samples."""

_OF_TASKS = """
CREATE TEMP TABLE of_tasks AS
WITH samples_of_groups AS (
    SELECT *, unnest(list_prepend(NULL, map_entries(categories))) AS entry FROM samples  -- NULL: the whole task
), groups AS (
    SELECT task, split, entry.key AS group_by, entry.value AS "group",
        count(*) AS num_total,
        count(*) FILTER (finish_reason = 'length') AS num_truncated,
        count(*) FILTER (answer IS NULL AND error IS NULL) AS num_no_answer,
        count(error) AS num_failed,
        [
            {metric: 'em', value: avg(em), num_scored: count(em)},
            {metric: 'f1', value: avg(f1), num_scored: count(f1)},
            {metric: 'score', value: avg((em + f1) / 2), num_scored: count(em + f1)},
            {metric: 'correct', value: avg(correct), num_scored: count(correct)}
        ] AS metrics
    FROM samples_of_groups GROUP BY task, split, entry.key, entry.value
)
SELECT * EXCLUDE metrics, unnest(metrics, recursive := true) FROM groups
"""

_OF_DOMAINS = """
CREATE TEMP TABLE of_domains AS
WITH wanted AS (
    SELECT domains.task, domain, split, metric
    FROM domains CROSS JOIN (SELECT DISTINCT split, metric FROM of_tasks)
)
SELECT domain AS task, split, metric,
    CASE WHEN count(value) = count(*) THEN avg(value) END AS value,
    coalesce(sum(COLUMNS('num_.*')), 0)::BIGINT AS '\\0'
FROM wanted LEFT JOIN (SELECT * FROM of_tasks WHERE group_by IS NULL) USING (task, split, metric)
GROUP BY domain, split, metric
"""

_ALL = """
WITH of_run AS (
    SELECT 'all' AS task, split, metric,
        CASE WHEN count(value) = count(*) THEN avg(value) END AS value,
        sum(COLUMNS('num_.*'))::BIGINT AS '\\0'
    FROM of_domains GROUP BY split, metric
), levels AS (
    SELECT 1 AS depth, 'run' AS level, * FROM of_run
    UNION ALL BY NAME SELECT 2 AS depth, 'domain' AS level, * FROM of_domains
    UNION ALL BY NAME SELECT 3 AS depth, 'task' AS level, * FROM of_tasks
)
SELECT *, NULL::DOUBLE AS stderr, NULL::DOUBLE AS ci_low, NULL::DOUBLE AS ci_high
FROM levels
ORDER BY depth, task, split, group_by NULLS FIRST, "group" NULLS FIRST, metric
"""


def aggregate(database: duckdb.DuckDBPyConnection, samples: pads.Dataset, domains: Mapping[str, str]) -> pa.Table:
    """Return the metrics of the samples, with `METRIC_SCHEMA`.

    Args:
        database: A connection; the tables `of_tasks`, `of_domains` and the view `samples` are made in it.
        samples: At least `SAMPLE_COLUMNS`.
        domains: Domain of every task that the run asks, in the samples or not.
    """
    database.execute("SET threads = 1")  # the order of a sum is then the same each time, and so is its last digit
    database.register("samples", samples.scanner(columns=SAMPLE_COLUMNS, use_threads=False))
    database.register("domains", pa.table({"task": list(domains), "domain": list(domains.values())}))
    database.execute(_OF_TASKS)
    database.execute(_OF_DOMAINS)
    relation = database.sql(_ALL)
    assert relation is not None  # a SELECT has a result
    table: pa.Table = relation.to_arrow_table()
    return pa.Table.from_arrays(
        [table.column(field.name).cast(field.type) for field in METRIC_SCHEMA], schema=METRIC_SCHEMA
    )
