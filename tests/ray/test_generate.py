"""The generate stage on a local Ray with a scripted engine: every row once, whichever rows fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import Counting, completed, completions, make_prompt, publish_prompts, settings
from scripted import ScriptedFactory

from pipeline.errors import EndpointError, PipelineError
from pipeline.generate import blocks, journal
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import Placement, cluster
from pipeline.generate.engines.base import Engine
from pipeline.generate.part import Part
from pipeline.generate.stage import SecondPass
from pipeline.records import COMPLETION_SCHEMA, Prompt
from pipeline.runs.manifest import Schedule
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")


@pytest.fixture(scope="module")
def placement() -> Iterator[Placement]:
    """Share one local Ray among the tests of this file."""
    with cluster(settings()) as found:
        yield found


Make = Callable[[list[Prompt]], ArtifactStore]


def test_every_row_is_generated_once_and_only_bad_rows_fail(run_with_prompts: Make, placement: Placement) -> None:
    prompts = [make_prompt(number) for number in range(50)]
    prompts[3] = make_prompt(3, error="too long")
    prompts[7] = make_prompt(7, question="RAISE")
    run, progress = run_with_prompts(prompts), Counting()
    made = generate_stage.generate(settings(), run, placement, ScriptedFactory(), progress, progress)
    rows = completions(run)
    assert [row["id"] for row in rows] == list(range(50))
    assert {row["id"]: row["error"] for row in rows if row["error"]} == {3: "too long", 7: "told to raise"}
    assert {row["completion"] for row in rows if not row["error"]} == {"A"}
    assert (progress.num_rows, progress.num_left, progress.num_done, progress.num_failed) == (50, 49, 49, 1)
    assert [info.other["engine"] for info in made.engine.values()] == ["scripted"]
    assert not run.exists("journal")
    assert not run.exists("work")


def test_half_a_surrogate_pair_in_a_completion_is_replaced(run_with_prompts: Make, placement: Placement) -> None:
    run = run_with_prompts([make_prompt(1)])
    generate_stage.generate(settings(), run, placement, ScriptedFactory(answer="A \ud83d"), Counting(), Counting())
    assert [row["completion"] for row in completions(run)] == ["A \ufffd"]


def test_each_repeat_is_a_row_of_its_own(run_with_prompts: Make, placement: Placement) -> None:
    run = run_with_prompts([make_prompt(1), make_prompt(2)])
    generate_stage.generate(settings("generation.repeats=3"), run, placement, ScriptedFactory(), Counting(), Counting())
    assert [(row["id"], row["repeat"]) for row in completions(run)] == [(i, r) for i in (1, 2) for r in (0, 1, 2)]


def test_rows_in_the_journal_are_not_generated_twice(run_with_prompts: Make, placement: Placement) -> None:
    run = run_with_prompts([make_prompt(number) for number in range(20)])
    same_run = run_with_prompts([make_prompt(number) for number in range(20)])
    assert same_run == run
    with pytest.raises(EndpointError, match="gone"):
        generate_stage.generate(
            settings("engine.endpoint.concurrency=1"), run, placement, Fading(), Counting(), Counting()
        )
    progress = Counting()
    generate_stage.generate(settings(), run, placement, ScriptedFactory(answer="B"), progress, progress)
    answers = [row["completion"] for row in completions(run)]
    assert answers.count("A") == 20 - progress.num_left == 5
    assert answers.count("B") == progress.num_left


def test_a_row_does_not_wait_for_a_slower_one_of_its_block(run_with_prompts: Make, placement: Placement) -> None:
    """With 2 slots and blocks of 4 rows, slots would be idle if a block's rows ran as a batch."""
    run = run_with_prompts([make_prompt(number) for number in range(40)])
    generate_stage.generate(
        settings("engine.endpoint.concurrency=2"), run, placement, ScriptedFactory(seconds=0.05), Counting(), Counting()
    )
    rows = completions(run)
    assert max(row["queued_s"] for row in rows) > 0.05
    busy = sum(row["generated_s"] for row in rows)
    assert busy == pytest.approx(40 * 0.05, rel=0.5)


def test_rows_that_complete_at_once_do_not_delay_each_other(
    run_with_prompts: Make, placement: Placement, tmp_path: Path
) -> None:
    """Each block is the last one for a moment; if all were held back, none would run until the engine is released."""
    run = run_with_prompts([make_prompt(number) for number in range(400)])
    starts = tmp_path / "starts"
    config = settings("engine.endpoint.concurrency=2")
    generate_stage.generate(config, run, placement, ScriptedFactory(starts=str(starts)), Counting(), Counting())
    assert len(completions(run)) == 400
    assert starts.read_text() == "start\n"


