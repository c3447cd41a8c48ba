"""A night: runs of several configurations on the same cluster, one after the other.

In: an id, and a file with the runs. Out: `night=<id>.json` in output_dir, a table, a notification, and an exit code.
Each run is a process of its own that can be started again at any time, so the same id does what is missing: complete
runs only print their summary again. A run that fails does not stop the next one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from rich.console import Console

from pipeline.errors import (
    GateFailed,
    Interrupted,
    Locked,
    NightFailed,
    PipelineError,
    RunError,
    TooManyFailedRows,
    UserError,
)
from pipeline.nightly import night_file, notification, table
from pipeline.nightly.night_file import NotifyConfig, PlannedRun, Resolve
from pipeline.nightly.processes import Processes
from pipeline.nightly.record import NightRecord, RunRecord, public
from pipeline.runs import environment
from pipeline.runs.directory import require_lasting
from pipeline.runs.index import RUN_PREFIX
from pipeline.runs.lock import locked
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.console import lasting, print_line

LOCK_DIRECTORY = ".night"
"""Directory in output_dir with the lock of the night that writes there."""

RUN = (sys.executable, "-m", "pipeline.run")

WriteIndex = Callable[[str], str]
"""Writes the page of all runs in an output_dir and returns its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NightOptions:
    """The command line of a night; `overrides` are for all runs."""

    night: str
    runs: str
    overrides: Sequence[str] = ()
    strict: bool = False
    wait_s: int = 0


def execute(
    options: NightOptions, resolve: Resolve, write_index: WriteIndex | None = None, program: Sequence[str] = RUN
) -> None:
    """Run a night.

    Args:
        options: The night.
        resolve: Returns the configuration of a run's arguments.
        write_index: Called after the last run; None: there is no page.
        program: The command line of a run, without its arguments.

    Raises:
        ConfigError: The id, the file or the directory of the runs is wrong; nothing was started.
        RunError: Another night writes to output_dir, or output_dir cannot be written.
        NightFailed: A run could not finish.
        GateFailed: With `strict`, a run has broken its gate.
        TooManyFailedRows: With `strict`, too many rows of a run have failed.
        Interrupted: A signal stopped the night.
    """
    file = night_file.read(options.runs)
    planned = night_file.plan(options.night, file, options.overrides, resolve)
    output_dir = night_file.output_dir(planned, options.overrides)
    require_lasting(output_dir)
    output = ArtifactStore.open(output_dir)
    output.child(LOCK_DIRECTORY).create()
    with lasting() as (console, errors):
        processes = Processes()
        night = _Night(output, planned, options, processes, console, errors, file.notify, program)
        with processes.listen(), _alone(output, options.wait_s, processes, night.say):
            night.warn(notification.problems(file.notify))
            night.run_all()
            night.finish((lambda: write_index(output_dir)) if write_index is not None else None)
    _require_good(night.record)


