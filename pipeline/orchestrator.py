"""Runs the stages of a run in order: prepare, generate, score, publish.

In: a configuration, or the directory of a run. Out: the run's directory with its artifacts, products and manifest.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.comparison import gate, noise
from pipeline.config.loading import plain
from pipeline.config.paths import require_found
from pipeline.config.schema import Config
from pipeline.errors import (
    ConfigError,
    DataError,
    Interrupted,
    InvalidArchive,
    ModelError,
    PipelineError,
    RunError,
    TooManyFailedRows,
    without_secrets,
)
from pipeline.generate import connection, length_estimates, node_checks
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import cluster
from pipeline.generate.engines import host_checks
from pipeline.generate.engines.api_key import secrets_of
from pipeline.generate.engines.base import EngineFactory
from pipeline.generate.length_estimates import Lengths
from pipeline.generate.stage import SecondPass
from pipeline.preflight.preview import PreviewOptions
from pipeline.preflight.preview import show as show_preview
from pipeline.prepare import checks, subprocess_stage
from pipeline.prepare.dataset import require_unchanged
from pipeline.prepare.dataset_rows import read_test_ids
from pipeline.prepare.own_model import require_expected_model, with_own_context
from pipeline.prepare.template_fingerprint import check_fingerprint
from pipeline.publish import stage as publish_stage
from pipeline.publish.leaderboard import archive
from pipeline.publish.validation import archive_file
from pipeline.publish.validation.findings import Finding
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA
from pipeline.runs import directory as run_directory
from pipeline.runs import environment, failure_reasons, index, installation, logs
from pipeline.runs.cost import cost_of
from pipeline.runs.cost import line as cost_line
from pipeline.runs.counts import count_samples
from pipeline.runs.evaluated import model_of, other_model_answered
from pipeline.runs.events import EventLog
from pipeline.runs.identity import settings_hash
from pipeline.runs.lock import RequireHeld, locked
from pipeline.runs.manifest import (
    CompletionMetadata,
    EngineInfo,
    Manifest,
    PromptMetadata,
    ReproductionRecord,
    dump,
    prompt_metadata,
    read_manifest,
    write_manifest,
)
from pipeline.runs.model_files import fingerprint_of, require_directory
from pipeline.runs.reproduce import Reproduction
from pipeline.runs.timings import Timings
from pipeline.score.stage import score
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import without_credentials
from pipeline.terminal.console import plain as plain_console
from pipeline.terminal.console import print_line, quiet
from pipeline.terminal.progress import GenerateProgress
from pipeline.terminal.run_summary import path_lines, print_summary
from pipeline.terminal.signals import Signals
from pipeline.terminal.text import counted


def execute(
    config: Config,
    factory: EngineFactory | None = None,
    reproduction: Reproduction | None = None,
    directory_of: Callable[[str], Path | None] = lambda _: None,
) -> ArtifactStore:
    """Run every stage and return the run's directory. A run that is complete only prints its summary again.

    Args:
        config: The configuration to run.
        factory: Starts the engine; by default the engine that the configuration names.
        reproduction: The run that this one reproduces; differences from it are printed and recorded.
        directory_of: Returns the directory of the conf file that sets a key, for the message of a path that is wrong.

    Raises:
        PipelineError: See `pipeline/errors.py`; finished rows are on disk, and the same run_id resumes.
    """
    config = run_directory.with_recorded_context(config)
    finished = run_directory.finished(config)
    if finished is not None:
        return _show_again(*finished)
    require_found(config, directory_of)
    require_expected_model(config)
    installation.check(config.engine)
    run_directory.require_lasting(config.output_dir)
    connection.address_of(config)
    if factory is None and config.engine.kind == "endpoint":
        secrets_of(config.engine.endpoint)
    _check_named_runs(config)
    if config.engine.kind == "vllm":
        require_directory(config.model)
    config = with_own_context(config)
    new = run_directory.NewDirectories.before(config)
    run, config = run_directory.place(config)
    is_new = run_directory.is_empty(run)
    signals = Signals(config.run.grace_s)
    with locked(run) as require_held, signals.listen():
        try:
            manifest = _run_session(run, config, factory, reproduction, signals, require_held)
        except (ConfigError, DataError, ModelError):
            if is_new:  # a start with a wrong key, path or model leaves nothing behind
                new.discard(run)
            raise
    _require_good(run, config, manifest)
    return run


def _run_session(
    run: ArtifactStore,
    config: Config,
    factory: EngineFactory | None,
    reproduction: Reproduction | None,
    signals: Signals,
    require_held: RequireHeld,
) -> Manifest:
    """Run the stages that are left, in one session of a run whose lock is held; return the manifest at its end."""
    manifest = _begun(config)
    run_directory.begin(run, config)
    before = read_manifest(run)  # a resumed run keeps the start time of its first session
    manifest = replace(manifest, started_at=(before and before.started_at) or manifest.started_at)
    is_kept = before is not None and before.is_complete  # until its failed rows are generated again
    if not is_kept:
        write_manifest(run, manifest)
    with _log(run) as console:
        if not is_kept:
            _print(console, _update_index(run, manifest))
        events = EventLog(run.child(logs.DIRECTORY), config.run_id)
        events.write("begin", **_beginning(config, run, before))
        _print(console, [f"run {config.run_id}: {', '.join(config.active_tasks)} -> {run.shown()}"])
        stages = Orchestrator(
            config=config,
            recorded=config,
            run=run,
            factory=factory,
            console=console,
            signals=signals,
            reproduction=reproduction,
            manifest=manifest,
            events=events,
            is_kept=is_kept,
            require_held=require_held,
        )
        try:
            stages.run_stages()
            events.write("end", **_ending(stages.manifest))
        except BaseException as error:
            # DuckDB and pyarrow wrap an exception that a signal handler raises inside them in errors of their own.
            _record_failure(stages, signals.ended or error)
            if signals.ended is not None and signals.ended is not error:
                raise signals.ended from error
            raise
    return stages.manifest


def _show_again(run: ArtifactStore, config: Config, manifest: Manifest) -> ArtifactStore:
    """Print the summary that a complete run ended with, and end with the same exit code. Nothing is written.

    Args:
        run: The run's directory.
        config: The configuration that it recorded.
        manifest: Its manifest.

    Raises:
        TooManyFailedRows: As the run did.
        GateFailed: As the run did.
        DataError: Its metrics are missing or damaged.
    """
    console = plain_console(after_work=True)
    retry = f"; {manifest.num_failed} rows failed: run.retry_failed=true tries these again"
    _print(
        console,
        [f"run {config.run_id} is complete in {run.root}: nothing is generated{retry if manifest.num_failed else ''}"],
    )
    counts = manifest.counts
    if counts is None or counts.num_samples is None or counts.num_output_tokens is None:  # of an older version
        counts = count_samples(run)
    _print_results(run, config, replace(manifest, counts=counts), console)
    _require_good(run, config, manifest)
    return run


def preview(
    config: Config,
    origins: Mapping[str, str],
    options: PreviewOptions,
    console: Console,
    directory_of: Callable[[str], Path | None] = lambda _: None,
) -> None:
    """Print the prompts that a run of the configuration would send, and the findings of the preflight checks.

    What is wrong with this machine comes last: its GPUs may be busy with another run.

    Args:
        config: The configuration to preview.
        origins: The source of each key's value, as `pipeline.config.loading.origins` returns it.
        options: What to print.
        console: Where to print.
        directory_of: As for `execute`.

    Raises:
        PipelineError: The run would fail with this error before its engine starts, or the requested question does not
            exist.
    """
    require_found(config, directory_of)
    require_expected_model(config)
    installation.check(config.engine)
    run_directory.require_lasting(config.output_dir)
    connection.address_of(config)
    _check_named_runs(config)
    resolved = with_own_context(config)
    if resolved is not config:
        origins = {**origins, "model.context_size": "the model's config.json"}
    config = resolved
    show_preview(config, origins, options, console)
    _print(console, [f"warning: {line}" for line in host_checks.require_fit(config, starts=False)])


def _check_named_runs(config: Config) -> None:
    """Check, before anything is prepared, that the past runs named in the configuration exist."""
    gate.check(config)
    length_estimates.check(config)


def rescore(run: ArtifactStore, config: Config) -> None:
    """Rescore a run's completions and print its summary. If the run is complete, publish its products again.

    A run whose rescore was stopped is complete too: its status is `running`, and it has what only a complete one has.

    Raises:
        RunError: The run's directory cannot be written, or another process is writing it.
        DataError: The run has no prompts or completions.
        GateFailed: The run was rescored, but breaks a rule of its gate.
        TooManyFailedRows: The run was rescored, but has more failed rows than its configuration allows.
    """
    lines: list[str] = []
    with locked(run):
        manifest = read_manifest(run)
        for artifact, schema in (("prompts", PROMPT_SCHEMA), ("completions", COMPLETION_SCHEMA)):
            query.require_cells(run.require_artifact(artifact, schema), config.active_tasks, config.splits)
        if manifest is None or not (manifest.is_complete or manifest.was_complete):
            manifest = None
        else:  # until both samples and metrics are rewritten; `run` can resume from here
            write_manifest(run, replace(manifest, status="running"))
            lines = _update_index(run, replace(manifest, status="running"))
        publish_stage.remove_products(run, config)
        score(run, config)
        counts, failures = count_samples(run), failure_reasons.commonest(run)
        if manifest is not None:
            known = manifest.config or plain(config)  # older versions did not record it
            manifest = replace(manifest, counts=counts, failures=failures, config=known)
            if manifest.noise is not None:
                score(run.child(noise.DIRECTORY), noise.second(config))
                manifest = replace(manifest, noise=noise.measure(config, run, manifest))
            manifest, finished = finish(run, config, replace(manifest, rescored_at=environment.now()))
            lines += [*_as_packed(manifest), *finished]
    results = manifest or Manifest(status="running", counts=counts, failures=failures)
    console = plain_console(after_work=True)
    _print_results(run, config, replace(results, timings_s={}), console)  # the times are not those of this session
    _print(console, lines)
    if manifest is not None:
        _require_good(run, config, manifest)


def pack(run: ArtifactStore, config: Config, overrides: Sequence[str] = ()) -> None:
    """Publish the products of a complete run again.

    Args:
        run: The run's directory.
        config: The configuration that it recorded; its `submission` may differ, and is then recorded.
        overrides: The arguments `submission.<key>=<value>` by which it differs.

    Raises:
        ConfigError: A task has no submission_name.
        RunError: The archive would be incomplete, the run is not complete, or its directory cannot be written.
        DataError: The run's samples are damaged.
    """
    with locked(run):
        manifest = read_manifest(run)
        if manifest is None or not manifest.is_complete:
            status = "has no manifest"
            if manifest is not None:  # the lock is this process's, so that no other writes a running one
                status = f"is {'crashed' if manifest.status == 'running' else manifest.status}"
            raise RunError(f"run={run.shown()} {status}: only a complete run is packed; run it again to its end")
        run.require_unpruned()
        reason = archive.reason_not_packable(run, config)
        if reason is not None:
            raise reason
        manifest = replace(manifest, config=plain(config), packed=_merged(manifest.packed, overrides))
        products = publish_stage.publish(run, config, manifest)
        manifest = replace(manifest, published=products.published)
        run_directory.record(run, config)
        write_manifest(run, manifest)
        lines = [*_as_packed(manifest), *products.lines, *_update_index(run, manifest)]
    _print(plain_console(after_work=True), lines)


def _merged(before: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of `pack` of which the last one for each key holds."""
    return tuple({argument.partition("=")[0]: argument for argument in (*before, *overrides)}.values())


