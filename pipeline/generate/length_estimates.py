"""Completion lengths of a past run, by which this run's rows are ordered.

In: the configuration's `schedule.history` and the samples of past runs in output_dir. Out: `Lengths`, or None where no
run has any. They are estimates: nothing but the order depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import fields as config_fields
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, UserError
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs import past_runs
from pipeline.runs.index import model_key
from pipeline.runs.manifest import prompt_metadata
from pipeline.runs.past_runs import PastRun
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact

KEY = "schedule.history"

PROMPT_LENGTHS = pa.schema([pa.field("prompt", pa.uint64()), pa.field("tokens", pa.float32())])
TASK_LENGTHS = pa.schema(
    [pa.field("task", pa.string()), pa.field("split", pa.string()), pa.field("tokens", pa.float32())]
)

_COLUMNS = ["task", "split", "id", "prompt_sha256", "num_output_tokens", "error"]

KEY_OF_PROMPT, KEY_OF_QUESTION = "hash(prompt_sha256)", "hash(task, split, id)"

# A truncated completion counts with the tokens that it has: it is at least as long.
_BY_PROMPT = """
    SELECT {key}::UBIGINT AS prompt, avg(least(num_output_tokens, $max_tokens))::FLOAT AS tokens
    FROM samples WHERE num_output_tokens IS NOT NULL AND error IS NULL GROUP BY ALL
"""
_BY_TASK = """
    SELECT task, split, avg(least(num_output_tokens, $max_tokens))::FLOAT AS tokens
    FROM samples WHERE num_output_tokens IS NOT NULL AND error IS NULL
    GROUP BY GROUPING SETS ((task, split), (task), ())
"""

_HAS_ONE_OF = "SELECT 1 FROM prompts SEMI JOIN by_prompt ON by_prompt.prompt = {key} LIMIT 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a completion in the run `run_id`, at most this run's `generation.max_gen_toks`.

    `model` is the name of that run's model if it is another one (None: this run's). `by_prompt` has a row of 12 bytes a
    prompt, which is identified by DuckDB's hash of its prompt_sha256, or, if `is_by_question`, of its task, split and
    id: another model's prompts have another text. `by_task` has a row for each task and split, for each task (split
    null), and for all (both null).
    """

    run_id: str
    model: str | None = None
    is_by_question: bool = False
    by_prompt: pa.Table
    by_task: pa.Table

    @property
    def key(self) -> str:
        """The SQL expression that identifies a prompt in `by_prompt`."""
        return KEY_OF_QUESTION if self.is_by_question else KEY_OF_PROMPT


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

    `latest` selects among the runs of this model that have a completion of one of the prompts: the newest one that
    covers all that this run requests, else the newest one. Where none has, it selects in the same way among the runs of
    other models (unless `schedule.other_models` is false) that have a completion of one of the questions, and then
    among all runs of this model, whose mean lengths are better than none.

    Args:
        config: The run's configuration.
        prompts: Its prompts.

    Raises:
        ConfigError: The named run is missing, not complete, damaged, or has no lengths.
        RunError: output_dir cannot be reached.
    """
    unread: list[str] = []
    match config.schedule.history:
        case None:
            return None, unread
        case config_fields.LATEST:
            return _latest(config, prompts, unread), unread
        case run_id:
            run = past_runs.named(config, KEY, run_id)
            try:
                lengths = _named(run, config, prompts)
            except UserError as error:
                raise ConfigError(f"{KEY}={run_id!r}: {error}") from error
            if not _has_lengths(lengths):
                raise ConfigError(f"{KEY}={run_id!r}: its samples have no output tokens; name another run, or null")
            return lengths, unread


def _latest(config: Config, prompts: Artifact, unread: list[str]) -> Lengths | None:
    runs = past_runs.of_model(config, unread, lambda entry: entry.shares_tasks(config))
    found = past_runs.each(_covering_first(runs, config), lambda run: _read(run, config), unread)
    own = past_runs.best_of(found, lambda each: _has_one_of(prompts, each), _has_lengths)
    if not config.schedule.other_models or (own is not None and _has_one_of(prompts, own)):
        return own
    return _of_another_model(config, prompts, unread) or own


def _of_another_model(config: Config, prompts: Artifact, unread: list[str]) -> Lengths | None:
    revisions = _revisions(prompts)
    also_unread: list[str] = []
    runs = past_runs.of_other_models(config, also_unread, lambda entry: bool(entry.same_tasks(revisions)))
    found = past_runs.each(
        _covering_first(runs, config), lambda run: _read(run, config, run.entry.same_tasks(revisions)), also_unread
    )
    lengths = next((each for each in found if _has_one_of(prompts, each)), None)
    unread.extend(line for line in also_unread if line not in unread)  # the same runs were read before
    return lengths


def _covering_first(runs: Iterable[PastRun], config: Config) -> Iterator[PastRun]:
    """Yield the runs that cover all that is requested, then the others; a run is opened only when it is needed."""
    others = []
    for run in runs:
        if run.entry.covers(config):
            yield run
        else:
            others.append(run)
    yield from others


def _named(run: PastRun, config: Config, prompts: Artifact) -> Lengths:
    """Return the lengths by prompt, or by question if the run has none of the prompts but the same data sets."""
    lengths = _read(run, config)
    same_tasks = run.entry.same_tasks(_revisions(prompts))
    return _read(run, config, same_tasks) if same_tasks and not _has_one_of(prompts, lengths) else lengths


def _revisions(prompts: Artifact) -> Mapping[str, str]:
    return prompt_metadata(prompts.store, prompts.metadata).dataset_revisions


def _has_lengths(lengths: Lengths) -> bool:
    return bool(lengths.by_prompt.num_rows)


def _has_one_of(prompts: Artifact, lengths: Lengths) -> bool:
    with query.connection() as database:
        database.register("prompts", query.scanner(prompts, ["task", "split", "id", "prompt_sha256"]))
        database.register("by_prompt", lengths.by_prompt)
        return database.execute(_HAS_ONE_OF.format(key=lengths.key)).fetchone() is not None


def none() -> Lengths:
    """Return the lengths of no prompts."""
    return Lengths(run_id="", by_prompt=PROMPT_LENGTHS.empty_table(), by_task=TASK_LENGTHS.empty_table())


def _read(run: PastRun, config: Config, same_tasks: Sequence[str] | None = None) -> Lengths:
    """Return a run's lengths by prompt; by question and of these tasks alone, if `same_tasks` are given."""
    samples = run.store.require_artifact("samples", SAMPLE_SCHEMA)
    where = None if same_tasks is None else pc.field("task").isin(list(same_tasks))
    lengths = replace(
        none(),
        run_id=run.run_id,
        model=None if run.entry.model == model_key(config) else run.entry.model_name,
        is_by_question=same_tasks is not None,
    )
    tables = []
    with query.connection() as database:
        for sql, schema in ((_BY_PROMPT.format(key=lengths.key), PROMPT_LENGTHS), (_BY_TASK, TASK_LENGTHS)):
            database.register("samples", query.scanner(samples, _COLUMNS, where))
            parameters = {"max_tokens": config.generation.max_gen_toks}
            tables.append(query.batches(database, sql, parameters, rows=query.BATCH_ROWS).read_all().cast(schema))
    return replace(lengths, by_prompt=tables[0], by_task=tables[1])
