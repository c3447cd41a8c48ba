"""Standard errors of tasks whose questions are not independent of each other, because they share a category.

The table `outcomes` in (`pipeline/score/outcomes.py`), the table `of_clusters` out: for each task with a category in
`tasks.<name>.cluster`, split and metric the number of clusters and the cluster-robust standard error of the mean,

    sqrt(G / (G - 1) * sum over clusters g of (sum over questions i in g of (total_i - mean * scored_i))^2) / num_scored

where G is the number of clusters, total_i the sum of the values of the question's repeats and scored_i their number. A
question without the category is a cluster of its own. Source: Cameron and Miller 2015, A Practitioner's Guide to
Cluster-Robust Inference, Journal of Human Resources 50:317, section II; for evaluations of language models Miller 2024,
arXiv:2411.00640, section 2.2. Assumed: clusters are independent of each other, and there are many of them: below
`MIN_CLUSTERS` the error is null. Null, not 0, where all sums are 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.metrics.confidence import MIN_CLUSTERS

_OF_CLUSTERS = """
CREATE TEMP TABLE of_clusters AS
WITH means AS (
    SELECT task, split, metric, sum(total * num_questions) / nullif(sum(scored * num_questions), 0) AS mean,
        sum(scored * num_questions) AS num_scored
    FROM outcomes WHERE group_by IS NULL GROUP BY ALL
), sums AS (
    SELECT task, split, metric, group_by, "group", num_scored, sum(num_questions) AS questions,
        sum(num_questions * (total - mean * scored)) AS residual,
        sum(num_questions * (total - mean * scored) ** 2) AS squares
    FROM outcomes JOIN clusters USING (task) JOIN means USING (task, split, metric)
    WHERE scored > 0 AND (group_by IS NULL OR group_by = cluster) GROUP BY ALL
), summed AS (
    SELECT task, split, metric, any_value(num_scored) AS num_scored,
        count(group_by) + sum(if(group_by IS NULL, questions, -questions)) AS clusters,
        sum(if(group_by IS NULL, squares, residual ** 2 - squares)) AS squares
    FROM sums GROUP BY task, split, metric
)
SELECT task, split, metric, clusters::BIGINT AS clusters,
    CASE WHEN clusters >= $least AND squares > 1e-12 THEN sqrt(squares * clusters / (clusters - 1)) / num_scored END
        AS stderr
FROM summed
"""

_UNKNOWN = """
SELECT task, cluster, list_sort(list(DISTINCT group_by) FILTER (group_by IS NOT NULL)) AS names
FROM clusters JOIN outcomes USING (task)
GROUP BY task, cluster HAVING NOT coalesce(list_contains(names, cluster), false) ORDER BY task LIMIT 1
"""


def count_clusters(database: duckdb.DuckDBPyConnection, clusters: Mapping[str, str]) -> None:
    """Create the table `of_clusters`.

    Args:
        database: A connection with the table `outcomes`.
        clusters: By task the category, named as in `group_by` of metrics.parquet.

    Raises:
        ConfigError: No question of a task has its category.
    """
    table = pa.table({"task": list(clusters), "cluster": list(clusters.values())}, schema=_CLUSTERS)
    database.register("clusters", table)
    for task, cluster, names in database.execute(_UNKNOWN).fetchall():
        fix = f"no question has this category; give one of {', '.join(names)}, or null"
        raise ConfigError(f"tasks.{task}.cluster={cluster!r}: {fix}")
    database.execute(_OF_CLUSTERS, {"least": MIN_CLUSTERS})


_CLUSTERS = pa.schema([("task", pa.string()), ("cluster", pa.string())])
