"""Completion lengths of a past run, by which this run's rows are ordered.

In: the configuration's `schedule.history` and the samples of past runs in output_dir. Out: `Lengths`, or None where no
run has any. They are estimates: nothing but the order depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.config import fields as config_fields
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, UserError
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs import past_runs
from pipeline.runs.past_runs import PastRun
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact

KEY = "schedule.history"

PROMPT_LENGTHS = pa.schema([pa.field("prompt", pa.uint64()), pa.field("tokens", pa.float32())])
TASK_LENGTHS = pa.schema(
    [pa.field("task", pa.string()), pa.field("split", pa.string()), pa.field("tokens", pa.float32())]
)

_COLUMNS = ["task", "split", "prompt_sha256", "num_output_tokens", "error"]

# A truncated completion counts with the tokens that it has: it is at least as long.
_BY_PROMPT = """
    SELECT hash(prompt_sha256)::UBIGINT AS prompt, avg(least(num_output_tokens, $max_tokens))::FLOAT AS tokens
    FROM samples WHERE num_output_tokens IS NOT NULL AND error IS NULL GROUP BY ALL
"""
_BY_TASK = """
    SELECT task, split, avg(least(num_output_tokens, $max_tokens))::FLOAT AS tokens
    FROM samples WHERE num_output_tokens IS NOT NULL AND error IS NULL
    GROUP BY GROUPING SETS ((task, split), (task), ())
"""

_HAS_ONE_OF = "SELECT 1 FROM prompts SEMI JOIN by_prompt ON by_prompt.prompt = hash(prompt_sha256) LIMIT 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a completion in the run `run_id`, at most this run's `generation.max_gen_toks`.

    `by_prompt` has a row of 12 bytes a prompt, which is identified by DuckDB's hash of its prompt_sha256. `by_task` has
    a row for each task and split, for each task (split null), and for all (both null).
    """

    run_id: str
    by_prompt: pa.Table
    by_task: pa.Table


def check(config: Config) -> None:
    """Check, before anything is prepared, that the run that `schedule.history` names exists.

    Raises:
        ConfigError: There is no such run, it is not complete, or what it recorded cannot be read.
        RunError: output_dir cannot be reached.
    """
    if config.schedule.history not in (None, config_fields.LATEST):
        past_runs.named(config, KEY, str(config.schedule.history))


def find(config: Config, prompts: Artifact) -> tuple[Lengths | None, list[str]]:
    """Return the lengths that `schedule.history` selects, and a line for each run that could not be read.

    `latest` selects among the runs that have a completion of one of the prompts, or among all runs where none has: the
    newest one that covers all that this run requests, else the newest one.

    Args:
        config: The run's configuration.
        prompts: Its prompts.

    Raises:
        ConfigError: The named run is missing, not complete, damaged, or has no lengths.
        RunError: output_dir cannot be reached.
    """
    unread: list[str] = []
    max_tokens = config.generation.max_gen_toks
    match config.schedule.history:
        case None:
            return None, unread
        case config_fields.LATEST:
            runs = list(past_runs.of_model(config, unread, lambda entry: entry.shares_tasks(config)))
            runs.sort(key=lambda run: not run.entry.covers(config))
            found = past_runs.each(runs, lambda run: _read(run, max_tokens), unread)
            return past_runs.best_of(found, lambda each: _has_one_of(prompts, each), _has_lengths), unread
        case run_id:
            run = past_runs.named(config, KEY, run_id)
            try:
                lengths = _read(run, max_tokens)
            except UserError as error:
                raise ConfigError(f"{KEY}={run_id!r}: {error}") from error
            if not _has_lengths(lengths):
                raise ConfigError(f"{KEY}={run_id!r}: its samples tell no output tokens; name another run, or null")
            return lengths, unread


def _has_lengths(lengths: Lengths) -> bool:
    return bool(lengths.by_prompt.num_rows)


def _has_one_of(prompts: Artifact, lengths: Lengths) -> bool:
    with query.connection() as database:
        database.register("prompts", query.scanner(prompts, ["prompt_sha256"]))
        database.register("by_prompt", lengths.by_prompt)
        return database.execute(_HAS_ONE_OF).fetchone() is not None


def none() -> Lengths:
    """Return the lengths of no prompts."""
    return Lengths(run_id="", by_prompt=PROMPT_LENGTHS.empty_table(), by_task=TASK_LENGTHS.empty_table())


def _read(run: PastRun, max_tokens: int) -> Lengths:
    samples = run.store.require_artifact("samples", SAMPLE_SCHEMA)
    tables = []
    with query.connection() as database:
        for sql, schema in ((_BY_PROMPT, PROMPT_LENGTHS), (_BY_TASK, TASK_LENGTHS)):
            database.register("samples", query.scanner(samples, _COLUMNS))
            reader = query.batches(database, sql, {"max_tokens": max_tokens}, rows=query.BATCH_ROWS)
            tables.append(reader.read_all().cast(schema))
    return Lengths(run_id=run.run_id, by_prompt=tables[0], by_task=tables[1])
