"""Clusters of simulated nodes with simulated GPUs on this machine: the loss of a node, and the placement of groups."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from builders import Counting, completions, make_prompt
from ray.util.placement_group import placement_group_table
from scripted import ScriptedEngine, ScriptedFactory

from pipeline.config.loading import compose
from pipeline.errors import RunError
from pipeline.generate import dispatch, journal
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import cluster, require_whole_stages
from pipeline.records import Prompt
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.signals import Signals

pytestmark = [pytest.mark.usefixtures("at_root"), pytest.mark.slow]

Make = Callable[[list[Prompt]], ArtifactStore]


@contextmanager
def nodes_of(*gpus: int) -> Iterator[Any]:
    """Start nodes with these numbers of simulated GPUs; the first is the driver's."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 2, "num_gpus": gpus[0], "include_dashboard": False}
    some = Cluster(initialize_head=True, head_node_args=head)
    for count in gpus[1:]:
        some.add_node(num_cpus=2, num_gpus=count)
    ray.init(address=some.address, log_to_driver=False)
    try:
        yield some
    finally:
        ray.shutdown()
        some.shutdown()


@pytest.fixture
def nodes() -> Iterator[Any]:
    with nodes_of(4, 4) as two:
        yield two


@pytest.fixture
def one_gpu_node() -> Iterator[Any]:
    with nodes_of(0, 4) as two:
        yield two


class Removing(Counting):
    """Removes the second node when a quarter of the rows has arrived."""

    def __init__(self, nodes: Any) -> None:
        super().__init__()
        self._nodes, self.removed = nodes, False

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int, expected_tokens: float | None) -> None:
        super().advance(num_rows, num_failed, num_output_tokens, expected_tokens)
        if not self.removed and self.num_done > self.num_rows // 4:
            self.removed = True
            self._nodes.remove_node(next(iter(self._nodes.worker_nodes)), allow_graceful=False)


class Joining(Removing):
    """Adds a node with two GPUs after a tenth of the rows, and may remove the second node when that one is used."""

    def __init__(self, nodes: Any, *, removes: bool) -> None:
        super().__init__(nodes)
        self._removes, self.joined = removes, False

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int, expected_tokens: float | None) -> None:
        if not self.joined and self.num_done > self.num_rows // 10:
            self.joined = True
            self._nodes.add_node(num_cpus=1, num_gpus=2)
        if self._removes and any(event.kind == "replicas_joined" for event in self.events):
            super().advance(num_rows, num_failed, num_output_tokens, expected_tokens)
        else:
            Counting.advance(self, num_rows, num_failed, num_output_tokens, expected_tokens)


class RemovingAll(Removing, Signals):
    """Removes the only node with GPUs, and raises the error that ends the run."""

    def __init__(self, nodes: Any) -> None:
        Signals.__init__(self, grace_s=60)
        Removing.__init__(self, nodes)

    end_now = Signals.end_now


def test_a_run_without_a_machine_left_fails_with_one_line(
    run_with_prompts: Make, one_gpu_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "LONGEST_STRANDED_S", 10.0)
    config = compose(["conf=demo", "engine.replicas=auto", "engine.max_num_seqs=4"])
    run, progress = run_with_prompts([make_prompt(number) for number in range(200)]), RemovingAll(one_gpu_node)
    with cluster(config) as placement, progress.listen():
        progress.take()
        with pytest.raises(RunError, match="for 10 s there has been no machine for a replica"), progress.deferred():
            generate_stage.generate(config, run, placement, ScriptedFactory(seconds=0.5), progress, progress)
    assert 0 < sum(1 for _ in journal.read(run.child("journal"))) < 200


def test_a_lost_node_loses_no_row(run_with_prompts: Make, nodes: Any) -> None:
    config = compose(["conf=demo", "engine.replicas=auto", "engine.max_num_seqs=4"])
    run, progress = run_with_prompts([make_prompt(number) for number in range(400)]), Removing(nodes)
    with cluster(config) as placement:
        assert (placement.num_replicas, placement.gpus_per_replica) == (8, 1)
        generate_stage.generate(config, run, placement, ScriptedFactory(seconds=0.5), progress, progress)
    rows = completions(run)
    assert progress.removed
    assert [row["id"] for row in rows] == list(range(400))
    assert {row["error"] for row in rows} == {None}
    assert len({row["replica"] for row in rows}) >= 8


@pytest.mark.parametrize("removes", [False, True])
def test_a_node_that_joins_is_used_and_every_row_is_there_once(run_with_prompts: Make, removes: bool) -> None:
    with nodes_of(0, 2) as some:
        overrides = ["engine.replicas=auto", "engine.max_num_seqs=4", f"cluster.address={some.address}"]
        config = compose(["conf=demo", *overrides])
        run, progress = (
            run_with_prompts([make_prompt(number) for number in range(1000)]),
            Joining(some, removes=removes),
        )
        with cluster(config) as placement:
            assert (placement.num_replicas, placement.grows) == (2, True)
            made = generate_stage.generate(config, run, placement, ScriptedFactory(seconds=0.5), progress, progress)
    rows = completions(run)
    assert progress.joined
    assert progress.removed is removes
    assert "more GPUs are free: 4 replicas, 2 of them new" in [event.line for event in progress.events]
    assert [row["id"] for row in rows] == list(range(1000))
    assert {row["error"] for row in rows} == {None}
    assert len(made.engine) == 4
    assert min(Counter(row["replica"] for row in rows).values()) > 50


