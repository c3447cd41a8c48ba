"""Estimate the tokens and time of a run from a past run of the same questions.

In: a configuration, its prompts, and the runs of its output_dir. Out: `Expected`, from the newest complete run of the
same model with the same prompts, else with the same tasks; None if there is none. Nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.schema import Config
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs import past_runs
from pipeline.runs.manifest import Manifest
from pipeline.runs.past_runs import PastRun
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact
from pipeline.storage.repeats import define

# The mean of the same prompt if the past run has it, else the mean of its task.
TOKENS_SQL = """
    WITH one AS (SELECT task, split, id, prompt_sha256, avg(num_output_tokens) AS tokens FROM samples
                 WHERE num_output_tokens IS NOT NULL GROUP BY ALL),
    whole AS (SELECT task, avg(num_output_tokens) AS tokens,
                     count(*) FILTER (finish_reason = 'length') / count(*) AS truncated FROM samples
              WHERE num_output_tokens IS NOT NULL GROUP BY task),
    known AS (SELECT p.task, p.split, one.tokens AS same, truncated, coalesce(one.tokens, whole.tokens) AS mean,
                     if(mean > $most, $most, mean) AS tokens
              FROM prompts p LEFT JOIN one USING (task, split, id, prompt_sha256)
              LEFT JOIN whole ON whole.task = p.task WHERE p.error IS NULL)
    SELECT task, count(*) AS num_rows, count(same) AS num_same, any_value(truncated) AS truncated,
           avg(tokens) AS mean_tokens, sum(tokens * repeats_of(split)) AS num_tokens
    FROM known GROUP BY task ORDER BY task
"""

BUSY_SQL = "SELECT sum(num_output_tokens) / nullif(sum(generated_s), 0) FROM samples WHERE generated_s IS NOT NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTokens:
    """The estimate for a task: `num_rows` questions, of which the past run has `num_same` with the same prompt.

    `mean_tokens` is the mean length of a completion (None: the past run does not have the task), `num_tokens` the
    length of all completions with their repeats; `truncated` is the fraction of the past run's completions that reached
    its token budget.
    """

    task: str
    num_rows: int
    num_same: int
    mean_tokens: float | None
    num_tokens: float | None
    truncated: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The estimate from the past run `run_id`: tokens by task, and its speed in tokens/s without the engines' start.

    `max_gen_toks` was its token budget, `num_replicas` its number of engines, `engine_start_s` the longest start of an
    engine in seconds. A field is None if the manifest does not have the value.
    """

    run_id: str
    ended_at: str
    max_gen_toks: int
    tasks: Sequence[TaskTokens]
    num_replicas: int | None
    engine_start_s: float | None
    tokens_per_s: float | None

    @property
    def num_tokens(self) -> float | None:
        """The number of tokens to generate, or None if a task is unknown."""
        found = [each.num_tokens for each in self.tasks if each.num_tokens is not None]
        return sum(found) if len(found) == len(self.tasks) else None

    @property
    def seconds(self) -> float | None:
        """The seconds of the generate stage on the past run's engines, or None if unknown."""
        if self.num_tokens is None or self.tokens_per_s is None:
            return None
        seconds = (self.engine_start_s or 0.0) + self.num_tokens / self.tokens_per_s
        return seconds if 0 < seconds < math.inf else None  # a manifest may have any numbers


def expect(config: Config, prompts: Artifact) -> tuple[Expected | None, list[str]]:
    """Return the estimate for the prompts, and a line for each past run that could not be read.

    Raises:
        RunError: output_dir cannot be opened or reached.
    """
    unread: list[str] = []
    found = past_runs.each(past_runs.of_model(config, unread), lambda run: _expected(run, config, prompts), unread)
    return past_runs.best_of(found, _has_same_prompt, _has_lengths), unread


def _has_same_prompt(expected: Expected) -> bool:
    return any(each.num_same for each in expected.tasks)


def _has_lengths(expected: Expected) -> bool:
    return any(each.mean_tokens is not None for each in expected.tasks)


def _expected(run: PastRun, config: Config, prompts: Artifact) -> Expected:
    entry, manifest = run.entry, run.manifest
    samples = run.store.require_artifact("samples", SAMPLE_SCHEMA)
    with query.connection() as database:
        database.register("prompts", prompts.dataset())
        database.register("samples", samples.dataset())
        define(database, config.generation.repeats_by_split)
        rows = query.rows(database, TOKENS_SQL, {"most": config.generation.max_gen_toks})
        busy = database.execute(BUSY_SQL).fetchone()
    engines = manifest.engine
    starts = [info.engine_start_s for info in engines.values() if info.engine_start_s is not None]
    start_s = max(starts, default=None)
    return Expected(
        run_id=run.run_id,
        ended_at=manifest.ended_at or "",
        max_gen_toks=entry.max_gen_toks,
        tasks=[TaskTokens(**row) for row in rows],
        num_replicas=len(engines) or None,
        engine_start_s=start_s,
        tokens_per_s=_rate(manifest, start_s, busy[0] if busy else None, len(engines) * entry.num_slots),
    )


def _rate(manifest: Manifest, start_s: float | None, row_rate: float | None, num_slots: int) -> float | None:
    """Return the tokens per second of the generate stage without the engines' start.

    The times of a resumed run are those of its last session only, so its rate would be too high. The rate is therefore
    capped at that of all slots, each at the mean rate of one row.
    """
    tokens = manifest.counts.num_output_tokens if manifest.counts else None
    generate_s = manifest.timings_s.get("generate")
    if not tokens or not generate_s or generate_s <= (start_s or 0.0):
        return None
    rate = float(tokens) / (float(generate_s) - (start_s or 0.0))
    return min(rate, row_rate * num_slots) if row_rate and num_slots else rate
