"""Two replicas on two simulated GPUs: the run continues with one, and fails with one line when none starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from builders import Counting, completions, make_prompt
from scripted import ScriptedFactory

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ModelError
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import Placement, cluster
from pipeline.generate.control import Control
from pipeline.generate.replica import Replica, ReplicaConfig
from pipeline.generate.storage_proof import StorageProof
from pipeline.records import COMPLETION_SCHEMA, Prompt
from pipeline.storage.artifacts import ArtifactStore

pytestmark = [pytest.mark.usefixtures("at_root"), pytest.mark.slow]

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


def test_a_replica_that_does_not_start_leaves_its_rows_to_the_other(
    run_with_prompts: Make, placement: Placement
) -> None:
    assert (placement.num_replicas, placement.gpus_per_replica) == (2, 1)
    run, progress = run_with_prompts([make_prompt(number) for number in range(60)]), Counting()
    made = generate_stage.generate(
        settings(), run, placement, ScriptedFactory(broken_gpus="1", seconds=0.05), progress, progress
    )
    rows = completions(run)
    assert [row["id"] for row in rows] == list(range(60))
    assert {row["error"] for row in rows} == {None}
    assert progress.num_done == 60
    assert {row["replica"] for row in rows} <= set(made.engine)


def test_when_no_replica_starts_the_run_fails_with_one_line(run_with_prompts: Make, placement: Placement) -> None:
    run = run_with_prompts([make_prompt(number) for number in range(60)])
    with pytest.raises(ModelError, match=r"^GPU [01] is told not to start$"):
        generate_stage.generate(settings(), run, placement, ScriptedFactory(broken_gpus="0,1"), Counting(), Counting())
    assert run.artifact("completions", COMPLETION_SCHEMA) is None


def test_a_row_that_crashes_engine_after_engine_is_one_failed_row(run_with_prompts: Make, placement: Placement) -> None:
    """The replica that runs it crashes; the other one continues meanwhile."""
    prompts = [make_prompt(number) for number in range(60)]
    prompts[5] = make_prompt(5, question="DIE")
    run = run_with_prompts(prompts)
    generate_stage.generate(settings(), run, placement, ScriptedFactory(seconds=0.05), Counting(), Counting())
    rows = completions(run)
    assert [row["id"] for row in rows] == list(range(60))
    assert [row["id"] for row in rows if row["error"]] == [5]


@pytest.mark.usefixtures("placement")
def test_a_replica_without_the_runs_directory_ends_the_run_and_writes_nothing(tmp_path: Path) -> None:
    run = ArtifactStore.open(str(tmp_path / "run=test"))
    proof = StorageProof.begin(str(tmp_path), run.child("journal").child("session-1"), "1")
    run.remove()
    config = ReplicaConfig(
        factory=ScriptedFactory(),
        journal=run.child("journal"),
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
    (status,) = ray.get(replica.__call__.remote(pa.table({"id": pa.array([], pa.int64())}))).to_pylist()
    assert status["fatal_kind"] == "ConfigError"
    assert f"output_dir={tmp_path} is not shared with node {os.uname().nodename}, which sees " in status["fatal"]
    assert list(tmp_path.iterdir()) == []
