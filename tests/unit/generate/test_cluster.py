"""Replicas are placed on the GPUs of the nodes; a placement that does not fit is a one-line error."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import make_dataclass, replace
from importlib import import_module
from types import ModuleType

import pytest
import ray

from pipeline.config.loading import compose
from pipeline.errors import ConfigError, Interrupted
from pipeline.generate.cluster import cluster, place, remove_groups, require_whole_stages
from pipeline.generate.engines.vllm_arguments import engine_arguments
from pipeline.generate.engines.vllm_engine import VllmFactory
from pipeline.generate.nodes import ACCELERATOR_TYPE
from pipeline.generate.stage import engine_factory
from pipeline.generate.waiting import NotEnough

ONE_GPU = ["conf=mera", "engine.replicas=auto", "engine.tensor_parallel_size=1"]


def nodes(*gpus: int) -> list[dict[str, object]]:
    return [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": float(count)} if count else {"CPU": 8.0}} for count in gpus
    ]


@pytest.mark.parametrize(
    ("gpus", "overrides", "num_replicas"),
    [
        ((8,), [], 8),
        ((4, 4), [], 8),
        ((2, 2, 2, 2), [], 8),
        ((8,), ["engine.tensor_parallel_size=2"], 4),
        ((4, 4), ["engine.tensor_parallel_size=4"], 2),
        ((8,), ["engine.tensor_parallel_size=2", "engine.pipeline_parallel_size=2"], 2),
        ((4, 4), ["engine.tensor_parallel_size=4", "engine.pipeline_parallel_size=2"], 1),
        ((2, 2, 2, 2), ["engine.tensor_parallel_size=2", "engine.pipeline_parallel_size=2"], 2),
        ((4, 4, 4), ["engine.tensor_parallel_size=2", "engine.pipeline_parallel_size=3"], 2),
        ((8,), ["engine.replicas=3"], 3),
        ((7,), ["engine.replicas=3", "engine.tensor_parallel_size=2"], 3),
        ((0,), [], 1),
    ],
)
def test_replicas_fill_the_gpus(gpus: tuple[int, ...], overrides: list[str], num_replicas: int) -> None:
    config = compose([*ONE_GPU, *overrides])
    assert place(config, nodes(*gpus)).num_replicas == num_replicas


@pytest.mark.parametrize(
    ("gpus", "overrides", "line"),
    [
        ((8,), ["engine.replicas=9"], "engine.replicas=9: 8 of 1 GPUs each fit"),
        ((8,), ["engine.replicas=5", "engine.tensor_parallel_size=2"], "engine.replicas=5: 4 of 2 GPUs each fit"),
        ((8,), ["engine.tensor_parallel_size=3"], "engine.tensor_parallel_size=3 does not divide"),
        ((4, 4), ["engine.tensor_parallel_size=8"], "no node has 8 GPUs for one tensor parallel group"),
        (
            (4, 4),
            ["engine.tensor_parallel_size=4", "engine.pipeline_parallel_size=3"],
            "engine.pipeline_parallel_size=3: one replica takes 12 GPUs",
        ),
        (
            (3, 3),
            ["engine.tensor_parallel_size=2", "engine.pipeline_parallel_size=3"],
            "a replica over several nodes needs nodes whose GPUs it divides",
        ),
        ((0,), ["engine.tensor_parallel_size=2"], "engine.tensor_parallel_size=2: the cluster has no GPU"),
        ((0,), ["engine.replicas=8"], "engine.replicas=8: the cluster has no GPU"),
    ],
)
def test_what_does_not_fit_is_a_one_line_error(gpus: tuple[int, ...], overrides: list[str], line: str) -> None:
    config = compose([*ONE_GPU, *overrides])
    with pytest.raises(ConfigError, match=line):
        place(config, nodes(*gpus))


@pytest.mark.parametrize(
    ("gpus", "overrides", "expected"),
    [
        ((0, 4, 4), [], (8, True)),
        ((0, 4, 4), ["engine.replicas=3"], (3, False)),
        ((0, 2, 2), ["engine.tensor_parallel_size=2", "engine.pipeline_parallel_size=2"], (1, False)),
        ((0,), ["engine.replicas=1", "cluster.wait_s=0"], (1, False)),
        ((0,), ["engine.kind=endpoint", "engine.endpoint.base_url=http://x/v1", "cluster.wait_s=0"], (1, False)),
    ],
)
def test_on_a_joined_cluster_only_auto_grows_and_only_replicas_on_one_node(
    gpus: tuple[int, ...], overrides: list[str], expected: tuple[int, bool]
) -> None:
    placement = place(compose([*ONE_GPU, *overrides]), nodes(*gpus), is_local=False)
    assert (placement.num_replicas, placement.grows) == expected
    assert not place(compose([*ONE_GPU, *overrides]), nodes(*gpus)).grows


@pytest.mark.parametrize(
    "overrides",
    [
        ["engine.replicas=auto"],
        ["engine.replicas=8", "cluster.wait_s=0"],
        ["engine.replicas=1", "engine.tensor_parallel_size=2", "cluster.wait_s=0"],
        ["engine.replicas=1", "cluster.wait_s=1800"],
    ],
)
def test_on_a_joined_cluster_a_cpu_never_takes_the_place_of_a_gpu(overrides: list[str]) -> None:
    with pytest.raises(NotEnough, match=r"^engine.replicas=\w+, \d GPUs? each: the cluster has no GPU: start nodes"):
        place(compose([*ONE_GPU, *overrides]), nodes(0), is_local=False)


def test_on_a_joined_cluster_without_gpus_vllms_cuda_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*ONE_GPU, "engine.replicas=1", "cluster.wait_s=0"])
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.32.0")
    with pytest.raises(NotEnough, match=r"^engine.kind=vllm: the cluster has no GPU, and the installed vllm needs one"):
        place(config, nodes(0), is_local=False)


@pytest.mark.parametrize(
    ("cpus", "gpus", "overrides", "line"),
    [
        ((0, 0), (4, 4), [], "the cluster has no CPU, and Ray Data's tasks take one"),
        ((1,), (0,), ["engine.replicas=1", "cluster.wait_s=0"], r"the nodes have \[1\] CPUs, and .* the run takes two"),
        ((0,), (0,), ["engine.kind=endpoint", "engine.endpoint.base_url=http://x/v1"], "the cluster has no CPU"),
    ],
)
def test_a_cluster_without_the_cpus_that_ray_data_takes_is_refused(
    cpus: tuple[int, ...], gpus: tuple[int, ...], overrides: list[str], line: str
) -> None:
    found = [{"Alive": True, "Resources": {"CPU": cpu, "GPU": gpu}} for cpu, gpu in zip(cpus, gpus, strict=True)]
    with pytest.raises(NotEnough, match=line):
        place(compose([*ONE_GPU, *overrides]), found, is_local=False)


def labelled(gpus: int, kind: str) -> dict[str, object]:
    return {**nodes(gpus)[0], "Labels": {ACCELERATOR_TYPE: kind}}


def test_only_nodes_with_the_configured_labels_are_counted() -> None:
    there = [labelled(8, "A100"), labelled(4, "H100"), labelled(4, "H100")]
    placement = place(compose([*ONE_GPU, "cluster.label_selector={ray.io/accelerator-type: H100}"]), there)
    assert (placement.num_replicas, placement.num_gpus, placement.gpu_types) == (8, 8, {"H100": 8})
    assert placement.mixes_types is None
    assert placement.num_fitting(there[:2]) == 4
    assert placement.actor_args([])["label_selector"] == {"ray.io/accelerator-type": "H100"}
    with pytest.raises(NotEnough, match=r"^cluster.label_selector={'zone': 'b'}: no node has these labels$"):
        place(compose([*ONE_GPU, "cluster.label_selector={zone: b}"]), there)


def test_replicas_on_several_types_of_gpu_are_a_warning() -> None:
    there = [labelled(8, "A100"), labelled(4, "H100"), labelled(0, "T4")]
    assert place(compose(ONE_GPU), there[:1]).mixes_types is None
    line = place(compose(ONE_GPU), there).mixes_types
    assert str(line).startswith("mixed-gpus: replicas run on several types of GPU (8 x A100, 4 x H100)")
    assert "cluster.label_selector={ray.io/accelerator-type: A100} takes one" in str(line)


def test_a_lost_node_is_not_counted() -> None:
    alive, lost = nodes(4, 4)
    config = compose(ONE_GPU)
    assert place(config, [alive, {**lost, "Alive": False}]).num_replicas == 4


def test_only_a_replica_larger_than_a_node_spans_nodes() -> None:
    two = ["conf=mera", "engine.replicas=auto", "engine.tensor_parallel_size=2"]
    assert not place(compose(two), nodes(4, 4)).spans_nodes
    assert not place(compose([*two, "engine.pipeline_parallel_size=2"]), nodes(4, 4)).spans_nodes
    assert place(compose([*two, "engine.pipeline_parallel_size=2"]), nodes(2, 2)).spans_nodes


@pytest.mark.parametrize(
    ("num_held", "replicas", "line"),
    [
        (0, "auto", None),
        (4, "2", None),
        (4, "auto", "other jobs hold 4 of the 8 GPUs; of 4 replicas of 2 some start only when 4 are given back"),
        (6, "2", "other jobs hold 6 of the 8 GPUs; of 2 replicas of 2 some start only when 2 are given back"),
    ],
)
def test_gpus_held_by_other_jobs_are_reported(num_held: int, replicas: str, line: str | None) -> None:
    config = compose(["conf=mera", f"engine.replicas={replicas}", "engine.tensor_parallel_size=2"])
    waits_for = replace(place(config, nodes(4, 4)), num_held_gpus=num_held).waits_for
    assert waits_for == (line and f"engine.replicas: {line}")


def test_without_gpus_no_replica_waits() -> None:
    assert place(compose(["conf=demo"]), nodes(0)).waits_for is None


@pytest.mark.parametrize(("gpus", "executor"), [((8,), "mp"), ((4, 4), "ray")])
def test_vllm_starts_its_workers_on_the_nodes_of_the_replica(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[int, ...], executor: str
) -> None:
    """On one node workers are processes; on several nodes they are actors in the replica's placement group."""
    overrides = ["engine.replicas=1", "engine.tensor_parallel_size=4", "engine.pipeline_parallel_size=2"]
    config = compose(["conf=mera", *overrides])
    factory = engine_factory(config, place(config, nodes(*gpus)))
    arguments = ModuleType("vllm.engine.arg_utils")
    names = (
        *("model", "revision", "tokenizer_revision", "dtype", "max_model_len", "trust_remote_code", "seed"),
        *("tensor_parallel_size", "pipeline_parallel_size", "max_num_seqs", "gpu_memory_utilization"),
        *("disable_log_stats", "enable_log_requests", "distributed_executor_backend", *config.engine.extra),
    )
    arguments.AsyncEngineArgs = make_dataclass("AsyncEngineArgs", names)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.engine.arg_utils", arguments)
    assert isinstance(factory, VllmFactory)
    passed = engine_arguments(config, spans_nodes=factory.spans_nodes)
    assert (passed.distributed_executor_backend, passed.tensor_parallel_size) == (executor, 4)