def _as_packed(manifest: Manifest) -> list[str]:
    return [f"  submission as given to pack: {' '.join(manifest.packed)}"] if manifest.packed else []


def validate(archive_path: str, run: ArtifactStore | None, config: Config, console: Console) -> None:
    """Apply the leaderboard server's checks to an archive and print the findings.

    Args:
        archive_path: Path or URI of a zip file, packed by this pipeline or by another tool.
        run: A run whose test ids the archive must contain; by default the ids come from the data sets.
        config: Names the tasks of the archive.
        console: Where to print.

    Raises:
        InvalidArchive: The server would reject the archive.
        ConfigError: The archive cannot be read.
        DataError: The run is damaged.
    """
    files = archive.task_files(config)
    ids, unchecked = archive_file.ids_of_run(run, files) if run is not None else _ids_of_data_sets(config, files)
    report = archive_file.check_file(archive_path, files, ids)
    for finding in [*report.findings, *unchecked]:
        console.print(str(finding), soft_wrap=True)
    if report.num_refusals:
        raise InvalidArchive(
            f"{without_credentials(archive_path)} would be refused, for {counted(report.num_refusals, 'reason')}: "
            "fix what the lines that begin with refused: name, and pack again"
        )
    what = f"{counted(report.num_tasks, 'task')}, {counted(report.num_answers, 'answer')}"
    console.print(f"would be accepted: {what}{', their ids not compared' if unchecked else ''}", soft_wrap=True)


