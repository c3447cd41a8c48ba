"""Two replicas on two simulated GPUs, on one of which the engine does not start, or only later."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from builders import Counting, completions, make_prompt
from scripted import ScriptedFactory

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import StartError
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import Placement, cluster
from pipeline.generate.control import Control
from pipeline.generate.replica import Replica, ReplicaConfig
from pipeline.generate.storage_proof import StorageProof
from pipeline.records import COMPLETION_SCHEMA, Prompt
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

Make = Callable[[list[Prompt]], ArtifactStore]


def settings() -> Config:
    return compose(["conf=demo", "engine.replicas=auto", "engine.max_num_seqs=4"])


@pytest.fixture(scope="module")
def placement() -> Iterator[Placement]:
    """Share one local Ray with two simulated GPUs among the tests of this file."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, num_gpus=2, log_to_driver=False, include_dashboard=False)
    try:
        with cluster(settings()) as found:
            yield found
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_replica_whose_engine_refuses_to_start_leaves_its_rows_to_the_other(
    run_with_prompts: Make, placement: Placement, tmp_path: Path
) -> None:
    assert (placement.num_replicas, placement.gpus_per_replica) == (2, 1)
    run, progress = run_with_prompts([make_prompt(number) for number in range(60)]), Counting()
    script = ScriptedFactory(refusing_gpus="1", seconds=0.5, starts=str(tmp_path / "starts"))
    made = generate_stage.generate(settings(), run, placement, script, progress, progress)
    assert (tmp_path / "starts").read_text().split("\n").count("start 1") == 1
    assert "tries_again" not in {event.kind for event in progress.events}
    rows = completions(run)
    assert [row["id"] for row in rows] == list(range(60))
    assert {row["error"] for row in rows} == {None}
    assert progress.num_done == 60
    assert {row["replica"] for row in rows} <= set(made.engine)


@pytest.mark.parametrize("num_failures", [1, pytest.param(1_000, marks=pytest.mark.slow)])
def test_a_replica_that_gave_up_is_tried_again_when_the_other_has_started(
    run_with_prompts: Make, placement: Placement, tmp_path: Path, num_failures: int
) -> None:
    """No other engine starts after the second failure, so that there is no third try."""
    run, progress = run_with_prompts([make_prompt(number) for number in range(100)]), Counting()
    starts = tmp_path / "starts"
    script = ScriptedFactory(broken_gpus="1", broken_starts=num_failures, starts=str(starts), seconds=0.8)
    made = generate_stage.generate(settings(), run, placement, script, progress, progress)
    assert {row["error"] for row in completions(run)} == {None}
    (line,) = (str(event.line) for event in progress.events if event.kind == "tries_again")
    assert re.fullmatch(r"replica \S+: its engine is started again, as others have started: try 1 of 3", line)
    (info,) = (info for info in made.engine.values() if info.tries_again)
    if num_failures == 1:
        assert (info.tries_again, info.gave_up, info.other["gpus"]) == (1, None, "1")
        assert sorted(starts.read_text().split("\n")) == ["", "start 0", "start 1", "start 1"]
        assert len({row["replica"] for row in completions(run)}) == 2
    else:
        assert (info.tries_again, info.gave_up) == (1, "GPU 1 is told not to start")


def test_when_no_replica_starts_the_run_fails_with_one_line(run_with_prompts: Make, placement: Placement) -> None:
    run = run_with_prompts([make_prompt(number) for number in range(60)])
    with pytest.raises(StartError, match=r"^GPU [01] is told not to start$"):
        generate_stage.generate(settings(), run, placement, ScriptedFactory(broken_gpus="0,1"), Counting(), Counting())
    assert run.artifact("completions", COMPLETION_SCHEMA) is None


@pytest.mark.slow
def test_a_row_that_crashes_engine_after_engine_is_one_failed_row(run_with_prompts: Make, placement: Placement) -> None:
    """The replica that runs it crashes; the other one continues meanwhile."""
    prompts = [make_prompt(number) for number in range(60)]
    prompts[5] = make_prompt(5, question="DIE")
    run = run_with_prompts(prompts)
    generate_stage.generate(settings(), run, placement, ScriptedFactory(seconds=0.05), Counting(), Counting())
    rows = completions(run)
    assert [row["id"] for row in rows] == list(range(60))
    assert [row["id"] for row in rows if row["error"]] == [5]


@pytest.mark.slow
@pytest.mark.usefixtures("placement")
def test_a_replica_without_the_runs_directory_ends_the_run_and_writes_nothing(tmp_path: Path) -> None:
    run = ArtifactStore.open(str(tmp_path / "run=test"))
    proof = StorageProof.begin(str(tmp_path), run.child("journal").child("session-1"), "1")
    run.remove()
    config = ReplicaConfig(
        factory=ScriptedFactory(),
        journals=[run.child("journal")],
        control=Control(run.child("journal").child("session-1")),
        proof=proof,
        session="1",
        flush_s=1.0,
        slots=1,
        seed=1,
        max_restarts=0,
        max_alike_failures=None,
        ends_when_alike=True,
        logs=run.child("logs"),
    )
    replica = ray.remote(Replica).remote(config)  # what Ray starts on a host that has joined since
    (status,) = ray.get(replica.__call__.remote(pa.table({"rows": pa.array([], pa.list_(pa.int64()))}))).to_pylist()
    assert status["fatal_kind"] == "ConfigError"
    assert f"output_dir={tmp_path} is not shared with node {os.uname().nodename}, which sees " in status["fatal"]
    assert list(tmp_path.iterdir()) == []
