"""The generate room: prompts/ in, completions/ out, with Ray Data over the workers.

Ray Data places the actors, feeds them, holds back what they cannot take and makes them anew when they die. It moves
only work rows and statuses: completions are safe in the journals before it hears of them, and `completions.commit`
makes the stage of them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.config import Config
from pipeline.errors import DataError, PipelineError
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What has happened since the last report."""

    num_rows: int
    num_failed: int
    num_output_tokens: int


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
    report: Callable[[Progress], None],
    announce: Callable[[int, int], None],
) -> None:
    """Generate what is missing and publish the completions stage. Ray is running.

    Args:
        config: The run's configuration.
        run: The run's directory, with its prompts stage.
        placement: Where the replicas go.
        factory: Starts the engine in each replica.
        report: Called as rows finish.
        announce: Called once, with the number of rows of the whole stage and of those still to do.

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
    announce(prompts.num_rows * repeats, num_work)
    if num_work:
        _run_workers(config, run, placement, factory, report, files, num_work)
    completions.commit(run, prompts, repeats)
    run.remove(schedule.FOLDER)
    run.remove(journal.FOLDER)


def _run_workers(
    config: Config,
    run: Folder,
    placement: Placement,
    factory: EngineFactory,
    report: Callable[[Progress], None],
    files: list[str],
    num_work: int,
) -> None:
    import ray.data
    from ray.exceptions import RayError

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
    try:
        for block in statuses.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            num_done += block.num_rows
            report(_progress(block))
    except RayError as error:
        raise _ours(error) or error from error
    if num_done != num_work:
        raise RuntimeError(f"{num_work} rows went to the workers, {num_done} came back")


def _progress(block: Any) -> Progress:
    return Progress(
        num_rows=block.num_rows,
        num_failed=sum(block.column("failed").to_pylist()),
        num_output_tokens=sum(block.column("num_output_tokens").to_pylist()),
    )


def _quiet(context: Any) -> None:
    """Keep Ray Data's bars and advice off the terminal."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _ours(error: BaseException) -> PipelineError | None:
    """Return the pipeline's own error inside Ray's wrapping, if that is what ended the run."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PipelineError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return None