def _ids_of_data_sets(config: Config, files: Mapping[str, str]) -> tuple[dict[str, frozenset[int]], list[Finding]]:
    """Return the data sets' test ids by task, and a finding for the tasks whose data set cannot be read."""
    found: dict[str, frozenset[int]] = {}
    reasons: dict[str, str] = {}
    for task, file in files.items():
        try:
            found[task] = read_test_ids(task, config.tasks[task])
        except DataError as error:
            reasons[file] = str(error)
    return found, archive_file.not_compared(list(reasons), next(iter(reasons.values()), ""))


def finish(
    run: ArtifactStore, config: Config, manifest: Manifest, timings: Timings | None = None
) -> tuple[Manifest, list[str]]:
    """Apply the gate to a scored run, publish its products and write its manifest as complete.

    Args:
        run: The directory of the scored run.
        config: Its configuration.
        manifest: Its manifest, with counts and, if it was measured, noise.
        timings: Timings of the session that ran it; without them the manifest keeps the timings that it has.

    Returns:
        The manifest as written, and the lines to print besides `_print_results`.
    """
    timings, keeps_timings = timings or Timings(), timings is None
    with timings.stage("gate"):
        verdict = gate.judge(config, run, manifest)
    manifest = replace(
        manifest,
        gate=verdict.result if verdict else None,
        compare=tuple(verdict.rows) if verdict else None,
        timings_s=manifest.timings_s if keeps_timings else timings.rounded(),  # the report shows them
    )
    with timings.stage("publish"):
        products = publish_stage.publish(run, config, manifest)
    manifest = replace(manifest, status="complete", published=products.published)
    if not keeps_timings:
        timings.end()
        manifest = replace(manifest, ended_at=environment.now(), timings_s=timings.rounded())
    write_manifest(run, manifest)
    return manifest, _update_index(run, manifest)