@dataclass(frozen=True)
class OnNode(ScriptedFactory):
    """Writes the labels of its node into a file of its own in `directory`."""

    directory: str = ""

    def __call__(self) -> ScriptedEngine:
        labels = ray.get_runtime_context().get_node_labels()
        Path(self.directory, str(os.getpid())).write_text(labels["zone"])
        return super().__call__()


def test_replicas_run_only_on_nodes_with_the_configured_labels(run_with_prompts: Make, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    with nodes_of(0) as some:
        for zone, gpus in (("a", 2), ("b", 1), ("c", 1)):
            some.add_node(num_cpus=1, num_gpus=gpus, labels={"zone": zone})
        overrides = ["engine.replicas=auto", "engine.max_num_seqs=4", "cluster.label_selector={zone: 'in(b,c)'}"]
        config = compose(["conf=demo", *overrides, f"cluster.address={some.address}"])
        run, progress = run_with_prompts([make_prompt(number) for number in range(200)]), Counting()
        with cluster(config) as placement:
            assert (placement.num_replicas, placement.num_gpus, placement.num_held_gpus) == (2, 2, 0)
            generate_stage.generate(
                config, run, placement, OnNode(seconds=0.2, directory=str(found)), progress, progress
            )
    assert sorted(file.read_text() for file in found.iterdir()) == ["b", "c"]
    assert len(completions(run)) == 200


@dataclass(frozen=True)
class Whole(ScriptedFactory):
    """Starts where vLLM would: not where a tensor parallel group, of `tensor` GPUs, spans nodes."""

    tensor: int = 0

    def __call__(self) -> ScriptedEngine:
        if self.tensor:
            require_whole_stages(self.tensor)
        return super().__call__()


class RecordingPlacement(Counting):
    """Records the nodes and GPUs of each replica's placement group when the first rows have arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.gpus_of_replicas: list[dict[str, int]] = []

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int, expected_tokens: float | None) -> None:
        super().advance(num_rows, num_failed, num_output_tokens, expected_tokens)
        if not self.gpus_of_replicas:
            groups = [each for each in placement_group_table().values() if each["state"] == "CREATED"]
            self.gpus_of_replicas = [dict(Counter(each["bundles_to_node_id"].values())) for each in groups]


@pytest.mark.parametrize(
    ("num_nodes", "gpus", "overrides", "replicas"),
    [
        (1, 8, ["engine.tensor_parallel_size=2"], 4),
        (2, 4, ["engine.tensor_parallel_size=4"], 2),
        (4, 2, ["engine.tensor_parallel_size=2"], 4),
        (2, 4, ["engine.tensor_parallel_size=4", "engine.pipeline_parallel_size=2"], 1),
        (4, 2, ["engine.tensor_parallel_size=2", "engine.pipeline_parallel_size=2"], 2),
    ],
)
def test_each_tensor_parallel_group_is_on_one_node(
    run_with_prompts: Make, num_nodes: int, gpus: int, overrides: list[str], replicas: int
) -> None:
    config = compose(["conf=demo", "engine.replicas=auto", "engine.max_num_seqs=4", *overrides])
    run, progress = run_with_prompts([make_prompt(number) for number in range(100)]), RecordingPlacement()
    with nodes_of(*[gpus] * num_nodes), cluster(config) as placement:
        assert placement.num_replicas == replicas
        script = Whole(seconds=0.2, tensor=config.engine.tensor_parallel_size if placement.spans_nodes else 0)
        made = generate_stage.generate(config, run, placement, script, progress, progress)
        left = {each["state"] for each in placement_group_table().values()}
    size, tensor = config.engine.gpus_per_replica, config.engine.tensor_parallel_size
    assert len(completions(run)) == 100
    assert len(made.engine) == replicas
    if size <= gpus:
        assert progress.gpus_of_replicas == []
        gpu_ids = sorted(str(each.other["gpus"]) for each in made.engine.values())
        assert [len(each.split(",")) for each in gpu_ids] == [size] * replicas
        assert len(gpu_ids) / len(set(gpu_ids)) == num_nodes, "on a node no two replicas have the same GPUs"
    else:
        assert len(progress.gpus_of_replicas) == replicas
        for gpus_of_nodes in progress.gpus_of_replicas:
            assert sum(gpus_of_nodes.values()) == size
            assert all(count % tensor == 0 for count in gpus_of_nodes.values())
        assert left == {"REMOVED"}, "their GPUs would be missing in the next pass"
