"""Samples in, a table of distinct outcomes with the number of questions that have each out, computed by DuckDB.

All repeats of a question form one outcome. The table `outcomes` has a row for each task, split, group, metric and
distinct outcome, so it hardly grows with the questions: `total` and `scored` are the sum and the number of a question's
values, `num_questions` the number of questions with this outcome. `low`, `high` and `possible` are the same for the
bounds: they count every uncertain row (truncated, empty or failed) as wrong, or as right. Counts of rows, such as
`num_total`, are over all questions of the outcome.

Tasks are grouped by each of the rows' categories and by `GROUPS`. A category with the name of one of those, or with one
of pipeline/score/extraction_groups.py, is called `categories.<name>`.

Metrics: `em`, `f1`, `score` = (em + f1) / 2, which is the leaderboard's, and `correct`; of several repeats also

    pass@k      probability that one of k repeats is correct, for k = 1, 2, 4, ... and all: 1 - C(n - c, k) / C(n, k)
                for c correct of n, which is unbiased. Source: Chen et al. 2021, arXiv:2107.03374, section 2.1
    majority    whether the most frequent answer of the repeats is correct; a tie goes to the earliest repeat, and
                repeats without an answer have no vote. Source: Wang et al. 2022, arXiv:2203.11171
    agreement   share of the pairs of repeats with the same answer, or both without one; it needs no gold. Source: the
                P of Fleiss 1971, Psychological Bulletin 76:378, not corrected for chance

These three have one value per question, computed from the repeats that did not fail, and none where too few are left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline.metrics.names import SAMPLE_METRICS
from pipeline.records import SAMPLE_SCHEMA
from pipeline.score.extraction import EMPTY
from pipeline.score.extraction_groups import EXTRACTION

if TYPE_CHECKING:
    import pyarrow.dataset as pads

GROUPS = ("instruction", "num_options", "answer_kind")
"""Columns of samples that metrics are grouped by, in addition to the categories."""

COLUMNS = [
    *("task", "split", "id", "repeat", "categories", *GROUPS, "gold", "answer", "extraction", "finish_reason"),
    *(*SAMPLE_METRICS, "error"),
]
"""The columns of samples that are read."""

_SAMPLES = pa.schema([*SAMPLE_SCHEMA, ("task", pa.string()), ("split", pa.string())])

_ROWS = """
CREATE TEMP VIEW rows AS
WITH marked AS (
    SELECT *,
        finish_reason = 'length' OR extraction = getvariable('empty') OR error IS NOT NULL AS is_uncertain,
        list_transform(categories, lambda entry: {
            key: CASE
                WHEN entry.key IN getvariable('groups') OR starts_with(entry.key, 'categories.')
                    OR string_split(entry.key, '.')[1] = getvariable('extraction')
                THEN 'categories.' || entry.key ELSE entry.key END,
            value: entry.value
        }) AS named,
        list_filter([
            {key: 'instruction', value: instruction},
            {key: 'num_options', value: num_options::VARCHAR},
            {key: 'answer_kind', value: answer_kind}
        ], lambda entry: entry.value IS NOT NULL) AS ours
    FROM samples
)
SELECT task, split, id, repeat, answer, error,
    list_concat([{key: NULL, value: NULL}], named, ours) AS groups,  -- NULL: the whole task
    1 AS num_total,
    (finish_reason = 'length')::INTEGER AS num_truncated,
    (answer IS NULL AND error IS NULL)::INTEGER AS num_no_answer,
    (error IS NOT NULL)::INTEGER AS num_failed,
    is_uncertain::INTEGER AS num_doubtful,
    (em IS NOT NULL)::INTEGER AS num_exact,
    (correct IS NOT NULL)::INTEGER AS num_letters,
    (gold IS NOT NULL)::INTEGER AS num_exact_golds,
    (answer_kind IS NOT NULL)::INTEGER AS num_letters_golds,
    (is_uncertain AND gold IS NOT NULL)::INTEGER AS num_exact_uncertain,
    (is_uncertain AND answer_kind IS NOT NULL)::INTEGER AS num_letters_uncertain,
    coalesce(em, 0) AS sum_em,
    coalesce(f1, 0) AS sum_f1,
    coalesce(correct, 0) AS sum_correct,
    if(is_uncertain, 0, coalesce(em, 0)) AS sum_certain_em,
    if(is_uncertain, 0, coalesce(f1, 0)) AS sum_certain_f1,
    if(is_uncertain, 0, coalesce(correct, 0)) AS sum_certain_correct,
    correct
FROM marked
"""

_ONE_REPEAT = "CREATE TEMP VIEW questions AS SELECT *, NULL::DOUBLE AS majority, NULL::DOUBLE AS agreement FROM rows"

_REPEATS = """
CREATE TEMP VIEW questions AS
WITH answers AS (
    SELECT task, split, id, answer, error IS NULL AS has_voted, any_value(groups) AS groups,
        count(*) AS votes, min(repeat) AS earliest, max(correct) AS correct,
        sum(COLUMNS('^(num|sum)_.*')) AS '\\0'
    FROM rows GROUP BY task, split, id, answer, has_voted
)
SELECT any_value(groups) AS groups, task, split, id,
    sum(COLUMNS('^num_.*'))::INTEGER AS '\\0', sum(COLUMNS('^sum_.*')) AS '\\0',
    coalesce(
        arg_max(correct, [votes, -earliest]) FILTER (answer IS NOT NULL),
        max(correct)  -- no repeat has a vote: 0, or NULL without a gold
    ) AS majority,
    (sum(votes * (votes - 1)) FILTER (has_voted))
        / nullif(sum(votes) FILTER (has_voted) * (sum(votes) FILTER (has_voted) - 1), 0) AS agreement