def _update_index(run: ArtifactStore, manifest: Manifest) -> list[str]:
    """Write the index entry of a complete run, or remove that of another; return the reason if it cannot be written.

    The run does not depend on it: an absent entry is made by the next run that needs it.
    """
    try:
        if manifest.is_complete:
            index.record(run, manifest)
        else:
            index.remove(run)
    except PipelineError as error:
        return [f"index: {error}"]
    return []


@dataclass(slots=True, kw_only=True)
class Orchestrator:
    """Runs the stages in one session of a run.

    `factory` starts the engine, by default the one that the configuration names; `reproduction` is the run that this
    one reproduces. `manifest` and `timings` are filled in as the stages run; `events` is logs/events.jsonl.
    `recorded` is the configuration as config.yaml has it; `config` also has the model's commit, once it is known.
    `is_kept` is whether the manifest on disk is still that of a complete run, whose failed rows are to be generated
    again.
    """

    config: Config
    recorded: Config
    run: ArtifactStore
    factory: EngineFactory | None
    console: Console
    signals: Signals
    reproduction: Reproduction | None
    manifest: Manifest
    events: EventLog
    require_held: RequireHeld
    is_kept: bool = False
    timings: Timings = field(default_factory=Timings)

    def run_stages(self) -> None:
        """Run the stages that are not done yet, publish, and write the manifest of a complete run."""
        self._begin_reproduction()
        if _has_rows_left(self.config, self.run):
            self._warn(host_checks.require_fit(self.config, starts=True))
        self._prepare()
        self.require_held()  # after each stage: a writer makes the directory again, without config.yaml and the rest
        self._pin_revision()
        with self.timings.stage("generate"):
            made = self._generate()
        self.require_held()
        self._record(engine=made.engine, schedule=made.schedule, model=model_of(self.config, made.engine))
        self._report_engines(made.engine)
        self._warn(other_model_answered(made.engine))
        self._open_again()
        publish_stage.remove_products(self.run, self.config)  # an earlier session may have published other samples
        with self.timings.stage("score"):
            score(self.run, self.config)
        self._compare_reproduction()
        counts = count_samples(self.run)
        self._record(counts=counts, failures=failure_reasons.commonest(self.run), ended_at=environment.now())
        if self.config.noise.share:
            with self.timings.stage("noise"):
                self._measure_noise()
        self.require_held()
        run_directory.keep_config(self.run, self.recorded)
        stores = [self.run, *([self.run.child(noise.DIRECTORY)] if self.config.noise.share else [])]
        self._record(cost=cost_of(self.config, stores))
        self.manifest, lines = finish(self.run, self.config, self.manifest, self.timings)
        self.require_held()
        _print_results(self.run, self.config, self.manifest, self.console)
        _print(self.console, lines)

    def _prepare(self) -> None:
        """Prepare the prompts, or open those on disk; check their metadata and record the preflight warnings."""
        prompts = self.run.artifact("prompts", PROMPT_SCHEMA)
        if prompts is not None:
            recorded = prompt_metadata(prompts.store, prompts.metadata)
            self._check_prompts(recorded)
            self._warn(require_unchanged(self.config, recorded.dataset_revisions))
        else:
            with self.timings.stage("prepare"):
                subprocess_stage.prepare_in_subprocess(
                    self.config, self.run, on_metadata=self._check_prompts, meanwhile=self._import_ray
                )
            prompts = self.run.require_artifact("prompts", PROMPT_SCHEMA)
        self._warn(checks.warnings(self.config, prompts))

    def _import_ray(self) -> None:
        connection.load()
        if self.signals.ended is not None:  # a module being imported may catch what a signal handler raises
            raise self.signals.ended

    def _check_prompts(self, prompts: PromptMetadata) -> None:
        self._record(datasets=replace(prompts, warnings={}), template_fingerprint=prompts.template_fingerprint)
        warning = check_fingerprint(self.config, prompts)
        if warning:
            self._warn([warning])
        if self.reproduction is not None:
            self._add_differences(self.reproduction.prepared(self.config, prompts))

    def _pin_revision(self) -> None:
        """Load the weights from the commit that the tokenizer came from, also when the run is resumed later."""
        commit = self.manifest.datasets.model_revision
        if commit is not None:
            self.config = replace(self.config, model=replace(self.config.model, revision=commit))

    def _generate(self) -> CompletionMetadata:
        """Generate what is missing of the run and, in the same engines, of its second pass; return the run's metadata.

        From the last row of the run on the time is that of the stage `noise`.
        """
        config = self.config
        second = noise.choose(config, self.run) if config.noise.share else None
        stores = [self.run] if second is None else [self.run, second]
        retried = [each for each in stores if config.run.retry_failed and generate_stage.has_failed_rows(each)]
        made = [None if each in retried else generate_stage.done(each) for each in stores]
        if made[0] is not None and None not in made:
            return made[0]
        lengths = self._lengths() if made[0] is None else None
        if made[0] is not None:
            self.timings.switch("noise")
        second_pass = self._second_pass(second) if second is not None and made[1] is None else None
        progress = GenerateProgress(self.console, self.events.write)
        with cluster(config, lambda line: _print(self.console, [line]), self.signals.take) as placement:
            self._warn([line for line in (placement.mixes_types, connection.stop_warning(config)) if line])
            factory = self.factory or generate_stage.engine_factory(config, placement)
            if placement.waits_for is not None:
                _print(self.console, [f"generate: {placement.waits_for}"])
            self._warn(node_checks.require_fit(config, self.run, placement))
            self._open_again()  # only now that all else has succeeded: until here the run stays complete
            for store in retried:
                generate_stage.reopen(store)
            try:
                with self.signals.deferred():
                    return generate_stage.generate(
                        config, self.run, placement, factory, progress, self.signals, lengths, second_pass
                    )
            finally:
                progress.end()

    def _open_again(self) -> None:
        """Write the manifest of a run that was complete as running."""
        if self.is_kept:
            write_manifest(self.run, self.manifest)
            _print(self.console, _update_index(self.run, self.manifest))
            self.is_kept = False

    def _lengths(self) -> Lengths | None:
        """Return the lengths that order the rows; print which runs could not be read."""
        lengths, unread = length_estimates.find(self.config, self.run.require_artifact("prompts", PROMPT_SCHEMA))
        _print(self.console, [f"{length_estimates.KEY}={self.config.schedule.history}: {line}" for line in unread])
        return lengths

    def _second_pass(self, store: ArtifactStore) -> SecondPass:
        repeats = noise.second(self.config).generation.repeats_by_split
        return SecondPass(run=store, repeats=repeats, begins=lambda: self.timings.switch("noise"))

    def _report_engines(self, engines: Mapping[str, EngineInfo]) -> None:
        """Record the GPUs used; print how many engines restarted, and which replicas gave up or were tried again."""
        self._record(hardware=replace(self.manifest.hardware, gpus=environment.gpus(engines)))
        self._warn(environment.mixed(engines))
        num_restarts = sum(info.restarts or 0 for info in engines.values())
        lines = [f"generate: {num_restarts} restarts of crashed engines; logs/ has the causes"] if num_restarts else []
        num_preempted = sum(info.num_preempted_rows or 0 for info in engines.values())
        if num_preempted:
            fix = "fewer sequences (engine.max_num_seqs) or more GPUs a replica (engine.tensor_parallel_size)"
            lines.append(f"generate: {counted(num_preempted, 'row')} were preempted and computed again: {fix}")
        num_tries = sum(info.tries_again or 0 for info in engines.values())
        lines += [f"generate: {num_tries} starts of replicas that had given up"] if num_tries else []
        gave_up = {name: info.gave_up for name, info in engines.items() if info.gave_up is not None}
        lines += [f"generate: replica {name} gave up: {reason}" for name, reason in gave_up.items()]
        _print(self.console, lines)

    def _measure_noise(self) -> None:
        """Score the second pass, and record how much the results change."""
        score(self.run.child(noise.DIRECTORY), noise.second(self.config))
        measured = noise.measure(self.config, self.run, self.manifest)
        self._record(noise=measured)
        _print(self.console, [noise.line(measured)])

    def _begin_reproduction(self) -> None:
        if self.reproduction is None:
            return
        source, overridden = self.reproduction.source, self.reproduction.overridden
        self._record(again=ReproductionRecord(run=source.root, overridden=overridden, differences=()))
        self._print_reproduction([source.shown(), *(f"overridden: {line}" for line in overridden)])
        self._add_differences(self.reproduction.environment(self.manifest))

    def _compare_reproduction(self) -> None:
        if self.reproduction is None or self.manifest.again is None:
            return
        self._add_differences(self.reproduction.engines(self.manifest.engine))
        agreement = self.reproduction.agreement(self.run)
        self._record(again=replace(self.manifest.again, agreement=agreement))
        self._print_reproduction([agreement])

    def _add_differences(self, lines: Sequence[str]) -> None:
        assert self.manifest.again is not None
        again = replace(self.manifest.again, differences=(*self.manifest.again.differences, *lines))
        self._record(again=again)
        self._print_reproduction([f"differs: {line}" for line in lines])

    def _print_reproduction(self, lines: Sequence[str]) -> None:
        _print(self.console, [f"again: {line}" for line in lines])

    def _warn(self, lines: Sequence[str]) -> None:
        """Record and print warnings, each once."""
        lines = [line for line in lines if line not in self.manifest.warnings]
        self._record(warnings=(*self.manifest.warnings, *lines))
        _print(self.console, [f"warning: {line}" for line in lines])

    def _record(self, **changes: object) -> None:
        self.manifest = replace(self.manifest, **changes)  # type: ignore[arg-type]


