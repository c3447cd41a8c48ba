"""Samples in, the rows of metrics.parquet that show how the letters were read out, computed by DuckDB.

Each task is grouped by the rule that read the letters, or the reason why none did (pipeline/score/extraction.py):

    group_by             rows
    extraction           all
    extraction.single    questions with one right answer, where the gold is known
    extraction.multiple  questions with several

`num_total` counts the rows of a rule, each repeat one. Divided by that of the whole task, or of its `answer_kind`, it
is the rule's share. The values are the means over the rows of this rule. They show how this run's letters were read and
estimate nothing, so they have no error, interval or bounds. A rule that read nothing has no row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline.metrics.names import SAMPLE_METRICS
from pipeline.records import METRIC_SCHEMA
from pipeline.score.extraction import EMPTY

if TYPE_CHECKING:
    import pyarrow.dataset as pads

EXTRACTION = "extraction"
"""The column of samples that tasks are grouped by; with a kind of answer after a point, of its questions alone."""

_COLUMNS = ["task", "split", "answer_kind", "extraction", "answer", "finish_reason", "error", *SAMPLE_METRICS]

_SUMS = """
SELECT task, split, answer_kind, extraction, count(*) AS num_total,
    count(*) FILTER (finish_reason = 'length') AS num_truncated,
    count(*) FILTER (answer IS NULL AND error IS NULL) AS num_no_answer,
    count(error) AS num_failed,
    count(*) FILTER (finish_reason = 'length' OR extraction = getvariable('empty') OR error IS NOT NULL)
        AS num_doubtful,
    count(em) AS num_exact, sum(em) AS sum_em, sum(f1) AS sum_f1,
    count(correct) AS num_letters, sum(correct) AS sum_correct
FROM samples_of_file GROUP BY ALL
"""

_METRICS = """
WITH grouped AS (
    SELECT getvariable('extraction') AS group_by, * EXCLUDE answer_kind FROM extractions
    UNION ALL BY NAME
    SELECT getvariable('extraction') || '.' || answer_kind AS group_by, * EXCLUDE answer_kind FROM extractions
    WHERE answer_kind IS NOT NULL
), summed AS (
    SELECT task, split, group_by, extraction, sum(COLUMNS('^(num|sum)_')) AS '\\0' FROM grouped GROUP BY ALL
), measured AS (
    SELECT *, unnest([
        {metric: 'em', total: sum_em, num_scored: num_exact},
        {metric: 'f1', total: sum_f1, num_scored: num_exact},
        {metric: 'score', total: (sum_em + sum_f1) / 2, num_scored: num_exact},
        {metric: 'correct', total: sum_correct, num_scored: num_letters}
    ], recursive := true)
    FROM summed
)
SELECT *, 'task' AS level, extraction AS "group", total / nullif(num_scored, 0) AS value
FROM measured ORDER BY task, split, group_by, extraction, metric
"""


def extraction_groups(database: duckdb.DuckDBPyConnection, files: Iterable[pads.Dataset]) -> pa.Table:
    """Return the metrics of the tasks by extraction, with `METRIC_SCHEMA`.

    Args:
        database: A connection; the function creates a temporary table in it.
        files: The samples, one data set per file, at least one. Only one of them is in memory at a time.
    """
    database.execute("SET VARIABLE empty = $1", [EMPTY])
    database.execute("SET VARIABLE extraction = $1", [EXTRACTION])
    statement = "CREATE TEMP TABLE extractions AS"
    for samples in files:
        database.register("samples_of_file", samples.scanner(columns=_COLUMNS, use_threads=False))
        database.execute(f"{statement} {_SUMS}")
        statement = "INSERT INTO extractions"
    relation = database.sql(_METRICS)
    assert relation is not None  # a SELECT has a result
    table: pa.Table = relation.to_arrow_table()
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(table.num_rows, field.type)
        for field in METRIC_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=METRIC_SCHEMA)
