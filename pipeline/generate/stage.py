"""The generate stage: prompts/ in, completions/ out, with Ray Data over the replicas.

Ray Data places the actors, sends them blocks, applies backpressure and restarts them when they crash. It moves only
work rows and statuses: a completion is in a journal before Ray Data gets its status, and `compaction.commit` publishes
the completions. A dispatch pass ends when every row is done, or when all rows left are held by replicas that have given
up; then the next pass continues without those.
"""

from __future__ import annotations

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
from pipeline.generate.storage_proof import StorageProof
from pipeline.generate.work_list import Work
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Completion
from pipeline.runs import logs
from pipeline.runs.manifest import CompletionMetadata, Schedule, completion_metadata, dump
from pipeline.storage.artifacts import ARTIFACT_FILE, ArtifactStore


def engine_factory(config: Config, placement: Placement) -> EngineFactory:
    """Return the factory of the configured engine, for replicas with this placement."""
    match config.engine.kind:
        case "vllm":
            return VllmFactory(config, placement.spans_nodes)
        case "endpoint":
            from pipeline.generate.engines.openai_endpoint import EndpointFactory  # its client takes 0.3 s to import

            return EndpointFactory(config)


def done(run: ArtifactStore) -> CompletionMetadata | None:
    """Return what is recorded with the completions if they are published, so that no engine is needed; else None.

    The journals of published completions are removed.
    """
    completions = run.artifact("completions", COMPLETION_SCHEMA)
    if completions is None:
        return None
    remove_journals(run)
    return completion_metadata(completions.store, completions.metadata)


def remove_journals(run: ArtifactStore) -> None:
    """Remove the work list and the journals, once the completions are published."""
    with suppress(PipelineError):  # an actor that is still shutting down may write there, which does no harm
        run.remove(work_list.DIRECTORY)
        run.remove(journal.DIRECTORY)


def has_failed_rows(run: ArtifactStore) -> bool:
    """Return whether the completions are published and contain failed rows."""
    completions = run.artifact("completions", COMPLETION_SCHEMA)
    return completions is not None and completions.dataset().count_rows(filter=~pc.field("error").is_null()) > 0


def reopen(run: ArtifactStore) -> None:
    """Turn published completions back into a journal, without the failed rows, so that these are generated again."""
    completions = run.artifact("completions", COMPLETION_SCHEMA)
    if completions is None:
        return
    store = run.child(journal.DIRECTORY)
    run.remove(journal.DIRECTORY)
    batches = completions.dataset().to_batches(filter=pc.field("error").is_null(), batch_size=1_000)
    journal.keep(store, (Completion(**row) for batch in batches for row in batch.to_pylist()))
    for name, info in completion_metadata(completions.store, completions.metadata).engine.items():
        journal.write_engine_info(store, name, info)
    run.remove(f"completions/{ARTIFACT_FILE}")  # first: without it the remaining files are no artifact
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
    """Generate the missing completions and publish all of them. Ray is running.

    Args:
        config: The run's configuration.
        run: The run's directory, with its prompts.
        placement: Where the replicas run.
        factory: Starts the engine in each replica.
        progress: Receives the progress.
        interruptions: Checked a few times a second.
        lengths: Completion lengths of a past run, by which the rows are ordered.
        shuffled: Whether rows start in an order that is independent of their lengths.

    Returns:
        What is recorded with the completions.

    Raises:
        Interrupted: The user asked to stop; finished rows are kept.
        PipelineError: No engine can start or the disk cannot be written; finished rows are kept.
        RuntimeError: Rows are missing at the end.
    """
    prompts = run.require_artifact("prompts", PROMPT_SCHEMA)
    journals, repeats = run.child(journal.DIRECTORY), config.generation.repeats
    # Rows that failed in a previous session are retried once: the cause may be gone.
    previous_journals = frozenset(journals.files(suffix=journal.SUFFIX))

    def remaining_work() -> Work:
        finished = journal.read(journals, without_errors_of=previous_journals)
        return work_list.write_work(run, prompts, finished, repeats, lengths, shuffled=shuffled)

    work = remaining_work()
    progress.begin(prompts.num_rows * repeats, work.num_rows, work.order, work.expected_tokens)
    schedule = Schedule(history=work.history, num_known=work.num_known, num_rows=work.num_rows)
    while work.num_rows:
        few = work.num_rows <= placement.num_replicas * config.engine.slots
        replica_config = _replica_config(config, run, factory, ends_when_alike=not (few and _has_worked(journals)))
        dispatch_pass = DispatchPass(work, replica_config, placement, progress, interruptions)
        num_given_up = dispatch_pass.run(run)
        if dispatch_pass.num_done == work.num_rows:
            break
        # From here on the pool keeps its size: it would grow onto the GPUs that replicas have given up on.
        placement = replace(placement, num_replicas=dispatch_pass.num_replicas - num_given_up, grows=False)
        work = remaining_work()
    metadata = CompletionMetadata(schedule=schedule, engine=journal.read_engine_info(journals))
    compaction.commit(run, prompts, repeats, dump(metadata))
    remove_journals(run)
    return metadata


def _has_worked(journals: ArtifactStore) -> bool:
    """Return whether an engine has finished a row of this run, so that the last few rows may all be poison rows."""
    return any(row.error is None for row in journal.read(journals))


def _replica_config(
    config: Config, run: ArtifactStore, factory: EngineFactory, *, ends_when_alike: bool
) -> ReplicaConfig:
    """Return the configuration of a new session's replicas, with its own directory of control messages."""
    session = uuid.uuid4().hex[:12]
    control = Control(run.child(journal.DIRECTORY).child(f"session-{session}"))
    return ReplicaConfig(
        factory=factory,
        journal=run.child(journal.DIRECTORY),
        control=control,
        proof=StorageProof.begin(config.output_dir, control.store, session),
        session=session,
        flush_s=config.run.flush_s,
        slots=config.engine.slots,
        seed=config.seed,
        max_restarts=config.engine.max_restarts,
        max_alike_failures=config.run.max_alike_failures,
        ends_when_alike=ends_when_alike,
        logs=run.child(logs.DIRECTORY),
    )
