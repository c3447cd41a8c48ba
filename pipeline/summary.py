"""The end of a run for people: counts, the table per task and domain, and where everything lies.

In: metrics.parquet and samples/. Out: lines on a console. What is unknown is shown as a dash.
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline import duck
from pipeline.config import Config
from pipeline.records import METRIC_SCHEMA, SAMPLE_SCHEMA
from pipeline.store import Folder

COUNTS_SQL = """
    SELECT count(*) AS num_samples, count(em) AS num_scored,
           count(*) FILTER (finish_reason = 'length') AS num_truncated,
           count(*) FILTER (answer IS NULL AND error IS NULL) AS num_no_answer,
           count(error) AS num_failed,
           coalesce(sum(num_prompt_tokens), 0)::BIGINT AS num_prompt_tokens,
           coalesce(sum(num_output_tokens), 0)::BIGINT AS num_output_tokens
    FROM samples
"""

TASKS_SQL = """
    WITH tokens AS (SELECT task, split, sum(num_output_tokens)::BIGINT AS num_tokens FROM samples GROUP BY task, split),
    scores AS (
        PIVOT (SELECT level, task, split, metric, value, num_total, num_truncated, num_no_answer, num_failed
               FROM metrics WHERE group_by IS NULL AND level <> 'run')
        ON metric IN ('em', 'f1', 'score', 'correct') USING first(value))
    SELECT * FROM scores LEFT JOIN tokens USING (task, split) ORDER BY level DESC, split, task
"""


def counts(run: Folder) -> dict[str, int]:
    """Return how many samples there are, of which kinds, and how many tokens they took.

    Raises:
        DataError: The run has no samples yet.
    """
    with duck.connection() as database:
        database.register("samples", run.require_stage("samples", SAMPLE_SCHEMA).dataset())
        row = database.sql(COUNTS_SQL).to_arrow_table().to_pylist()[0]
    return {str(name): int(value) for name, value in row.items()}


def print_summary(run: Folder, config: Config, console: Console, timings: dict[str, float] | None = None) -> None:
    """Print the scores, the counts and the places of a run that has been scored."""
    import pyarrow.parquet as pq

    metrics = pq.read_table(run.path("metrics.parquet"), filesystem=run.fs, schema=METRIC_SCHEMA)
    with duck.connection() as database:
        database.register("metrics", metrics)
        database.register("samples", run.require_stage("samples", SAMPLE_SCHEMA).dataset())
        rows = database.sql(TASKS_SQL).to_arrow_table().to_pylist()
    console.print(_table(rows))
    total = counts(run)
    words = [f"{total['num_samples']:,} samples", f"{total['num_output_tokens']:,} output tokens"]
    if timings:
        rate = total["num_output_tokens"] / timings["generate"]
        words += [f"{timings['total']:.1f} s in all", f"{rate:,.0f} tokens/s with the engine's start"]
    console.print(", ".join(words))
    for name, what in (
        ("samples/", "every question and answer"),
        ("metrics.parquet", "every score"),
        ("card.md", "the submission form, filled in"),
        ("logs/", "logs"),
    ):
        if run.exists(name.rstrip("/")):
            console.print(f"  {run.path(name)}  {what}", soft_wrap=True)
    if config.generation.repeats > 1:
        console.print(f"  scores are means over {config.generation.repeats} repeats of each question")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("task or domain", "split"):
        table.add_column(name, no_wrap=True)
    for name in ("n", "EM", "F1", "score", "correct", "truncated", "no answer", "failed", "tokens"):
        table.add_column(name, justify="right")
    level = None
    for row in rows:
        if level not in (None, row["level"]):
            table.add_section()
        level = row["level"]
        scores = [_number(row.get(name)) for name in ("em", "f1", "score", "correct")]
        tallies = [str(row[f"num_{name}"]) for name in ("truncated", "no_answer", "failed")]
        tokens = "" if level == "domain" else _count(row["num_tokens"])
        table.add_row(row["task"], row["split"], str(row["num_total"]), *scores, *tallies, tokens)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
