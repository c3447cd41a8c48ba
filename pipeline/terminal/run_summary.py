"""The summary printed at the end of a run: a table of scores by task, domain and run, counts, and paths of outputs.

In: metrics.parquet and samples/. Out: lines on a console. Unknown values are printed as a dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pipeline.config.schema import Config
from pipeline.errors import DataError
from pipeline.metrics.confidence import is_wide
from pipeline.metrics.names import SCORES
from pipeline.records import METRIC_SCHEMA, METRICS_FILE, SAMPLE_SCHEMA, Counts
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.tables import plain_table, with_interval

TASKS_SQL = """
    WITH tokens AS (SELECT task, split, sum(num_output_tokens)::BIGINT AS num_tokens FROM samples GROUP BY task, split),
    scores AS (
        SELECT level, task, split, any_value(COLUMNS('^num_(total|truncated|no_answer|failed|doubtful)$')),
            max(value) FILTER (metric = 'em') AS em, max(value) FILTER (metric = 'f1') AS f1,
            max(value) FILTER (metric = 'correct') AS correct,
            max(COLUMNS('^(value|ci_low|ci_high|bound_low|bound_high)$')) FILTER (metric = 'score')
        FROM metrics WHERE group_by IS NULL GROUP BY level, task, split
    )
    SELECT * REPLACE (if(level = 'run', $all_domains, task) AS task) FROM scores LEFT JOIN tokens USING (task, split)
    WHERE level <> 'run' OR coalesce(em, f1, correct, value) IS NOT NULL
    ORDER BY array_position(['task', 'domain', 'run'], level), split, task
"""

ALL_DOMAINS = "all domains"
"""The row of the run: the mean over its domains, as the benchmark defines it. Without a score it is left out."""

NO_SAMPLES = pa.schema([*SAMPLE_SCHEMA, ("task", pa.string()), ("split", pa.string())])

REPEATS_SQL = """
    SELECT task, split, metric, value, ci_low, ci_high FROM metrics
    WHERE group_by IS NULL AND level <> 'run' AND NOT list_contains($scores, metric)
    ORDER BY level DESC, split, task, string_split(metric, '@')[1] DESC, string_split(metric, '@')[2]::INTEGER
"""


def print_summary(
    run: ArtifactStore, config: Config, counts: Counts, console: Console, timings: Mapping[str, float] | None = None
) -> None:
    """Print the scores and the counts of a scored run.

    `timings` holds seconds by stage and their `total`; without it no rates are printed. A complete run may have lost
    its samples to save space; then the tokens of a task are unknown.

    Raises:
        DataError: metrics.parquet is missing, or it or the samples are damaged.
    """
    if not run.exists(METRICS_FILE):
        raise DataError(f"{run.path(METRICS_FILE)} is missing: python -m pipeline.rescore run={run.root}")
    metrics = run.read_parquet(METRICS_FILE, METRIC_SCHEMA)
    samples = run.artifact("samples", SAMPLE_SCHEMA)
    with query.connection() as database:
        database.register("metrics", metrics)
        database.register("samples", NO_SAMPLES.empty_table() if samples is None else samples.dataset())
        rows = query.rows(database, TASKS_SQL, {"all_domains": ALL_DOMAINS})
        of_repeats = query.rows(database, REPEATS_SQL, {"scores": list(SCORES)})
    console.print(_table(rows))
    if of_repeats:
        console.print(f"over {config.generation.repeats_text} repeats of each question, of which the scores are means:")
        console.print(_repeats_table(of_repeats))
    for row in (each for each in rows if each["value"] is not None and is_wide(each)):
        console.print(_bounds_line(row), soft_wrap=True)
    tokens = "an unknown number of" if counts.num_output_tokens is None else f"{counts.num_output_tokens:,}"
    parts = [f"{counts.num_samples:,} samples", f"{tokens} output tokens"]
    if timings and "total" in timings:
        parts.append(f"{timings['total']:.1f} s in all")
        if counts.num_output_tokens is not None and timings.get("generate"):
            rate = counts.num_output_tokens / timings["generate"]
            parts.append(f"{rate:,.0f} tokens/s with the engine's start")
    console.print(", ".join(parts))


def path_lines(run: ArtifactStore) -> list[str]:
    """Return a line to print for each part of a run that is there, besides its products."""
    parts = (("samples/", "every question and answer"), (METRICS_FILE, "every score"), ("logs/", "logs"))
    return [f"  {run.brief(name)}  {what}" for name, what in parts if run.exists(name.rstrip("/"))]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = _columns(
        "task or domain", "split", "n", "EM", "F1", "score ±95%", "correct", "cut", "no answer", "failed", "tokens"
    )
    level = None
    for row in rows:
        if level not in (None, row["level"]):
            table.add_section()
        level = row["level"]
        scores = [_number(row["em"]), _number(row["f1"]), _score(row), _number(row["correct"])]
        tallies = [str(row[f"num_{name}"]) for name in ("truncated", "no_answer", "failed")]
        tokens = _count(row["num_tokens"]) if level == "task" else ""
        table.add_row(row["task"], row["split"], str(row["num_total"]), *scores, *tallies, tokens)
    return table


def _repeats_table(rows: list[dict[str, Any]]) -> Table:
    """Return a table with one row per task and split and one column per metric."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table = _columns("task or domain", "split", *metrics)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        found.setdefault((row["task"], row["split"]), {})[row["metric"]] = _score(row)
    for key, values in found.items():
        table.add_row(*key, *(values[metric] for metric in metrics))
    return table


def _columns(*names: str) -> Table:
    """Return an empty table: two left-aligned text columns, then right-aligned numbers."""
    table = plain_table()
    for name in names[:2]:
        table.add_column(name, no_wrap=True)
    for name in names[2:]:
        table.add_column(name, justify="right")
    return table


def _bounds_line(row: dict[str, Any]) -> str:
    value, low, high = (_number(row[name]) for name in ("value", "bound_low", "bound_high"))
    return (
        f"{row['task']} {row['split']}: score {value} could be {low} to {high}: "
        f"{row['num_doubtful']:,} of {row['num_total']:,} rows were cut, empty or failed"
    )


def _score(row: dict[str, Any]) -> str:
    return with_interval(row["value"], row["ci_low"], row["ci_high"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