def _begun(config: Config) -> Manifest:
    """Return the manifest of a run that is starting."""
    return Manifest(
        status="running",
        run_id=config.run_id,
        conf=config.conf,
        started_at=environment.now(),
        versions=environment.versions(),
        codebase=environment.codebase(),
        hardware=environment.hardware(),
        model=model_of(config, {}),
        model_fingerprint=fingerprint_of(config),
        settings_hash=settings_hash(config),
        config=plain(config),
    )


def _beginning(config: Config, run: ArtifactStore, before: Manifest | None) -> dict[str, Any]:
    """Return what belongs to the event `begin`."""
    return {
        "run": run.shown(),
        "conf": config.conf,
        "model": model_of(config, {}),
        "tasks": list(config.active_tasks),
        "resumed": before is not None,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _ending(manifest: Manifest) -> dict[str, Any]:
    """Return what belongs to the event `end` of a complete run."""
    counts = dump(manifest.counts) if manifest.counts is not None else None
    broken = list(manifest.gate.broken) if manifest.gate is not None else None
    return {"status": manifest.status, "counts": counts, "gate_broken": broken, "timings_s": manifest.timings_s}


def _has_rows_left(config: Config, run: ArtifactStore) -> bool:
    """Return whether there are rows to generate, those of the second pass included."""
    stores = [run, run.child(noise.DIRECTORY)] if config.noise.share else [run]
    retries = config.run.retry_failed and any(map(generate_stage.has_failed_rows, stores))
    return retries or any(generate_stage.done(store) is None for store in stores)


def _record_failure(stages: Orchestrator, error: BaseException) -> None:
    """Record that the run failed and why; in the manifest unless it is already complete."""
    reason, seconds = _reason(error), stages.timings.seconds
    with suppress(PipelineError):  # the disk may be full, in which case `error` already reports it
        stages.require_held()
        before = read_manifest(stages.run)
        if before is None or not before.is_complete:
            failed = replace(
                stages.manifest, status="failed", reason=reason, ended_at=environment.now(), timings_s=seconds
            )
            write_manifest(stages.run, failed)
    status = "interrupted" if isinstance(error, Interrupted) else "failed"
    stages.events.write("end", status=status, reason=reason, timings_s=seconds)


def _reason(error: BaseException) -> str:
    """Return an error on one line, without the terminal colours that Ray puts into its messages."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", without_secrets(f"{type(error).__name__}: {error}")).split())


@contextmanager
def _log(run: ArtifactStore) -> Iterator[Console]:
    """Yield a console on the terminal; send all other output to logs/driver.log.

    Raises:
        RunError: The log cannot be written.
    """
    with run.writing():
        log = logs.LogFile(run.child(logs.DIRECTORY), "driver.log", f"pipeline-{uuid.uuid4().hex[:12]}")
    with quiet(log.path) as console:
        try:
            yield console
        finally:
            try:
                log.close()
            except PipelineError as error:
                _print(console, [f"warning: {error}: the driver's log is {log.path}"])


def _print_results(run: ArtifactStore, config: Config, manifest: Manifest, console: Console) -> None:
    """Print what a run ended with: the gate's verdict, the scores, why rows failed, the outputs, the gate's rules.

    Where every row failed, the reasons are above the table.
    """
    counts = manifest.counts
    assert counts is not None, "a scored run is counted"
    failures = failure_reasons.lines(manifest.failures, counts.num_failed or 0)
    if counts.num_samples and counts.num_failed == counts.num_samples:
        _print(console, [f"no score: all {counted(counts.num_samples, 'row')} failed", *failures])
        failures = []
    headline = gate.headline(manifest.gate) if manifest.gate is not None else []
    _print(console, headline)
    print_summary(run, config, counts, console, manifest.timings_s)
    pruned_at, outputs = run.pruned_at(), list[str]()
    if pruned_at is not None:
        outputs.append(f"  the run was pruned on {pruned_at[:10]}: its samples and its report are gone")
    elif manifest.published is not None:
        outputs += publish_stage.lines(run, manifest.published)
    rules = [each for each in gate.lines(manifest.gate) if each not in headline] if manifest.gate is not None else []
    cost = [f"  cost: {cost_line(manifest.cost)}"] if manifest.cost is not None else []
    _print(console, [*failures, *outputs, *path_lines(run), *cost, *rules])


def _print(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        print_line(console, line)


def _require_good(run: ArtifactStore, config: Config, manifest: Manifest) -> None:
    """Raise unless a complete run has few enough failed rows and passes its gate.

    Raises:
        TooManyFailedRows: More than `max_failed_rows` rows failed.
        GateFailed: A rule of its gate is broken.
    """
    num_failed = manifest.counts.num_failed if manifest.counts else None
    if num_failed is not None and num_failed > config.max_failed_rows:
        raise TooManyFailedRows(
            f"{num_failed} rows failed, max_failed_rows={config.max_failed_rows}: "
            f"their reasons are in the column error of {run.shown('samples')}"
        )
    gate.require_kept(manifest)
