"""Progress of the generate stage: a bar on a terminal, lines in a log, and events.

In: what the stage reports, from two threads. Out: while engines start, what each of them is doing; then rows, tokens a
second, the time that is left, and how many replicas are ready. In a log that is a line every `LINE_EVERY_S` seconds,
the first one soon. Whatever happens to a replica is a line at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline.records import ReplicaEvent, ReplicaState
from pipeline.terminal.pace import Pace
from pipeline.terminal.text import escape_control

LINE_EVERY_S = 30.0
"""Seconds between two lines in a log, and between two events of progress."""

PHASE_LINE_EVERY_S = 5.0
"""The same at least, when what the starting engines are doing has changed."""


class GenerateProgress:
    """Shows the progress of a pass that the user knows as `name`; `record` writes an event with its details."""

    def __init__(self, console: Console, record: Callable[..., None], name: str = "generate") -> None:
        self._console, self._record, self._name = console, record, name
        self._bar = Progress(
            TextColumn(name),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._pace: Pace | None = None
        self._phases: Sequence[str] = ()
        self._has_row_line = False
        self._last_line_at = self._started_at = 0.0
        self._lock = threading.RLock()  # the stage reports from its own thread and from its monitor's

    def begin(self, num_rows: int, num_left: int, order: str, expected_tokens: float | None) -> None:
        """Start counting: `num_left` of `num_rows` rows remain. `order` describes the order in which they start."""
        if num_left < num_rows:
            self._print(f"{num_rows - num_left} of {num_rows} rows are there already, {num_left} to go")
        if not num_left:
            return
        self._print(order)
        self._pace = Pace(num_rows=num_rows, num_left=num_left, expected_tokens=expected_tokens)
        self._started_at = self._last_line_at = time.monotonic()
        if self._console.is_terminal:
            self._task = self._bar.add_task(self._name, total=num_rows, completed=num_rows - num_left, status="")
            self._bar.start()

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int, expected_tokens: float | None) -> None:
        """Count finished rows, those of them that failed, their output tokens, and those expected of them."""
        with self._lock:
            if self._pace is None:
                return
            now = time.monotonic()
            if self._pace.begun_at is None:  # no state has been read since the first engine was ready
                self._pace.begun_at = now
            self._pace.finish(num_rows, num_failed, num_output_tokens, expected_tokens)
            self._show(now)

    def update(self, states: Sequence[ReplicaState], num_replicas: int) -> None:
        """Take over what the replicas are doing."""
        with self._lock:
            if self._pace is None:
                return
            now = time.monotonic()
            self._pace.states, self._pace.num_replicas = states, num_replicas
            if self._pace.begun_at is None and self._pace.num_ready:
                self._pace.begun_at = now
            self._show(now)

    def report(self, event: ReplicaEvent) -> None:
        """Print and record what has happened to a replica; the line may quote a library's text."""
        if event.kind == "replica_ready" and self._pace is not None and self._pace.begun_at is None:
            self._pace.begun_at = time.monotonic()
        self._record(event.kind, stage=self._name, replica=event.replica, **event.details)
        if event.line is not None:
            self._print(event.line)

    def stop(self) -> None:
        """Show that no row starts any more."""
        self._record("stop", stage=self._name)
        self._print("stopping: no row starts any more, those in flight may finish; a second signal ends at once")

    def end(self) -> None:
        """Remove the bar, and print how far the pass has come."""
        if self._task is not None:
            self._bar.stop()
        with self._lock:
            if self._pace is None or self._pace.begun_at is None:
                return
            now = time.monotonic()
            self._print(f"{_rows(self._pace)} in {_clock(now - self._started_at)}, {_rate(self._pace, now)}")
            self._record_progress(now)
            self._pace = None

    def _show(self, now: float) -> None:
        """Update the bar; print a line if it is time for one."""
        assert self._pace is not None
        status = _status(self._pace, now, now - self._started_at)
        if self._task is not None:
            self._bar.update(self._task, completed=self._pace.num_finished, status=status)
        if not self._is_due(now):
            return
        self._last_line_at = now
        self._record_progress(now)
        if not self._console.is_terminal:
            self._print(f"{_rows(self._pace)}, {status}")

    def _is_due(self, now: float) -> bool:
        """Return whether it is time for a line: also soon after the first rows, and when the starts advance."""
        assert self._pace is not None
        seconds = now - self._last_line_at
        if not self._has_row_line and self._pace.left_s(now) is not None:
            self._has_row_line = True
            return True
        phases = sorted({state.phase for state in self._pace.states if state.phase is not None})
        is_new = self._pace.begun_at is None and phases != self._phases
        if is_new and (not self._phases or seconds > PHASE_LINE_EVERY_S):
            self._phases = phases
            return True
        return seconds > LINE_EVERY_S

    def _record_progress(self, now: float) -> None:
        assert self._pace is not None
        pace = self._pace
        rate, left_s = pace.rate(now), pace.left_s(now)
        self._record(
            "progress",
            stage=self._name,
            num_rows=pace.num_rows,
            num_done=pace.num_finished,
            num_failed=pace.num_failed,
            percent=round(pace.percent, 1),
            num_output_tokens=pace.num_generated,
            tokens_per_s=None if rate is None else round(rate, 1),
            eta_s=None if left_s is None else round(left_s),
            num_ready=pace.num_ready,
            num_replicas=pace.num_replicas,
            num_running=pace.total("num_running"),
            num_waiting=pace.total("num_waiting"),
            num_preemptions=pace.total("num_preemptions"),
            kv_cache_usage=None if pace.kv_cache_usage is None else round(pace.kv_cache_usage, 3),
            phases=[_phase([state]) for state in pace.states if state.phase is not None],
        )

    def _print(self, line: str) -> None:
        self._console.print(f"{self._name}: {escape_control(line)}", soft_wrap=True, markup=False)