class _Night:
    """The state of a night: its record, which is written after every step."""

    def __init__(
        self,
        output: ArtifactStore,
        planned: Sequence[PlannedRun],
        options: NightOptions,
        processes: Processes,
        console: Console,
        errors: Console,
        notify: NotifyConfig,
        program: Sequence[str],
    ) -> None:
        self._output, self._planned, self._processes = output, planned, processes
        self._console, self._errors, self._notify, self._program = console, errors, notify, program
        self._file = f"night={options.night}.json"
        self.record = NightRecord(
            night=options.night,
            strict=options.strict,
            started_at=environment.now(),
            output_dir=output.uri(),
            runs=tuple(RunRecord.of(run, output) for run in planned),
        )

    def say(self, line: str) -> None:
        """Print a line."""
        print_line(self._console, line)

    def warn(self, lines: Sequence[str]) -> None:
        """Print warnings."""
        for line in lines:
            self.say(f"warning: {line}")

    def run_all(self) -> None:
        """Run every run whose arguments are right, until a signal comes.

        Raises:
            RunError: output_dir cannot be written, before the first run.
        """
        self._write()
        for record in self.record.runs:
            if record.reason is not None:
                self.say(f"night {self.record.night}: {record.name} is left out: {record.reason}")
        for number, run in enumerate(self._planned, 1):
            if self._processes.is_stopping:
                return
            if run.config is not None:
                self.say(f"night {self.record.night}: run {number} of {len(self._planned)}: {run.name}")
                self._run(run)

    def _run(self, run: PlannedRun) -> None:
        record = next(each for each in self.record.runs if each.name == run.name)
        record = replace(record, status="running", started_at=environment.now())
        self._update(record)
        was = self._manifest(run)
        ended = self._processes.run([*self._program, *run.arguments], self._environment())
        for line in ended.errors.splitlines():
            print_line(self._errors, line)
        record = record.ended(ended, self._output, was, is_stopping=self._processes.is_stopping)
        record = replace(record, ended_at=record.ended_at or environment.now(), reason=self._hidden(record.reason))
        self._update(record)

    def _manifest(self, run: PlannedRun) -> Manifest | None:
        try:
            return read_manifest(self._output.child(f"{RUN_PREFIX}{run.run_id}"))
        except UserError:  # the run itself will report it
            return None

    def _environment(self) -> dict[str, str]:
        """Return the environment of a run: without the URL, which is no business of its workers."""
        return {name: value for name, value in os.environ.items() if name != self._notify.url_env}

    def _hidden(self, reason: str | None) -> str | None:
        secrets = notification.secrets_of(self._notify)
        return reason if reason is None or not secrets else public(reason, also=secrets)

    def _update(self, record: RunRecord) -> None:
        self.record = self.record.with_run(record)
        try:
            self._write()
        except PipelineError as error:  # it is written again after the next run
            self.warn([str(error)])

    def _write(self) -> None:
        self._output.write_text(self._file, self.record.to_json())

    def finish(self, write_index: Callable[[], str] | None) -> None:
        """Write the page and the record, print the table, and notify unless a signal ended the night.

        Raises:
            RunError: The record cannot be written.
        """
        is_stopping = self._processes.is_stopping
        index = self._index(write_index) if write_index is not None and not is_stopping else None
        self.record = replace(self.record, index=index).ended(environment.now(), is_stopping=is_stopping)
        self._console.print(table.table(self.record))
        for line in table.lines(self.record):
            self.say(line)
        try:
            self._write()
            self.say(f"  {self._output.shown(self._file)}  this night")
        finally:
            self.say(self.record.text)
            if self.record.status != "interrupted":
                self.warn(notification.notify(self._notify, self.record.to_json(), self._processes.sleep))

    def _index(self, write_index: Callable[[], str]) -> str | None:
        try:
            path = write_index()
        except Exception as error:  # the runs are complete, and the night's verdict does not depend on a page
            self.warn([f"index.html was not written: {type(error).__name__}: {error}"])
            return None
        self.say(f"  {path}  all runs")
        return path


@contextmanager
def _alone(output: ArtifactStore, wait_s: int, processes: Processes, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the nights of an output_dir; wait for it for at most `wait_s` seconds.

    Raises:
        RunError: Another night holds it.
        Interrupted: A signal came meanwhile.
    """
    left = wait_s
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(output.child(LOCK_DIRECTORY)))
                break
            except Locked as error:
                if processes.is_stopping:
                    raise Interrupted("interrupted while another night was running: nothing was started") from error
                if left <= 0:
                    raise RunError(
                        f"another night writes to {output.shown()}: start this one when it has ended, or give wait_s="
                        "3600 to wait for at most an hour"
                    ) from error
                if left == wait_s:
                    say(f"another night writes to {output.shown()}: waiting for at most {wait_s} s")
                processes.sleep(1)
                left -= 1
        yield


def _require_good(record: NightRecord) -> None:
    """Raise the error that the exit code of a night stands for.

    Raises:
        Interrupted: A signal stopped the night.
        NightFailed: A run could not finish.
        TooManyFailedRows: With `strict`, too many rows of a run have failed.
        GateFailed: With `strict`, a run has broken its gate.
    """
    again = f"the same command with night={record.night} does what is missing"
    names = ", ".join(record.unfinished)
    if record.status == "interrupted":
        raise Interrupted(f"interrupted: {again} ({names})")
    if record.status == "failed":
        raise NightFailed(f"night {record.night}: {names} could not finish: {again}")
    if record.exit_code == TooManyFailedRows.exit_code:
        raise TooManyFailedRows(f"night {record.night} is complete, and too many rows failed in {_named(record)}")
    if record.exit_code == GateFailed.exit_code:
        raise GateFailed(f"night {record.night} is complete, and these break rules of their gates: {_named(record)}")


def _named(record: NightRecord) -> str:
    return ", ".join(record.of_code(record.exit_code or 0))
