"""Rows and processes that fail on a local Ray: the run has every row once, and only the cause fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import Counting, completions, engine_infos, make_prompt, settings, wait_until
from scripted import ScriptedFactory

from pipeline.generate import journal
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import Placement, cluster
from pipeline.records import Prompt
from pipeline.storage.artifacts import ArtifactStore

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
        77: "the engine died 4 times with this row in it"
    }
    assert {row["completion"] for row in rows if not row["error"]} == {"A"}
    (restarts,) = (info.restarts for info in made.engine.values())
    assert restarts == 4 <= config.engine.max_restarts


class Killing(Counting):
    """Kills a replica's process with SIGKILL when the first rows have arrived and others are in flight."""

    def __init__(self, run: ArtifactStore, requests: Path) -> None:
        super().__init__()
        self._run, self._requests, self.num_in_flight = run, requests, 0

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int) -> None:
        super().advance(num_rows, num_failed, num_output_tokens)
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