def _rows(pace: Pace) -> str:
    return f"{pace.num_finished:,} of {pace.num_rows:,} rows ({pace.percent:.0f}%)"


def _rate(pace: Pace, now: float) -> str:
    rate = pace.rate(now)
    return f"{'-' if rate is None else f'{rate:,.0f}'} tokens/s, {pace.num_failed} failed"


def _status(pace: Pace, now: float, started_s: float) -> str:
    """Return what the replicas are doing, after the pace of the rows if there is one yet."""
    starting = _phases(pace.states)
    if pace.begun_at is None:
        return f"the engine is starting, {started_s:.0f} s" + (f": {starting}" if starting else "")
    left_s = pace.left_s(now)
    parts = [_rate(pace, now), f"ETA {'-' if left_s is None else _clock(left_s)}"]
    if pace.num_replicas is not None:
        ready = f"{pace.num_ready} of {pace.num_replicas} replicas ready"
        parts.append(f"{ready} ({starting})" if starting else ready)
    num_preemptions = pace.total("num_preemptions")
    if num_preemptions:
        parts.append(f"{num_preemptions:,} preemptions")
    return ", ".join(parts)


def _phases(states: Sequence[ReplicaState]) -> str:
    """Return the phases of the replicas that are not ready: "3 loading weights 12-45% (8 s), 1 profiling (2 s)".

    The numbers of replicas are left out if there is one replica in all.
    """
    groups: dict[str, list[ReplicaState]] = {}
    for state in states:
        if state.phase is not None:
            groups.setdefault(state.phase, []).append(state)
    return ", ".join(f"{f'{len(group)} ' if len(states) > 1 else ''}{_phase(group)}" for group in groups.values())


def _phase(group: Sequence[ReplicaState]) -> str:
    """Return the phase of replicas that are in the same one, with their percents and the longest time in it."""
    percents = sorted({state.percent for state in group if state.percent is not None})
    shown = "".join(f" {'-'.join(map(str, dict.fromkeys((percents[0], percents[-1]))))}%" for _ in percents[:1])
    seconds = max(state.phase_s for state in group)
    return f"{escape_control(group[0].phase or '')}{shown}" + ("" if group[0].is_final else f" ({seconds:.0f} s)")


def _clock(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