FROM answers GROUP BY task, split, id
"""

_ONE_OF_K = """
CREATE TEMP MACRO pass_at(k, n, c) AS CASE
    WHEN n < k THEN NULL WHEN c = 0 THEN 0.0 WHEN n - c < k THEN 1.0
    ELSE 1 - list_product([1.0 - k / i FOR i IN range(n - c + 1, n + 1)])
END
"""

_OF_A_FILE = """
CREATE TEMP VIEW outcomes_of_file AS
WITH of_groups AS (
    SELECT task, split, entry.key AS group_by, entry.value AS "group",
        COLUMNS('^(num|sum)_.*'), majority, agreement, count(*) AS num_questions
    FROM (SELECT *, unnest(groups) AS entry FROM questions)
    GROUP BY ALL
), measured AS (
    SELECT task, split, group_by, "group", num_questions,
        num_total, num_truncated, num_no_answer, num_failed, num_doubtful,
        unnest(list_concat([
            {metric: 'em', total: sum_em, scored: num_exact,
             low: sum_certain_em, high: sum_certain_em + num_exact_uncertain, possible: num_exact_golds},
            {metric: 'f1', total: sum_f1, scored: num_exact,
             low: sum_certain_f1, high: sum_certain_f1 + num_exact_uncertain, possible: num_exact_golds},
            {metric: 'score', total: (sum_em + sum_f1) / 2, scored: num_exact,
             low: (sum_certain_em + sum_certain_f1) / 2,
             high: (sum_certain_em + sum_certain_f1) / 2 + num_exact_uncertain, possible: num_exact_golds},
            {metric: 'correct', total: sum_correct, scored: num_letters,
             low: sum_certain_correct, high: sum_certain_correct + num_letters_uncertain, possible: num_letters_golds}
        ], if(len(passes_of(split)) = 0, [], [
            {metric: 'majority', total: majority, scored: (majority IS NOT NULL)::INTEGER,
             low: NULL, high: NULL, possible: 0},
            {metric: 'agreement', total: agreement, scored: (agreement IS NOT NULL)::INTEGER,
             low: NULL, high: NULL, possible: 0}
        ]), [
            {metric: 'pass@' || k,
             total: pass_at(k, num_letters, sum_correct::BIGINT), scored: (num_letters >= k)::INTEGER,
             low: pass_at(k, num_letters_golds, sum_certain_correct::BIGINT),
             high: pass_at(k, num_letters_golds, sum_certain_correct::BIGINT + num_letters_uncertain),
             possible: (num_letters_golds >= k)::INTEGER}
            FOR k IN passes_of(split)
        ]), recursive := true)
    FROM of_groups
)
SELECT task, split, group_by, "group", metric,
    coalesce(total, 0) AS total, scored, sum(num_questions)::BIGINT AS num_questions,
    sum(low * num_questions) AS low, sum(high * num_questions) AS high, sum(possible * num_questions) AS possible,
    sum(COLUMNS('^num_(total|truncated|no_answer|failed|doubtful)$') * num_questions)::BIGINT AS '\\0'
FROM measured GROUP BY ALL
"""

_TOGETHER = """
CREATE TEMP TABLE outcomes AS
SELECT task, split, group_by, "group", metric, total, scored,
    sum(low) AS low, sum(high) AS high, sum(possible) AS possible, sum(COLUMNS('^num_.*'))::BIGINT AS '\\0'
FROM outcomes_of_files GROUP BY task, split, group_by, "group", metric, total, scored
"""


def count_outcomes(database: duckdb.DuckDBPyConnection, files: Iterable[pads.Dataset], most_repeats: int) -> None:
    """Create the table `outcomes` from the samples; it also creates temporary views and tables.

    Args:
        database: A connection, in which `passes_of` is defined: see `pipeline/storage/repeats.py`.
        files: The samples, one data set per file, each with at least `COLUMNS` and all repeats of its questions. Only
            one of them is in memory at a time.
        most_repeats: Rows of a question, in the split that has most.
    """
    database.execute("SET VARIABLE empty = $1", [EMPTY])
    database.execute("SET VARIABLE groups = $1", [list(GROUPS)])
    database.execute("SET VARIABLE extraction = $1", [EXTRACTION])
    database.register("samples", _SAMPLES.empty_table())
    for statement in (_ROWS, _REPEATS if most_repeats > 1 else _ONE_REPEAT, _ONE_OF_K, _OF_A_FILE):
        database.execute(statement)
    database.execute("CREATE TEMP TABLE outcomes_of_files AS FROM outcomes_of_file")
    for samples in files:
        database.register("samples", samples.scanner(columns=COLUMNS, use_threads=False))
        database.execute("INSERT INTO outcomes_of_files FROM outcomes_of_file")
    database.execute(_TOGETHER)
