"""The generate room: prompts/ in, completions/ out, with Ray Data over the workers.

Ray Data places the actors, feeds them, holds back what they cannot take and makes them anew when they die. It moves
only work rows and statuses: completions are safe in the journals before it hears of them, and `completions.commit`
makes the stage of them.
"""

from __future__ import annotations

import math
import tempfile
from typing import Any, Protocol

from pipeline import errors
from pipeline.config import Config
from pipeline.errors import DataError
from pipeline.generate import completions, journal, schedule
from pipeline.generate.cluster import Placement
from pipeline.generate.endpoint import EndpointFactory
from pipeline.generate.engine import EngineFactory
from pipeline.generate.vllm_engine import VllmFactory
from pipeline.generate.worker import Duty, Worker
from pipeline.records import PROMPT_SCHEMA
from pipeline.store import Folder

ROWS_PER_BLOCK = 4
"""Few rows a block keep the last rows spread over all replicas; measured best together with `OVERSUBSCRIPTION`."""

OVERSUBSCRIPTION = 2
"""Rows at a replica for each slot of its engine, so that a free slot never waits for the driver."""


class Progress(Protocol):
    """Hears how far the stage is."""

    def begin(self, num_rows: int, num_left: int) -> None:
        """`num_left` of the stage's `num_rows` rows are still to be generated."""

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int) -> None:
        """So many rows have finished since the last call."""


def engine_factory(config: Config) -> EngineFactory:
    """Return what starts the engine that the configuration names."""
    match config.engine.kind:
        case "vllm":
            return VllmFactory(config)
        case "endpoint":
            return EndpointFactory(config)


def generate(
    config: Config,
    run: Folder,
    placement: Placement,
    factory: EngineFactory,
    progress: Progress,
) -> dict[str, Any]:
    """Generate what is missing and publish the completions stage. Ray is running.

    Args:
        config: The run's configuration.
        run: The run's directory, with its prompts stage.
        placement: Where the replicas go.
        factory: Starts the engine in each replica.
        progress: Told as rows finish.

    Returns:
        What each replica's engine said of itself, by the replica's name; none where nothing was left to do.

    Raises:
        PipelineError: The engine cannot start or the disk cannot be written; finished rows stay.
        RuntimeError: Rows are missing at the end.
    """
    prompts = run.stage("prompts", PROMPT_SCHEMA)
    if prompts is None:
        raise DataError(f"{run.path('prompts')} is missing: run again with this run_id to prepare it")
    repeats = config.generation.repeats
    finished = journal.read(run.child(journal.FOLDER))
    files, num_work = schedule.write_work(run, prompts, finished, repeats)
    progress.begin(prompts.num_rows * repeats, num_work)
    if num_work:
        _run_workers(config, run, placement, factory, progress, files, num_work)
    completions.commit(run, prompts, repeats)
    facts = journal.facts(run.child(journal.FOLDER))
    run.remove(schedule.FOLDER)
    run.remove(journal.FOLDER)
    return facts


def _run_workers(
    config: Config,
    run: Folder,
    placement: Placement,
    factory: EngineFactory,
    progress: Progress,
    files: list[str],
    num_work: int,
) -> None:
    import ray.data

    _quiet(ray.data.DataContext.get_current())
    slots = config.engine.slots
    blocks_per_replica = max(1, math.ceil(OVERSUBSCRIPTION * slots / ROWS_PER_BLOCK))
    duty = Duty(
        factory=factory,
        journal=run.child(journal.FOLDER),
        flush_s=config.run.flush_s,
        slots=slots,
        seed=config.seed,
        log_dir=str(run.local / "logs") if run.local else f"{tempfile.gettempdir()}/pipeline-logs",
    )
    work = ray.data.read_parquet([run.path(name) for name in files], filesystem=run.fs, schema=schedule.WORK_SCHEMA)
    statuses = work.repartition(target_num_rows_per_block=ROWS_PER_BLOCK).map_batches(
        Worker,
        fn_constructor_args=(duty,),
        batch_size=ROWS_PER_BLOCK,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=placement.num_replicas,
            max_tasks_in_flight_per_actor=blocks_per_replica,
            max_concurrent_calls_per_actor=blocks_per_replica,
        ),
        num_gpus=placement.gpus_per_replica,
        num_cpus=0 if placement.gpus_per_replica else 1,
    )
    num_done = 0
    for block in statuses.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        _raise_fatal(block)
        num_done += block.num_rows
        num_failed = sum(block.column("failed").to_pylist())
        progress.advance(block.num_rows, num_failed, sum(block.column("num_output_tokens").to_pylist()))
    if num_done != num_work:
        raise RuntimeError(f"{num_work} rows went to the workers, {num_done} came back")


def _quiet(context: Any) -> None:
    """Keep Ray Data's bars and advice off the terminal."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _raise_fatal(block: Any) -> None:
    """Raise the error of a worker that says that the run cannot go on."""
    for kind, text in zip(block.column("fatal_kind").to_pylist(), block.column("fatal").to_pylist(), strict=True):
        if kind is not None:
            raise getattr(errors, kind)(text)
