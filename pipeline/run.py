"""The main job: `python -m pipeline.run conf=<name> key=value ...`, or `from=<run>` to make a run again.

In: a configuration. Out: one directory `outputs/run=<run_id>/`. The same run_id again goes on where the run stopped.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli import command
from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.generate.engines.base import EngineFactory
    from pipeline.runs.reproduce import Reproduction
    from pipeline.storage.artifacts import ArtifactStore


def main(arguments: list[str]) -> None:
    """Run the benchmark that the words describe."""
    if not any(argument.startswith("from=") for argument in arguments):
        execute(compose(arguments))
        return
    from pipeline.runs.reproduce import resolve

    config, reproduction = resolve(arguments)
    execute(config, reproduction=reproduction)


def execute(
    config: Config, factory: EngineFactory | None = None, reproduction: Reproduction | None = None
) -> ArtifactStore:
    """Run every room and return the run's directory.

    Args:
        config: What to run.
        factory: What starts the engine; by default what the configuration names.
        reproduction: The run that this one makes again; what differs from it is told and recorded.

    Raises:
        PipelineError: See `pipeline/errors.py`; what was finished is on disk, and the same run_id goes on.
    """
    from pipeline.comparison import gate
    from pipeline.generate import length_estimates
    from pipeline.runs import directory as run_directory
    from pipeline.runs import manifest
    from pipeline.runs.lock import locked
    from pipeline.runs.model_files import model_fingerprint
    from pipeline.terminal.signals import Signals

    gate.check(config)
    length_estimates.check(config)
    run, config = run_directory.place(config)
    signals = Signals(config.run.grace_s)
    content: dict[str, Any] = {"run_id": config.run_id, "conf": config.conf, "started_at": manifest.now()}
    content |= {"versions": manifest.versions(), "codebase": manifest.codebase(), "hardware": manifest.hardware()}
    content |= {"model_fingerprint": model_fingerprint(config.model), "warnings": []}
    timings: dict[str, float] = {}
    with locked(run), signals.listen():
        run_directory.begin(run, config)
        before = manifest.read(run) or {}  # a run is as old as its first session
        content |= {"started_at": before.get("started_at") or content["started_at"]}
        manifest.write(run, "running", content)
        try:
            with _console(run) as console:
                from pipeline.orchestrator import Orchestrator

                console.print(f"run {config.run_id}: {', '.join(config.active_tasks)} -> {run.root}", soft_wrap=True)
                Orchestrator(
                    config=config,
                    run=run,
                    factory=factory,
                    console=console,
                    signals=signals,
                    reproduction=reproduction,
                    content=content,
                    timings=timings,
                ).run_stages()
        except BaseException as error:
            # DuckDB and pyarrow wrap what a signal's handler raises inside them into errors of their own.
            _record_failure(run, content, signals.ended or error, timings)
            if signals.ended is not None and signals.ended is not error:
                raise signals.ended from error
            raise
    run_directory.require_few_failed(run, config, content)
    gate.require_kept(content)
    return run


def _record_failure(
    run: ArtifactStore, content: dict[str, Any], error: BaseException, timings: dict[str, float]
) -> None:
    """Say in the manifest that the run has failed and why, unless all of it was there already."""
    from pipeline.runs import manifest

    with suppress(PipelineError):  # the disk may be full, which is what `error` says then
        if (manifest.read(run) or {}).get("status") != "complete":
            reason = {"reason": _reason(error), "ended_at": manifest.now(), "timings_s": timings}
            manifest.write(run, "failed", content | reason)


def _reason(error: BaseException) -> str:
    """Return an error on one line without a terminal's colours, which Ray puts into its own."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}").split())


@contextmanager
def _console(run: ArtifactStore) -> Iterator[Console]:
    """Give the terminal, and send all other output to a log beside the run, or in a temporary directory."""
    from pipeline.terminal.console import quiet

    folder = run.local / "logs" if run.local else Path(tempfile.mkdtemp(prefix="pipeline-logs-"))
    with quiet(folder / "driver.log") as console:
        yield console


if __name__ == "__main__":
    raise SystemExit(command(main))
