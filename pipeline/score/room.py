"""The score room: prompts/ and completions/ in, samples/ and metrics.parquet out; needs no GPU and no model.

    samples/task=<t>/split=<s>/part-00000.parquet    sorted by id and repeat
    metrics.parquet                                  see `pipeline/score/aggregate.py`

Both replace what was there only when the scoring is done, so a crash leaves the scores of before. Memory does not grow
with the rows: what has to be joined and sorted is DuckDB's, which spills to disk.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline import duck
from pipeline.config import Config
from pipeline.errors import DataError
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, SAMPLE_SCHEMA
from pipeline.score.aggregate import aggregate
from pipeline.score.join import account, joined
from pipeline.score.rows import score_batch
from pipeline.store import Folder, Stage

METRICS_FILE = "metrics.parquet"

ROWS_PER_FILE = 200_000
"""Rows from which the next batch goes into another file of the same task and split."""

_PARTITIONS = pa.schema([pa.field("task", pa.string()), pa.field("split", pa.string())])


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows of one task and split, and the file of it that they go into."""

    file: str
    rows: pa.RecordBatch


def score(run: Folder, config: Config) -> None:
    """Score a run's completions and write its samples and metrics.

    Raises:
        DataError: There are no prompts or no completions, they are damaged, or a task of theirs is not configured.
        RunError: The run's directory cannot be written.
        RuntimeError: The completions are not exactly the prompts' (our own bug); the message has the counts.
    """
    prompts, completions = _stage(run, "prompts", PROMPT_SCHEMA), _stage(run, "completions", COMPLETION_SCHEMA)
    repeats = config.generation.repeats
    domains = {name: task.domain for name, task in config.active_tasks.items()}
    with duck.connection() as database:
        found = account(database, prompts, completions, repeats)
        found.require_whole(repeats)
        with run.publish("samples", SAMPLE_SCHEMA) as folder:
            parts = _parts(joined(database, prompts, completions), ROWS_PER_FILE)
            num_samples = _write(folder, parts)
            if num_samples != completions.num_rows:
                raise RuntimeError(f"{num_samples} samples were written for {completions.num_rows} completions")
            metrics = aggregate(database, _samples(folder), domains)
            _require_configured(run, metrics, domains)
        _replace(run, METRICS_FILE, metrics)


def _stage(run: Folder, name: str, schema: pa.Schema) -> Stage:
    stage = run.stage(name, schema)
    if stage is None:
        raise DataError(f"{run.path(name)} is missing: start the run again with the same run_id, it goes on from there")
    return stage


def _parts(batches: Iterable[pa.RecordBatch], rows_per_file: int) -> Iterator[_Part]:
    """Score sorted batches and cut them where the task or split changes."""
    before: tuple[str, str] | None = None
    num_rows = 0
    for batch in batches:
        samples = score_batch(batch)
        keys = pc.run_end_encode(pc.binary_join_element_wise(batch.column("task"), batch.column("split"), "/"))
        start = 0
        for key, end in zip(keys.values.to_pylist(), keys.run_ends.to_pylist(), strict=True):
            task, split = key.split("/")
            num_rows = num_rows if before == (task, split) else 0
            file = f"task={task}/split={split}/part-{num_rows // rows_per_file:05}.parquet"
            yield _Part(file, samples.slice(start, end - start))
            before, num_rows, start = (task, split), num_rows + end - start, end


def _write(folder: Folder, parts: Iterable[_Part]) -> int:
    """Write each run of parts of one file and return the number of rows."""
    return sum(
        folder.write_parquet(file, SAMPLE_SCHEMA, (part.rows for part in group))
        for file, group in groupby(parts, key=lambda part: part.file)
    )


def _samples(folder: Folder) -> pads.Dataset:
    """Return the samples with the columns `task` and `split` from their directories' names."""
    return pads.dataset(
        [folder.path(name) for name in folder.files(suffix=".parquet")],
        schema=pa.unify_schemas([SAMPLE_SCHEMA, _PARTITIONS]),
        format="parquet",
        filesystem=folder.fs,
        partitioning=pads.partitioning(_PARTITIONS, flavor="hive"),
    )


def _require_configured(run: Folder, metrics: pa.Table, domains: dict[str, str]) -> None:
    """Raise when a task that has samples would be missing in every domain."""
    tasks = pc.unique(metrics.filter(pc.equal(metrics["level"], "task"))["task"]).to_pylist()
    strangers = sorted(set(tasks) - set(domains))
    if strangers:
        raise DataError(
            f"{run.root} has rows of {', '.join(strangers)}, which its config.yaml does not run: restore it"
        )


def _replace(run: Folder, name: str, table: pa.Table) -> None:
    """Write a Parquet file so that a reader sees the old or the new one, never a part."""
    partial = f".{name}.{uuid.uuid4().hex}"
    try:
        run.write_parquet(partial, table.schema, [table])
        with run.writing():
            run.fs.move(run.path(partial), run.path(name))
    finally:
        run.remove(partial)
