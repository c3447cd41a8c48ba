"""The score stage: reads prompts/ and completions/, writes samples/ and metrics.parquet; needs no GPU and no model.

    samples/task=<t>/split=<s>/part-00000.parquet    sorted by id and repeat
    metrics.parquet    see `pipeline/score/aggregate.py`, and `pipeline/score/extraction_groups.py` for the letters

Both replace the previous versions only when scoring is complete: after a crash, a local disk has the previous scores
and object storage has no samples. Memory does not grow with the rows: whole rows are joined and sorted for one file of
samples at a time.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.config.schema import Config
from pipeline.records import COMPLETION_SCHEMA, METRICS_FILE, PROMPT_SCHEMA, RULES_KEY, SAMPLE_SCHEMA
from pipeline.runs.evaluated import model_of
from pipeline.runs.identity import settings_hash
from pipeline.score.aggregate import aggregate
from pipeline.score.extraction import RULES_VERSION
from pipeline.score.extraction_groups import extraction_groups
from pipeline.score.join import count_keys, joined
from pipeline.score.row_scores import score_batch
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.storage.partitions import id_ranges
from pipeline.storage.repeats import count_rows, define, most

ROWS_PER_FILE = 50_000
"""Rows per file of samples; at 10,000 tokens a row their join takes about 4 GB, the memory limit of DuckDB."""


def score(run: ArtifactStore, config: Config, *, rows_per_file: int = ROWS_PER_FILE) -> None:
    """Score a run's completions and write its samples and metrics.

    Args:
        run: The run's directory, with prompts/ and completions/.
        config: The run's configuration, for the repeats and the tasks' domains.
        rows_per_file: Maximum rows per file of samples; the repeats of a question stay together.

    Raises:
        ConfigError: `tasks.<name>.cluster` is no category of the task.
        DataError: Prompts or completions are missing or damaged, or have a task or split that is not configured.
        RunError: The run's directory cannot be written.
        RuntimeError: Completions do not match the prompts (a bug of the pipeline); the message has the counts.
    """
    prompts, completions = (
        run.require_artifact("prompts", PROMPT_SCHEMA),
        run.require_artifact("completions", COMPLETION_SCHEMA),
    )
    repeats = config.generation.repeats_by_split
    domains = {name: task.domain for name, task in config.active_tasks.items()}
    clusters = {name: task.cluster for name, task in config.active_tasks.items() if task.cluster is not None}
    query.require_cells(prompts, domains, config.splits)
    footer = _footer(config)
    with query.connection() as database:
        define(database, repeats)
        count_keys(database, prompts, completions).require_whole(count_rows(prompts, repeats))
        with run.publish("samples", SAMPLE_SCHEMA, {RULES_KEY: RULES_VERSION}) as store:
            num_samples = 0
            database.register("prompts", query.scanner(prompts, ["task", "split", "id"]))
            for ids in id_ranges(database, "FROM prompts", max(1, rows_per_file // most(repeats))):
                file = f"task={ids.task}/split={ids.split}/part-{ids.number:05}.parquet"
                batches = joined(database, prompts, completions, ids)
                num_samples += store.write_parquet(file, SAMPLE_SCHEMA.with_metadata(footer), map(score_batch, batches))
            if num_samples != completions.num_rows:
                raise RuntimeError(f"{num_samples} samples were written for {completions.num_rows} completions")
            files = [Artifact(store, SAMPLE_SCHEMA, {name: 0}, {}).dataset() for name in store.files(suffix=".parquet")]
            metrics = aggregate(database, files, domains, repeats, clusters)
            metrics = pa.concat_tables([metrics, extraction_groups(database, files)])
        run.replace_parquet(METRICS_FILE, metrics.replace_schema_metadata(footer))


def _footer(config: Config) -> dict[str, str]:
    """Return what the footers of samples and metrics record of the run: a file is often copied out of its directory."""
    said = {
        "run_id": config.run_id,
        "conf": config.conf,
        "model": model_of(config, {}),
        "settings_hash": settings_hash(config),
        "limit": config.limit,
    }
    return {f"pipeline.{name}": str(value) for name, value in said.items() if value not in (None, "")}