def test_when_nodes_are_lost_fewer_replicas_fit() -> None:
    placement = place(compose(["conf=mera", "engine.replicas=auto", "engine.tensor_parallel_size=2"]), nodes(4, 4))
    one, other = nodes(4, 4)
    assert placement.num_fitting([one, {**other, "Alive": False}]) == 2
    assert placement.num_fitting([]) == 0
    assert place(compose(["conf=demo"]), nodes(0)).num_fitting([]) == 1


def test_sigterm_while_ray_starts_is_an_interruption_and_ray_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []

    def start(**_: object) -> None:
        raise SystemExit(15)  # what Ray's own handler does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: stopped.append(True))
    with pytest.raises(Interrupted, match="resumes"), cluster(compose(["conf=demo"])):
        pytest.fail("it has not started")
    assert stopped == [True]


@pytest.mark.parametrize(
    ("gpus", "tensor", "is_split"), [((4, 4), 4, False), ((4, 4), 2, False), ((2, 6), 2, False), ((3, 5), 4, True)]
)
def test_a_placement_that_splits_a_tensor_parallel_group_is_rejected(
    gpus: tuple[int, ...], tensor: int, is_split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = dict(enumerate(f"node-{node}" for node, count in enumerate(gpus) for _ in range(count)))
    module = import_module("ray.util.placement_group")  # ray.util has a function of this name
    monkeypatch.setattr(module, "get_current_placement_group", lambda: "group")
    monkeypatch.setattr(module, "placement_group_table", lambda _: {"bundles_to_node_id": nodes})
    if not is_split:
        require_whole_stages(tensor)
        return
    with pytest.raises(ConfigError, match=r"^engine\.tensor_parallel_size=4: .* of the 8 .* nodes have \[3, 5\]"):
        require_whole_stages(tensor)


def test_a_group_that_cannot_be_removed_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    attempted: list[str] = []

    def remove(group: str) -> None:
        attempted.append(group)
        raise ConnectionError("Ray is gone")

    monkeypatch.setattr(import_module("ray.util.placement_group"), "remove_placement_group", remove)
    remove_groups(["one", "two"])
    assert attempted == ["one", "two"]