@pytest.mark.parametrize("num_rows", [3, 100])
@pytest.mark.usefixtures("placement")
def test_the_rows_of_a_second_part_follow_those_of_the_first_in_blocks_of_their_own(
    run_with_prompts: Make, num_rows: int
) -> None:
    run = run_with_prompts([make_prompt(number) for number in range(num_rows)])
    publish_prompts(run.child("noise"), [make_prompt(number) for number in range(50)])
    done: list[int] = []
    parts = [Part(run=each, repeats=1, on_done=lambda: done.append(1)) for each in (run, run.child("noise"))]
    found = list(blocks.blocks(parts, 16).iter_batches(batch_size=1, batch_format="pyarrow"))
    cut = [[(row["part"], row["place"]) for row in block] for table in found for block in table["rows"].to_pylist()]
    places = [*((0, place) for place in range(num_rows)), *((1, place) for place in range(50))]
    assert [row for block in cut for row in block] == places
    assert all(len(block) <= 16 and len({part for part, _ in block}) == 1 for block in cut)
    assert sum(len(block) == 16 for block in cut) == num_rows // 16 + 50 // 16
    for part, left in zip(parts, (num_rows, 50), strict=True):
        assert part.num_left == left
        part.count(left - 1)
        part.count(0)
        part.count(1)
    assert done == [1, 1]


def test_the_last_rows_of_a_run_are_reported_before_those_of_its_second_pass(
    run_with_prompts: Make, placement: Placement
) -> None:
    """The run's last block has two rows, and would fit into a task of Ray Data with the next block."""
    run, progress, num_done = run_with_prompts([make_prompt(number) for number in range(18)]), Counting(), []
    publish_prompts(run.child("noise"), [make_prompt(number) for number in range(15)])
    second = SecondPass(run=run.child("noise"), repeats=1, begins=lambda: num_done.append(progress.num_done))
    generate_stage.generate(settings(), run, placement, ScriptedFactory(), progress, progress, second=second)
    assert num_done == [18]
    assert progress.num_done == 33


def test_a_second_pass_that_was_killed_is_resumed_without_a_row_of_the_run(
    run_with_prompts: Make, placement: Placement, tmp_path: Path
) -> None:
    """All rows of the run are in its journal, and two of the second pass's are in its own."""
    prompts = [make_prompt(number) for number in range(10)]
    run, begun = run_with_prompts(prompts), []
    noise = run.child("noise")
    publish_prompts(noise, prompts[:5])
    for store, num_rows in ((run, 10), (noise, 2)):
        rows = [completed(each.id, prompt_sha256=each.prompt_sha256) for each in prompts[:num_rows]]
        journal.keep(store.child(journal.DIRECTORY), rows)
    second = SecondPass(run=noise, repeats=1, begins=lambda: begun.append(1))
    progress, starts, requests = Counting(), tmp_path / "starts", tmp_path / "requests"
    script = ScriptedFactory(answer="B", starts=str(starts), requests=str(requests))
    made = generate_stage.generate(settings(), run, placement, script, progress, progress, second=second)
    assert starts.read_text() == "start\n"
    assert len(requests.read_text().splitlines()) == progress.num_done == progress.num_left == 3
    assert [row["completion"] for row in completions(run)] == ["A"] * 10
    assert [row["completion"] for row in completions(noise)] == ["A"] * 2 + ["B"] * 3
    assert begun == [1]
    assert made.schedule == Schedule(history=None, num_known=0, num_rows=0)
    assert not run.exists("journal")
    assert not noise.exists("journal")


class Fading:
    """Starts an engine that answers five rows and then raises an error that the user can fix."""

    def __call__(self) -> Engine:
        from scripted import ScriptedEngine

        class FadingEngine(ScriptedEngine):
            num_answers = 0

            async def generate(self, request: Any) -> Any:
                if self.num_answers == 5:
                    raise EndpointError("gone")
                self.num_answers += 1
                return await super().generate(request)

        return FadingEngine(ScriptedFactory())


class Refusing:
    """Fails to start an engine."""

    def __call__(self) -> Engine:
        raise PipelineError("no such model")


def test_an_engine_that_does_not_start_is_a_one_line_error(run_with_prompts: Make, placement: Placement) -> None:
    run = run_with_prompts([make_prompt(1)])
    with pytest.raises(PipelineError, match=r"^no such model$"):
        generate_stage.generate(settings(), run, placement, Refusing(), Counting(), Counting())
    assert run.artifact("completions", COMPLETION_SCHEMA) is None
