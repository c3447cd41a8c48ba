"""The generate room: prompts/ in, completions/ out, with Ray Data over the workers.

Ray Data places the actors, feeds them, holds back what they cannot take and makes them anew when they die. It moves
only work rows and statuses: completions are safe in the journals before it hears of them, and `compaction.commit`
makes the stage of them. A pass ends when every row is done, or when all that is left is held by replicas that have
given up; then the next pass goes on without those.
"""

from __future__ import annotations

import tempfile
import uuid
from contextlib import suppress
from dataclasses import replace

import pyarrow.compute as pc

from pipeline.config.schema import Config
from pipeline.errors import PipelineError
from pipeline.generate import compaction, journal, work_list
from pipeline.generate.cluster import Placement
from pipeline.generate.control import Control
from pipeline.generate.dispatch import DispatchPass
from pipeline.generate.engines.base import EngineFactory
from pipeline.generate.engines.vllm_engine import VllmFactory
from pipeline.generate.length_estimates import Lengths
from pipeline.generate.progress import Interruptions, Progress
from pipeline.generate.replica import ReplicaConfig
from pipeline.generate.work_list import Work
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Completion
from pipeline.runs.manifest import CompletionMetadata, Schedule, dump
from pipeline.storage.artifacts import ARTIFACT_FILE, Artifact, ArtifactStore


def engine_factory(config: Config, placement: Placement) -> EngineFactory:
    """Return what starts the engine that the configuration names, where the placement puts it."""
    match config.engine.kind:
        case "vllm":
            return VllmFactory(config, placement.spans_nodes)
        case "endpoint":
            from pipeline.generate.engines.openai_endpoint import EndpointFactory  # its client takes 0.3 s to import

            return EndpointFactory(config)


def done(run: ArtifactStore) -> CompletionMetadata | None:
    """Return what the engines said of themselves if the completions stage is there, so that none is needed; else None.

    What the stage was made of is removed then.
    """
    stage = run.artifact("completions", COMPLETION_SCHEMA)
    if stage is None:
        return None
    remove_journals(run)
    return CompletionMetadata.from_stored(stage.metadata)


def remove_journals(run: ArtifactStore) -> None:
    """Remove what the completions were made from, once they are published."""
    with suppress(PipelineError):  # an actor that is still ending may write there: it is in nobody's way
        run.remove(work_list.FOLDER)
        run.remove(journal.FOLDER)


def has_failed_rows(run: ArtifactStore) -> bool:
    """Return whether the completions stage is there and holds rows that failed."""
    stage = run.artifact("completions", COMPLETION_SCHEMA)
    return stage is not None and stage.dataset().count_rows(filter=~pc.field("error").is_null()) > 0


def reopen(run: ArtifactStore) -> None:
    """Make journals of a completions stage again, without its rows that failed, so that these are generated anew."""
    stage = run.artifact("completions", COMPLETION_SCHEMA)
    if stage is None:
        return
    folder = run.child(journal.FOLDER)
    run.remove(journal.FOLDER)
    batches = stage.dataset().to_batches(filter=pc.field("error").is_null(), batch_size=1_000)
    journal.keep(folder, (Completion(**row) for batch in batches for row in batch.to_pylist()))
    for name, info in CompletionMetadata.from_stored(stage.metadata).engine.items():
        journal.write_engine_info(folder, name, info)
    run.remove(f"completions/{ARTIFACT_FILE}")  # first: without it what is left is no stage
    run.remove("completions")


def generate(
    config: Config,
    run: ArtifactStore,
    placement: Placement,
    factory: EngineFactory,
    progress: Progress,
    interruptions: Interruptions,
    lengths: Lengths | None = None,
    *,
    shuffled: bool = False,
) -> CompletionMetadata:
    """Generate what is missing and publish the completions stage. Ray is running.

    Args:
        config: The run's configuration.
        run: The run's directory, with its prompts stage.
        placement: Where the replicas go.
        factory: Starts the engine in each replica.
        progress: Told as rows finish.
        interruptions: Looked at a few times a second.
        lengths: What an earlier run tells of the completions' lengths; rows start in their order.
        shuffled: Rows start in an order that has nothing to do with their lengths.

    Returns:
        What is stored with the completions.

    Raises:
        Interrupted: The user asked to stop; finished rows stay.
        PipelineError: No engine can start or the disk cannot be written; finished rows stay.
        RuntimeError: Rows are missing at the end.
    """
    prompts = run.require_artifact("prompts", PROMPT_SCHEMA)
    repeats = config.generation.repeats
    # Rows that failed in an earlier session are tried again, once: what was in their way may have passed.
    earlier_journals = frozenset(run.child(journal.FOLDER).files(suffix=journal.SUFFIX))
    work = _work(run, prompts, repeats, earlier_journals, lengths, shuffled)
    progress.begin(prompts.num_rows * repeats, work.num_rows, work.order)
    order = Schedule(history=work.history, num_known=work.num_known, num_rows=work.num_rows)
    while work.num_rows:
        replica_config = _replica_config(config, run, factory)
        dispatch_pass = DispatchPass(work, replica_config, placement, progress, interruptions)
        num_given_up = dispatch_pass.run(run)
        if dispatch_pass.num_done == work.num_rows:
            break
        placement = replace(placement, num_replicas=placement.num_replicas - num_given_up)
        work = _work(run, prompts, repeats, earlier_journals, lengths, shuffled)
    metadata = CompletionMetadata(schedule=order, engine=journal.read_engine_info(run.child(journal.FOLDER)))
    compaction.commit(run, prompts, repeats, dump(metadata))
    remove_journals(run)
    return metadata


def _work(
    run: ArtifactStore,
    prompts: Artifact,
    repeats: int,
    earlier_journals: frozenset[str],
    lengths: Lengths | None,
    shuffled: bool,
) -> Work:
    finished = journal.read(run.child(journal.FOLDER), without_errors_of=earlier_journals)
    return work_list.write_work(run, prompts, finished, repeats, lengths, shuffled=shuffled)


def _replica_config(config: Config, run: ArtifactStore, factory: EngineFactory) -> ReplicaConfig:
    session = uuid.uuid4().hex[:12]
    control = Control(run.child(journal.FOLDER).child(f"session-{session}"))
    control.store.create()
    return ReplicaConfig(
        factory=factory,
        journal=run.child(journal.FOLDER),
        control=control,
        session=session,
        flush_s=config.run.flush_s,
        slots=config.engine.slots,
        seed=config.seed,
        max_restarts=config.engine.max_restarts,
        log_dir=str(run.local / "logs") if run.local else f"{tempfile.gettempdir()}/pipeline-logs",
    )
