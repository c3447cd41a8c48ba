"""The main job: `python -m pipeline.run conf=<name> key=value ...`, or `from=<run>` to make a run again.

In: a configuration. Out: one directory `outputs/run=<run_id>/`. The order of the rooms is known here and nowhere else.
The same run_id again goes on where the run stopped.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import gate, manifest, rundir
from pipeline.cli import command
from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.fingerprint import model_fingerprint
from pipeline.lock import locked
from pipeline.reproduce import Again, resolve
from pipeline.signals import Signals
from pipeline.store import Folder

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.generate.engine import EngineFactory


def main(words: list[str]) -> None:
    """Run the benchmark that the words describe."""
    config, again = resolve(words)
    execute(config, again=again)


def execute(config: Config, factory: EngineFactory | None = None, again: Again | None = None) -> Folder:
    """Run every room and return the run's directory.

    Args:
        config: What to run.
        factory: What starts the engine; by default what the configuration names.
        again: The run that this one makes again; what differs from it is told and recorded.

    Raises:
        PipelineError: See `pipeline/errors.py`; what was finished is on disk, and the same run_id goes on.
    """
    gate.check(config)
    run, config = rundir.place(config)
    signals = Signals(config.run.grace_s)
    content: dict[str, Any] = {"run_id": config.run_id, "conf": config.conf, "started_at": manifest.now()}
    content |= {"versions": manifest.versions(), "codebase": manifest.codebase(), "hardware": manifest.hardware()}
    content |= {"model_fingerprint": model_fingerprint(config.model), "warnings": []}
    timings: dict[str, float] = {}
    with locked(run), signals.listen():
        rundir.begin(run, config)
        before = manifest.read(run) or {}  # a run is as old as its first session
        content |= {"started_at": before.get("started_at") or content["started_at"]}
        manifest.write(run, "running", content)
        try:
            with _console(run) as console:
                console.print(f"run {config.run_id}: {', '.join(config.active_tasks)} -> {run.root}", soft_wrap=True)
                _rooms(config, run, factory, console, content, timings, signals, again)
        except BaseException as error:
            # DuckDB and pyarrow wrap what a signal's handler raises inside them into errors of their own.
            _record_failure(run, content, signals.ended or error, timings)
            if signals.ended is not None and signals.ended is not error:
                raise signals.ended from error
            raise
    rundir.require_few_failed(run, config, content)
    gate.require_kept(content)
    return run


def _record_failure(run: Folder, content: dict[str, Any], error: BaseException, timings: dict[str, float]) -> None:
    """Say in the manifest that the run has failed and why, unless all of it was there already."""
    with suppress(PipelineError):  # the disk may be full, which is what `error` says then
        if (manifest.read(run) or {}).get("status") != "complete":
            reason = {"reason": _reason(error), "ended_at": manifest.now(), "timings_s": timings}
            manifest.write(run, "failed", content | reason)


def _rooms(
    config: Config,
    run: Folder,
    factory: EngineFactory | None,
    console: Console,
    content: dict[str, Any],
    timings: dict[str, float],
    signals: Signals,
    again: Again | None,
) -> None:
    from pipeline import summary
    from pipeline.console import visible
    from pipeline.publish import room
    from pipeline.score.room import score

    began = time.monotonic()
    if again is not None:
        content["again"] = {"run": again.source.root, "overridden": list(again.overridden), "differences": []}
        _tell([again.source.root, *(f"overridden: {line}" for line in again.overridden)], console)
        _differs(again.environment(content), content, console)
    _prepare(config, run, console, content, timings, again)
    commit = content["datasets"].get("model_revision")
    if commit is not None:  # the tokenizer's commit is the weights' too, however often the run is gone on with
        config = replace(config, model=replace(config.model, revision=str(commit)))
    with _timed("generate", timings):
        content["engine"] = _generate(config, run, factory, console, signals)
    content["hardware"]["gpus"] = manifest.gpus(content["engine"])
    content["schedule"] = json.loads(str((run.facts("completions") or {}).get("schedule", "null")))
    num_restarts = sum(int(facts.get("restarts", 0)) for facts in content["engine"].values())
    if num_restarts:
        console.print(f"generate: {num_restarts} restarts of engines that died; logs/ tells why")
    for name, facts in content["engine"].items():
        if "gave_up" in facts:
            console.print(f"generate: replica {name} gave up: {facts['gave_up']}", soft_wrap=True)
    room.retract(run, config)  # what an earlier session made of other samples
    with _timed("score", timings):
        score(run, config)
    if again is not None:
        _differs(again.engines(content["engine"]), content, console)
        content["again"]["agreement"] = again.agreement(run)
        _tell([content["again"]["agreement"]], console)
    counts = summary.counts(run)
    content |= {"counts": counts, "ended_at": manifest.now()}
    if config.noise.share:
        with _timed("noise", timings):
            _noise(config, run, factory, console, content, signals)
    with _timed("gate", timings):
        verdict = gate.judge(config, run, content)
    content |= gate.facts(verdict)
    content["timings_s"] = {name: round(seconds, 3) for name, seconds in timings.items()}  # the report shows them
    with _timed("publish", timings):
        products = room.publish(run, config, content)
    timings["total"] = time.monotonic() - began
    content |= {"published": room.facts(products), "ended_at": manifest.now()}
    content |= {"timings_s": {k: round(v, 3) for k, v in timings.items()}}
    manifest.write(run, "complete", content)
    summary.print_summary(run, config, console, timings)
    for line in [product.line for product in products] + (verdict.lines if verdict else []):
        console.print(visible(line), soft_wrap=True, markup=False)


def _prepare(
    config: Config,
    run: Folder,
    console: Console,
    content: dict[str, Any],
    timings: dict[str, float],
    again: Again | None,
) -> None:
    """Make the prompts, or open those that are there, and compare what they are made of with what is expected."""
    from pipeline.console import visible
    from pipeline.prepare import lints, prepare
    from pipeline.prepare.template import check_fingerprint
    from pipeline.records import PROMPT_SCHEMA

    def warn(lines: list[str]) -> None:
        content["warnings"] += lines
        for line in lines:
            console.print(f"warning: {visible(line)}", soft_wrap=True, markup=False)

    def check(facts: Mapping[str, str | int]) -> None:
        content["datasets"] = {name: fact for name, fact in facts.items() if not name.startswith(lints.RECORDED)}
        content["template_fingerprint"] = facts.get("template_fingerprint")
        warning = check_fingerprint(config, facts)
        if warning:
            warn([warning])
        if again is not None:
            _differs(again.prepared(config, facts), content, console)

    prompts = run.stage("prompts", PROMPT_SCHEMA)
    if prompts is not None:
        check(prompts.facts)
    else:
        with _timed("prepare", timings):
            prepare(config, run, on_facts=check)
        prompts = run.require_stage("prompts", PROMPT_SCHEMA)
    warn(lints.warnings(config, prompts))


def _differs(lines: list[str], content: dict[str, Any], console: Console) -> None:
    content["again"]["differences"] += lines
    _tell([f"differs: {line}" for line in lines], console)


def _tell(lines: list[str], console: Console) -> None:
    for line in lines:
        console.print(f"again: {line}", soft_wrap=True, markup=False)


def _generate(
    config: Config,
    run: Folder,
    factory: EngineFactory | None,
    console: Console,
    signals: Signals,
    *,
    shuffled: bool = False,
) -> dict[str, Any]:
    """Generate what is missing; return what the engines said of themselves."""
    from pipeline.console import GenerateProgress
    from pipeline.generate import expected_lengths, job
    from pipeline.generate.cluster import cluster

    if config.run.retry_failed:
        job.reopen(run)
    engine = job.done(run)
    if engine is not None:
        return engine
    lengths, unread = (None, []) if shuffled else expected_lengths.find(config)
    for line in unread:
        console.print(f"{expected_lengths.KEY}={config.schedule.history}: {line}", soft_wrap=True, markup=False)
    progress, factory = GenerateProgress(console), factory or job.engine_factory(config)
    with cluster(config) as placement:
        signals.take()
        try:
            with signals.deferred():
                return job.generate(config, run, placement, factory, progress, signals, lengths, shuffled=shuffled)
        finally:
            progress.end()


def _noise(
    config: Config,
    run: Folder,
    factory: EngineFactory | None,
    console: Console,
    content: dict[str, Any],
    signals: Signals,
) -> None:
    """Generate a share of the questions a second time, and record how much that changes."""
    from pipeline import noise
    from pipeline.score.room import score

    folder = noise.choose(config, run)
    _generate(noise.second(config), folder, factory, console, signals, shuffled=True)
    score(folder, noise.second(config))
    content["noise"] = noise.measure(config, run)
    console.print(noise.line(content["noise"]), soft_wrap=True, markup=False)


def _reason(error: BaseException) -> str:
    """Return an error on one line without a terminal's colours, which Ray puts into its own."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}").split())


@contextmanager
def _timed(name: str, timings: dict[str, float]) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        timings[name] = time.monotonic() - began


@contextmanager
def _console(run: Folder) -> Iterator[Console]:
    """Give the terminal, and send all other output to a log beside the run, or in a temporary directory."""
    from pipeline.console import quiet

    folder = run.local / "logs" if run.local else Path(tempfile.mkdtemp(prefix="pipeline-logs-"))
    with quiet(folder / "driver.log") as console:
        yield console


if __name__ == "__main__":
    raise SystemExit(command(main))
