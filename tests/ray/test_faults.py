"""Rows and processes that fail on a local Ray: the run has every row once, and only the cause fails."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from builders import Counting, completions, engine_infos, make_prompt, settings, wait_until
from rich.console import Console
from scripted import ScriptedFactory

from pipeline.errors import RunError
from pipeline.generate import journal
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import Placement, cluster
from pipeline.records import Prompt
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.progress import GenerateProgress

pytestmark = pytest.mark.usefixtures("at_root")

Make = Callable[[list[Prompt]], ArtifactStore]


@pytest.fixture(scope="module")
def placement() -> Iterator[Placement]:
    """Share one local Ray among the tests of this file."""
    with cluster(settings()) as found:
        yield found


def test_one_poison_row_among_200_fails_and_no_other_row_is_lost(run_with_prompts: Make, placement: Placement) -> None:
    """It crashes among 64 rows, among 8, twice in isolation. The restart delays, 1 + 2 + 4 + 8 s, take the time."""
    prompts = [make_prompt(number) for number in range(200)]
    prompts[77] = make_prompt(77, question="EXIT")
    run, config = run_with_prompts(prompts), settings("engine.endpoint.concurrency=64")
    made = generate_stage.generate(config, run, placement, ScriptedFactory(seconds=0.05), Counting(), Counting())
    rows = completions(run)
    assert [row["id"] for row in rows] == list(range(200))
    assert {row["id"]: row["error"] for row in rows if row["error"]} == {
        77: "the engine crashed 4 times with this row in it"
    }
    assert {row["completion"] for row in rows if not row["error"]} == {"A"}
    (restarts,) = (info.restarts for info in made.engine.values())
    assert restarts == 4 <= config.engine.max_restarts


class Killing(Counting):
    """Kills a replica's process with SIGKILL when the first rows have arrived and others are in flight."""

    def __init__(self, run: ArtifactStore, requests: Path) -> None:
        super().__init__()
        self._run, self._requests, self.num_in_flight = run, requests, 0

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int, expected_tokens: float | None) -> None:
        super().advance(num_rows, num_failed, num_output_tokens, expected_tokens)
        if not self.num_in_flight and self.num_done:
            wait_until(self._rows_in_flight)
            self.num_in_flight = self._rows_in_flight()
            os.kill(int(engine_infos(self._run)[0].other["pid"]), signal.SIGKILL)

    def _rows_in_flight(self) -> int:
        num_finished = sum(1 for _ in journal.read(self._run.child(journal.DIRECTORY)))
        return len(self._requests.read_text().splitlines()) - num_finished


def test_a_killed_process_loses_no_row(run_with_prompts: Make, placement: Placement, tmp_path: Path) -> None:
    run, requests = run_with_prompts([make_prompt(number) for number in range(24)]), tmp_path / "requests"
    progress, script = Killing(run, requests), ScriptedFactory(seconds=1, requests=str(requests))
    made = generate_stage.generate(
        settings("engine.endpoint.concurrency=4"), run, placement, script, progress, progress
    )
    rows = completions(run)
    assert [row["id"] for row in rows] == list(range(24))
    assert {row["error"] for row in rows} == {None}
    assert 1 <= progress.num_in_flight <= 4
    assert len(requests.read_text().splitlines()) - 24 == progress.num_in_flight, "only rows in flight are repeated"
    assert sum(row["attempts"] > 1 for row in rows) == progress.num_in_flight
    assert [info.restarts for info in made.engine.values()] == [1]
    assert progress.num_done == 24


