"""A run waits for nodes as long as it may, says what it waits for, and withdraws its request however the wait ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, Interrupted
from pipeline.generate import waiting
from pipeline.generate.cluster import place
from pipeline.generate.nodes import Node
from pipeline.generate.waiting import NotEnough, bundles, wait_for

HEAD: Any = {"Alive": True, "NodeID": "head", "Resources": {"CPU": 2.0}}
LOST: Any = {"Alive": False, "NodeID": "lost", "Resources": {}}
FOUR_GPUS: Any = {"Alive": True, "NodeID": "four", "Resources": {"CPU": 8.0, "GPU": 4.0}}


class Clock:
    """The time of a wait, which passes only while it sleeps, and the requests to the autoscaler meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray.autoscaler.sdk

        self.now = 0.0
        self.requests: list[list[dict[str, float]]] = []
        self.selectors: list[object] = []
        self.interrupt_at = float("inf")
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(waiting.time, "sleep", self.sleep)
        monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", self.request)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.interrupt_at:
            raise Interrupted("interrupted")

    def request(self, bundles: list[dict[str, float]], bundle_label_selectors: object = None) -> None:
        self.requests.append(bundles)
        self.selectors.append(bundle_label_selectors)

    def nodes(self, *joining: tuple[float, Any]) -> Callable[[], Sequence[Node]]:
        """Return a function like `ray.nodes`, with the head and the nodes that have joined by now."""
        return lambda: [HEAD, LOST, *(node for second, node in joining if second <= self.now)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def settings(*overrides: str) -> Config:
    return compose(["conf=mera", "cluster.wait_s=120", *overrides])


def joined(config: Config) -> Callable[[Sequence[Node]], Any]:
    return lambda nodes: place(config, nodes, is_local=False)


@pytest.mark.usefixtures("at_root")
def test_a_run_waits_for_all_replicas_and_reports_what_is_there(clock: Clock) -> None:
    config, lines = settings("engine.replicas=4", "engine.tensor_parallel_size=2"), list[str]()
    nodes = clock.nodes((20, FOUR_GPUS), (65, FOUR_GPUS))
    assert wait_for(config, joined(config), nodes, lines.append).num_replicas == 4
    assert lines == [
        "waiting for 8 GPUs: 1 node, 0 GPUs, 0 of 120 s",
        "waiting for 8 GPUs: 2 nodes, 4 GPUs, 30 of 120 s",
        "waiting for 8 GPUs: 2 nodes, 4 GPUs, 60 of 120 s",
        "after 66 s the cluster has 3 nodes, 8 GPUs",
    ]
    assert clock.now < 70
    assert clock.requests[:-1] == [[{"GPU": 2.0}] * 4] * (len(clock.requests) - 1)
    assert clock.requests[-1] == []


@pytest.mark.usefixtures("at_root")
def test_auto_waits_for_one_replica_and_takes_what_is_there(clock: Clock) -> None:
    config = settings("engine.replicas=auto", "engine.tensor_parallel_size=2")
    placement = wait_for(config, joined(config), clock.nodes((20, FOUR_GPUS)), lambda _: None)
    assert (placement.num_replicas, placement.gpus_per_replica, placement.grows) == (2, 2, True)
    assert clock.requests[0] == [{"GPU": 2.0}]


@pytest.mark.usefixtures("at_root")
def test_after_the_wait_the_run_ends_with_one_line_and_withdraws_its_request(clock: Clock) -> None:
    config = settings("engine.replicas=auto")
    with pytest.raises(
        NotEnough, match=r"no GPU.*has waited 120 s \(cluster.wait_s\): the same run_id resumes"
    ) as error:
        wait_for(config, joined(config), clock.nodes(), lambda _: None)
    assert error.value.exit_code == 2
    assert (clock.now, clock.requests[-1]) == (120, [])


@pytest.mark.usefixtures("at_root")
def test_an_interrupted_wait_withdraws_its_request(clock: Clock) -> None:
    clock.interrupt_at = 10
    config = settings("engine.replicas=auto")
    with pytest.raises(Interrupted):
        wait_for(config, joined(config), clock.nodes(), lambda _: None)
    assert clock.requests[0] == [{"GPU": 2.0}]
    assert clock.requests[-1] == []


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["cluster.wait_s=0"], "the cluster has no GPU.*; or let the run wait for nodes: cluster.wait_s=1800$"),
        (["engine.tensor_parallel_size=3"], "engine.tensor_parallel_size=3 does not divide"),
    ],
)
def test_what_no_wait_can_help_is_refused_at_once(clock: Clock, overrides: list[str], line: str) -> None:
    config = settings("engine.replicas=auto", *overrides)
    nodes = clock.nodes(*([] if "cluster.wait_s=0" in overrides else [(0, FOUR_GPUS)]))
    with pytest.raises(ConfigError, match=line):
        wait_for(config, joined(config), nodes, lambda _: None)
    assert (clock.now, clock.requests) == (0, [])


@pytest.mark.usefixtures("at_root")
def test_nodes_are_requested_with_the_labels_that_replicas_need(clock: Clock) -> None:
    config = settings("engine.replicas=auto", "cluster.label_selector={zone: a}")
    with pytest.raises(NotEnough, match=r"cluster.label_selector={'zone': 'a'}: no node has these labels"):
        wait_for(config, joined(config), clock.nodes((0, FOUR_GPUS)), lambda _: None)
    assert clock.selectors[0] == [{"zone": "a"}]


@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["engine.replicas=3", "engine.tensor_parallel_size=1"], [{"GPU": 1.0}] * 3),
        (["engine.replicas=2", "engine.tensor_parallel_size=8", "engine.pipeline_parallel_size=2"], [{"GPU": 8.0}] * 4),
        (["engine.kind=endpoint", "engine.endpoint.base_url=http://x/v1"], [{"CPU": 1.0}] * 2),
    ],
)
def test_each_bundle_fits_on_a_node(overrides: list[str], wanted: list[dict[str, float]]) -> None:
    assert bundles(settings(*overrides)) == wanted
