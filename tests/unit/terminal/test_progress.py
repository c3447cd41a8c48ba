"""What the generate stage prints and records while engines start and rows are generated."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from pipeline.records import ReplicaEvent, ReplicaState
from pipeline.terminal import progress as progress_module
from pipeline.terminal.progress import GenerateProgress

READY = ReplicaState(replica="a")


class Clock:
    """The time that the progress reads; tests move it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Shown:
    """A progress whose console is a file, with a clock."""

    def __init__(self, clock: Clock, name: str = "generate", width: int = 400, *, is_terminal: bool = False) -> None:
        self.clock, self.out, self.events = clock, io.StringIO(), []  # type: ignore[var-annotated]
        console = Console(file=self.out, width=width, force_terminal=is_terminal)
        self.progress = GenerateProgress(console, self.record, name)

    def record(self, event: str, **details: Any) -> None:
        self.events.append((event, details))

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    def update(self, after_s: float, *states: ReplicaState, num_replicas: int = 1) -> list[str]:
        """Report the replicas' states after some seconds; return the lines that this prints."""
        before = len(self.lines)
        self.clock.now += after_s
        self.progress.update(states, num_replicas)
        return self.lines[before:]

    def advance(self, after_s: float, num_rows: int, num_tokens: int, expected: float | None = None) -> list[str]:
        before = len(self.lines)
        self.clock.now += after_s
        self.progress.advance(num_rows, 0, num_tokens, expected)
        return self.lines[before:]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress_module, "time", made)
    return made


def loading(replica: str, percent: int, seconds: float = 8) -> ReplicaState:
    return ReplicaState(replica=replica, phase="loading weights", percent=percent, phase_s=seconds)


def test_what_happens_to_a_replica_is_one_escaped_line_and_an_event(clock: Clock) -> None:
    shown = Shown(clock, width=40)
    line = "replica a: the engine crashed: [bold]\x1b[2J" + "long " * 20
    shown.progress.report(ReplicaEvent(kind="restart", replica="a", line=line, details={"restart": 1}))
    assert shown.lines == ["generate: replica a: the engine crashed: [bold]⟨U+001B⟩[2J" + "long " * 20]
    assert shown.events == [("restart", {"stage": "generate", "replica": "a", "restart": 1})]


def test_while_engines_start_a_log_has_what_they_are_doing_at_once_and_then_now_and_then(clock: Clock) -> None:
    shown = Shown(clock)
    shown.progress.begin(10, 10, "longest prompts first", None)
    assert shown.lines == ["generate: longest prompts first"]
    start = "generate: 0 of 10 rows (0%), the engine is starting"
    assert shown.update(2, loading("a", 12)) == [f"{start}, 2 s: loading weights 12% (8 s)"]
    assert shown.update(3, loading("a", 45)) == []
    assert shown.update(28, loading("a", 90, 36)) == [f"{start}, 33 s: loading weights 90% (36 s)"]
    phase = ReplicaState(replica="a", phase="profiling", phase_s=1)
    assert shown.update(3, phase) == []  # a new phase, but the last line is not old
    assert shown.update(3, phase) == [f"{start}, 39 s: profiling (1 s)"]


def test_replicas_in_one_phase_are_counted(clock: Clock) -> None:
    shown = Shown(clock)
    shown.progress.begin(10, 10, "", None)
    states = (loading("a", 45), loading("b", 12), loading("c", 20, 9), ReplicaState(replica="d", phase="profiling"))
    (line,) = shown.update(31, *states, num_replicas=4)
    assert line.endswith("the engine is starting, 31 s: 3 loading weights 12-45% (9 s), 1 profiling (0 s)")
    (line,) = shown.update(31, READY, states[3], num_replicas=4)
    assert line.endswith("1 of 4 replicas ready (1 profiling (0 s))")