@pytest.mark.parametrize(("num_rows", "slots"), [(200, 16), pytest.param(12, 64, marks=pytest.mark.slow), (3, 64)])
def test_an_engine_that_crashes_alike_with_every_row_ends_the_run_after_three_starts(
    run_with_prompts: Make, placement: Placement, tmp_path: Path, num_rows: int, slots: int
) -> None:
    run, out, events = run_with_prompts([make_prompt(n, question="DIE") for n in range(num_rows)]), StringIO(), []

    def record(event: str, **details: object) -> None:
        events.append({"event": event, **details})

    progress = GenerateProgress(Console(file=out, width=120), record)
    config, script = settings(f"engine.endpoint.concurrency={slots}"), ScriptedFactory(starts=str(tmp_path / "starts"))
    with pytest.raises(
        RunError, match=r"started \d times and crashed alike.+: told to die \(/.+\.log\)\. Fix"
    ) as ended:
        generate_stage.generate(config, run, placement, script, progress, Counting())
    progress.end()
    assert ended.value.exit_code == 2
    assert len((tmp_path / "starts").read_text().splitlines()) == 3
    restarts = [line for line in out.getvalue().splitlines() if "crashed; restart" in line or "restart" in line]
    assert len(restarts) == 2
    for number, line in enumerate(restarts, 1):
        restart = f"restart {number} of 10 in {number} s"
        assert re.fullmatch(rf"generate: replica \S+: the engine crashed: told to die; {restart}", line)
    kinds = [event["event"] for event in events if event["event"] != "progress"]
    assert kinds == ["engine_starting", "replica_ready", *["restart", "replica_ready"] * 2, "gave_up"]


@pytest.mark.slow
def test_rows_that_crash_the_engine_before_any_other_is_finished_are_the_only_ones_to_fail(
    run_with_prompts: Make, placement: Placement
) -> None:
    """They are the first of the work list."""
    long = "DIE, and what a long question this is "
    run, progress = (
        run_with_prompts([make_prompt(n, question=long if n < 2 else "Что?") for n in range(40)]),
        Counting(),
    )
    config = settings("engine.endpoint.concurrency=8")
    generate_stage.generate(config, run, placement, ScriptedFactory(seconds=0.05), progress, progress)
    assert [row["id"] for row in completions(run) if row["error"]] == [0, 1]
    assert {row["completion"] for row in completions(run) if not row["error"]} == {"A"}
    assert 4 <= len(progress.failures) <= 6


def test_poison_rows_that_crash_the_engine_before_any_row_is_finished_are_no_broken_engine(
    run_with_prompts: Make, placement: Placement
) -> None:
    """With one slot, each of the first two starts has one of them, and nothing tells them from a broken engine."""
    long = "DIE, and what a long question this is "
    run = run_with_prompts([make_prompt(number, question=long if number < 2 else "Что?") for number in range(10)])
    config = settings("engine.endpoint.concurrency=1", "engine.max_restarts=2")
    with pytest.raises(RunError, match=r"max_restarts=2: replica \S+ crashed again: told to die"):
        generate_stage.generate(config, run, placement, ScriptedFactory(), Counting(), Counting())
    (finished,) = journal.read(run.child(journal.DIRECTORY))
    assert finished.id > 1


@pytest.mark.slow
def test_poison_rows_that_are_the_last_of_a_run_end_as_failed_rows(
    run_with_prompts: Make, placement: Placement
) -> None:
    """An engine has worked for this run in an earlier session."""
    run = run_with_prompts([make_prompt(number, question="DIE" if number < 2 else "Что?") for number in range(6)])
    config = settings("engine.endpoint.concurrency=1", "engine.max_restarts=0")
    with pytest.raises(RunError, match=r"max_restarts=0: replica \S+ crashed again: told to die"):
        generate_stage.generate(config, run, placement, ScriptedFactory(), Counting(), Counting())
    generate_stage.generate(settings(), run, placement, ScriptedFactory(), Counting(), Counting())
    assert [row["id"] for row in completions(run) if row["error"]] == [0, 1]


def test_a_start_that_fails_for_a_passing_reason_is_repeated(
    run_with_prompts: Make, placement: Placement, tmp_path: Path
) -> None:
    run, progress = run_with_prompts([make_prompt(1)]), Counting()
    script = ScriptedFactory(starts=str(tmp_path / "starts"), failing_starts=1)
    made = generate_stage.generate(settings(), run, placement, script, progress, progress)
    assert [row["completion"] for row in completions(run)] == ["A"]
    assert [info.restarts for info in made.engine.values()] == [0]
    (line,) = progress.failures
    assert line.endswith(": the engine does not start now: the memory is not free yet; retry 1 of 5 in 3 s")
