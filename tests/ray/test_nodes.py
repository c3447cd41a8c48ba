"""Two nodes of four pretended GPUs each, as one cluster on this machine: what a lost node costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from builders import Counting, completions, make_prompt
from scripted import ScriptedFactory

from pipeline.compose import compose
from pipeline.errors import RunError
from pipeline.generate import feed, job, journal
from pipeline.generate.cluster import cluster
from pipeline.records import Prompt
from pipeline.signals import Signals
from pipeline.store import Folder

pytestmark = [pytest.mark.usefixtures("at_root"), pytest.mark.slow]

Make = Callable[[list[Prompt]], Folder]


@pytest.fixture
def nodes() -> Iterator[Any]:
    """Start two nodes; the first is the driver's."""
    yield from _cluster(4)


def _cluster(num_head_gpus: int) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 2, "num_gpus": num_head_gpus, "include_dashboard": False}
    two = Cluster(initialize_head=True, head_node_args=head)
    two.add_node(num_cpus=2, num_gpus=4)
    ray.init(address=two.address, log_to_driver=False)
    try:
        yield two
    finally:
        ray.shutdown()
        two.shutdown()


@pytest.fixture
def one_gpu_node() -> Iterator[Any]:
    """Start a node for the driver and one with four GPUs."""
    yield from _cluster(0)


class Removing(Counting):
    """Takes the second node away when a quarter of the rows has arrived."""

    def __init__(self, nodes: Any) -> None:
        super().__init__()
        self._nodes, self.removed = nodes, False

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int) -> None:
        super().advance(num_rows, num_failed, num_output_tokens)
        if not self.removed and self.num_done > self.num_rows // 4:
            self.removed = True
            self._nodes.remove_node(next(iter(self._nodes.worker_nodes)), allow_graceful=False)


class RemovingAll(Removing, Signals):
    """Takes the only node with GPUs away, and raises what ends the run."""

    def __init__(self, nodes: Any) -> None:
        Signals.__init__(self, grace_s=60)
        Removing.__init__(self, nodes)

    end_now = Signals.end_now


def test_when_no_machine_is_left_the_run_ends_with_one_line(
    run_with_prompts: Make, one_gpu_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LONGEST_STRANDED_S", 10.0)
    config = compose(["conf=demo", "engine.replicas=auto", "engine.max_num_seqs=4"])
    run, progress = run_with_prompts([make_prompt(number) for number in range(200)]), RemovingAll(one_gpu_node)
    with cluster(config) as placement, progress.listen():
        progress.take()
        with pytest.raises(RunError, match="for 10 s there has been no machine for a replica"), progress.deferred():
            job.generate(config, run, placement, ScriptedFactory(seconds=0.5), progress, progress)
    assert 0 < sum(1 for _ in journal.read(run.child("journal"))) < 200


def test_a_node_that_is_taken_away_costs_no_row(run_with_prompts: Make, nodes: Any) -> None:
    config = compose(["conf=demo", "engine.replicas=auto", "engine.max_num_seqs=4"])
    run, progress = run_with_prompts([make_prompt(number) for number in range(400)]), Removing(nodes)
    with cluster(config) as placement:
        assert (placement.num_replicas, placement.gpus_per_replica) == (8, 1)
        job.generate(config, run, placement, ScriptedFactory(seconds=0.5), progress, progress)
    rows = completions(run)
    assert progress.removed
    assert [row["id"] for row in rows] == list(range(400))
    assert {row["error"] for row in rows} == {None}
    assert len({row["replica"] for row in rows}) >= 8
