"""The generate stage: prompts/ in, completions/ out, with Ray Data over the replicas.

Ray Data places the actors, sends them blocks, applies backpressure and restarts them when they crash. It moves only
work rows and statuses: a completion is in a journal before Ray Data gets its status, and `compaction.commit` publishes
the completions. A dispatch pass ends when every row is done, or when all rows left are held by replicas that have given
up; then the next pass continues without those.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from pipeline.config.schema import Config
from pipeline.errors import PipelineError, UserError
from pipeline.generate import connection, journal, work_list
from pipeline.generate.cluster import Placement
from pipeline.generate.control import Control
from pipeline.generate.dispatch import DispatchPass
from pipeline.generate.engines.base import EngineFactory
from pipeline.generate.engines.vllm_engine import VllmFactory
from pipeline.generate.length_estimates import Lengths
from pipeline.generate.metrics import RunMetrics
from pipeline.generate.part import Part
from pipeline.generate.progress import Interruptions, Progress
from pipeline.generate.replica import ReplicaConfig
from pipeline.generate.storage_proof import StorageProof
from pipeline.records import COMPLETION_SCHEMA, Completion
from pipeline.runs import logs
from pipeline.runs.manifest import CompletionMetadata, completion_metadata
from pipeline.storage import query
from pipeline.storage.artifacts import ARTIFACT_FILE, ArtifactStore
from pipeline.storage.repeats import Repeats


def engine_factory(config: Config, placement: Placement) -> EngineFactory:
    """Return the factory of the configured engine, for replicas with this placement."""
    match config.engine.kind:
        case "vllm":
            exports = config.engine.metrics
            if exports is None:  # a Ray of the run's own has no agent that anybody reads
                exports = not connection.address_of(config).is_local
            return VllmFactory(config, placement.spans_nodes, exports)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondPass:
    """Questions that are generated another time, in another order, after the rows of the run.

    `run` is the directory with their prompts, laid out like a run's, and `repeats` their number of completions.
    `begins` is called when every row of the run has finished.
    """

    run: ArtifactStore
    repeats: Repeats
    begins: Callable[[], None]


def generate(
    config: Config,
    run: ArtifactStore,
    placement: Placement,
    factory: EngineFactory,
    progress: Progress,
    interruptions: Interruptions,
    lengths: Lengths | None = None,
    second: SecondPass | None = None,
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
        second: What is generated afterwards in the same engines.

    Returns:
        What is recorded with the completions of the run.

    Raises:
        DataError: A prompt is of a task or split that is not configured.
        Interrupted: The user requested a stop; finished rows are kept.
        PipelineError: No engine can start or the disk cannot be written; finished rows are kept.
        RuntimeError: Rows are missing at the end.
    """
    published = done(run)
    parts = [] if published else [_first_part(config, run, lengths, second)]
    if second is not None and done(second.run) is None:
        parts.append(Part(run=second.run, repeats=second.repeats, is_shuffled=True))
    for part in parts:
        query.require_cells(part.prompts, config.active_tasks, config.splits)
    try:
        metrics = RunMetrics(config)
        with metrics.running(sum(part.num_left for part in parts)):
            _generate_rows(config, run, parts, placement, factory, progress, interruptions, metrics)
    except UserError:
        if len(parts) == 2:  # perhaps only the second pass has failed
            _commit_if_finished(parts[0])
        raise
    made = [part.commit() for part in parts]
    for part in parts:
        remove_journals(part.run)
    return published or made[0]


def _commit_if_finished(part: Part) -> None:
    with suppress(PipelineError):  # the disk may be full; all rows are in the journals
        part.list_work()  # the statuses of the last rows may not have been counted
        if not part.num_left:
            part.commit()


def _first_part(config: Config, run: ArtifactStore, lengths: Lengths | None, second: SecondPass | None) -> Part:
    begins = second.begins if second is not None else lambda: None
    return Part(run=run, repeats=config.generation.repeats_by_split, lengths=lengths, on_done=begins)


def _generate_rows(
    config: Config,
    run: ArtifactStore,
    parts: Sequence[Part],
    placement: Placement,
    factory: EngineFactory,
    progress: Progress,
    interruptions: Interruptions,
    metrics: RunMetrics,
) -> None:
    """Generate the rows that are left, in as many dispatch passes as it takes."""
    order = "; then ".join(part.work.order for part in parts if part.num_left)
    expected = [part.work.expected_tokens for part in parts if part.num_left]
    expected_tokens = None if None in expected else sum(each or 0.0 for each in expected)
    progress.begin(sum(part.num_rows for part in parts), sum(part.num_left for part in parts), order, expected_tokens)
    while num_left := sum(part.num_left for part in parts):
        few = num_left <= placement.num_replicas * config.engine.slots
        ends_when_alike = not (few and _has_worked(run, parts))
        replica_config = _replica_config(config, run, parts, factory, ends_when_alike=ends_when_alike)
        dispatch_pass = DispatchPass(parts, replica_config, placement, progress, interruptions, metrics)
        num_given_up = dispatch_pass.run()
        if any(part.num_left for part in parts):
            # From here on the pool keeps its size: it would grow onto the GPUs that replicas have given up on.
            placement = replace(placement, num_replicas=dispatch_pass.num_replicas - num_given_up, grows=False)
            for part in parts:
                part.list_work()


def _has_worked(run: ArtifactStore, parts: Sequence[Part]) -> bool:
    """Return whether an engine has finished a row of this run, so that the last few rows may all be poison rows."""
    if run.artifact("completions", COMPLETION_SCHEMA) is not None:
        return True
    return any(row.error is None for part in parts for row in journal.read(part.journals))


def _replica_config(
    config: Config, run: ArtifactStore, parts: Sequence[Part], factory: EngineFactory, *, ends_when_alike: bool
) -> ReplicaConfig:
    """Return the configuration of a new session's replicas, with its own directory of control messages."""
    session = uuid.uuid4().hex[:12]
    control = Control(parts[0].journals.child(f"session-{session}"))
    return ReplicaConfig(
        factory=factory,
        journals=tuple(part.journals for part in parts),
        earlier=tuple(published.engine.values()) if (published := done(run)) is not None else (),
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