def test_rows_are_a_line_soon_and_then_every_30_seconds_with_percent_and_time_left(clock: Clock) -> None:
    shown = Shown(clock)
    shown.progress.begin(400, 300, "", None)
    shown.update(60, READY)  # the start is not part of the pace
    ready = "0 failed, ETA 0:00:{}, 1 of 1 replicas ready"
    assert shown.advance(10, 60, 2_000) == [f"generate: 160 of 400 rows (40%), 200 tokens/s, {ready.format(40)}"]
    assert shown.advance(10, 60, 2_000) == []
    assert shown.advance(21, 84, 2_150) == [f"generate: 304 of 400 rows (76%), 150 tokens/s, {ready.format(19)}"]
    assert [details["num_done"] for event, details in shown.events if event == "progress"][-1] == 304
    shown.advance(9, 96, 1_350)
    shown.progress.end()
    assert shown.lines[-1] == "generate: 400 of 400 rows (100%) in 0:01:50, 150 tokens/s, 0 failed"


def test_the_time_left_follows_from_the_expected_tokens_where_they_are_known(clock: Clock) -> None:
    """With the longest first, the rows that are left are far shorter than those that are done."""
    shown = Shown(clock)
    shown.progress.begin(100, 100, "", 10_000.0)
    shown.update(0, READY)
    (line,) = shown.advance(10, 10, 4_000, 5_000.0)
    assert "10 of 100 rows (10%)" in line
    assert "ETA 0:00:10" in line


def test_tokens_of_rows_in_flight_count_before_any_row_is_finished(clock: Clock) -> None:
    shown = Shown(clock)
    shown.progress.begin(100, 100, "", 10_000.0)
    shown.update(0, READY)
    state = ReplicaState(replica="a", num_output_tokens=2_500, num_preemptions=3, num_running=64, kv_cache_usage=0.5)
    (line,) = shown.update(10, state)
    assert "0 of 100 rows (0%), 250 tokens/s, 0 failed, ETA 0:00:30" in line
    assert line.endswith("1 of 1 replicas ready, 3 preemptions")
    details = shown.events[-1][1]
    assert (details["num_running"], details["num_waiting"], details["kv_cache_usage"]) == (64, None, 0.5)


def test_rows_longer_than_expected_leave_a_time_by_rows(clock: Clock) -> None:
    shown = Shown(clock)
    shown.progress.begin(100, 100, "", 1_000.0)
    shown.update(0, READY)
    (line,) = shown.advance(10, 50, 9_000, 1_000.0)
    assert "ETA 0:00:10" in line


def test_what_is_unknown_is_a_dash_and_null(clock: Clock) -> None:
    shown = Shown(clock)
    shown.progress.begin(100, 100, "", None)
    shown.update(0, READY)
    (line,) = shown.update(31, READY)
    assert "ETA -" in line
    details = shown.events[-1][1]
    assert (details["eta_s"], details["num_preemptions"], details["num_ready"]) == (None, None, 1)


def test_a_terminal_shows_the_same_as_a_bar(clock: Clock) -> None:
    shown = Shown(clock, "noise pass", is_terminal=True)
    shown.progress.begin(13, 13, "13 rows, in another order", None)
    shown.update(2, loading("a", 12))
    shown.progress._bar.refresh()
    shown.update(60, READY)
    shown.advance(10, 5, 100)
    shown.progress._bar.refresh()
    shown.progress.end()
    text = re.sub(r"\x1b\[[^m]*m", "", shown.out.getvalue())
    assert "noise pass: 13 rows, in another order" in text
    assert "the engine is starting, 2 s: loading weights 12% (8 s)" in text
    assert "5/13" in text
    assert "10 tokens/s, 0 failed, ETA 0:00:16, 1 of 1 replicas ready" in text


def test_a_pass_without_rows_prints_nothing_of_a_pace(clock: Clock) -> None:
    shown = Shown(clock)
    shown.progress.begin(10, 0, "", None)
    shown.progress.end()
    assert shown.lines == ["generate: 10 of 10 rows are there already, 0 to go"]
