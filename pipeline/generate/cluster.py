"""The Ray cluster: join or start one, read its resources, place the replicas, leave it as it was found.

In: the configuration. Out: a `Placement`. Ray's own output goes to its log files, not to the terminal.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import CAN_BE_RESUMED, ConfigError, Interrupted
from pipeline.generate import connection, waiting
from pipeline.generate import nodes as cluster_nodes
from pipeline.generate.nodes import Node, matching
from pipeline.generate.waiting import NotEnough
from pipeline.runs import installation
from pipeline.terminal.text import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many engines run and what each of them takes.

    A replica's GPUs are on one node, where an actor that requests all of them is never split. Only a replica with more
    pipeline stages than fit on a node `spans_nodes`; then each of its stages is on one node. `num_held_gpus` counts the
    GPUs that other jobs hold at this moment. Replicas run on nodes that match `label_selector`; `gpu_types` has their
    GPUs by type. When the placement `grows`, `num_replicas` is the number at the start, and nodes that join have
    replicas too. `wait_s` is the longest wait for nodes when all are lost, if it is more than dispatch.py waits anyway.
    """

    num_replicas: int
    gpus_per_replica: int
    num_gpus: int
    num_held_gpus: int = 0
    spans_nodes: bool = False
    grows: bool = False
    wait_s: float = 0.0
    label_selector: Mapping[str, str] = field(default_factory=dict)
    gpu_types: Mapping[str, int] = field(default_factory=dict)

    def num_fitting(self, nodes: Sequence[Node]) -> int:
        """Return how many replicas fit on those of the nodes that are alive; 1 where replicas take no GPU."""
        gpus = cluster_nodes.gpus(matching(nodes, self.label_selector))
        return num_groups(gpus, self.gpus_per_replica, spans_nodes=self.spans_nodes) if self.gpus_per_replica else 1

    @property
    def waits_for(self) -> str | None:
        """One line that names the GPUs, held by other jobs, that some replicas wait for; None if none waits."""
        short = self.num_replicas * self.gpus_per_replica - (self.num_gpus - self.num_held_gpus)
        if short <= 0 or not self.num_held_gpus:
            return None
        return (
            f"engine.replicas: other jobs hold {self.num_held_gpus} of the {self.num_gpus} GPUs; of "
            f"{self.num_replicas} replicas of {self.gpus_per_replica} some start only when {short} are given back"
        )

    @property
    def mixes_types(self) -> str | None:
        """One line if the GPUs are of several types, which Ray knows by their nodes' labels; else None."""
        if not self.gpus_per_replica or len(self.gpu_types) < 2:
            return None
        types = ", ".join(f"{count} x {name}" for name, count in self.gpu_types.items())
        one = f"{{{cluster_nodes.ACCELERATOR_TYPE}: {next(iter(self.gpu_types))}}}"
        return (
            f"mixed-gpus: replicas run on several types of GPU ({types}), each with the same memory share and slots, "
            f"and their results are rounded differently: cluster.label_selector={one} takes one type"
        )

    def actor_args(self, groups: list[Any]) -> dict[str, object]:
        """Return Ray's options for the actors of replicas; the owner of `groups` calls `remove_groups` at the end."""
        if self.spans_nodes:
            return {"num_gpus": 0, "num_cpus": 0, "ray_remote_args_fn": lambda: self.group_args(groups)}
        args: dict[str, object] = {"num_gpus": self.gpus_per_replica, "num_cpus": 0 if self.gpus_per_replica else 1}
        return {**args, "label_selector": dict(self.label_selector)} if self.label_selector else args

    def group_args(self, groups: list[Any]) -> dict[str, object]:
        """Return Ray's options for the actor of a replica over several nodes; called once for each actor.

        Args:
            groups: The placement group that is made for the actor is appended; the list's owner calls `remove_groups`.
        """
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # vLLM's own Ray executor requires one GPU a bundle. PACK fills a node before it uses the next.
        bundles = [{"GPU": 1.0}] * self.gpus_per_replica
        selectors = [dict(self.label_selector)] * len(bundles) if self.label_selector else None
        groups.append(placement_group(bundles, strategy="PACK", bundle_label_selector=selectors))
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                groups[-1], placement_group_capture_child_tasks=True
            )
        }


def remove_groups(groups: list[Any]) -> None:
    """Release the placement groups: unlike an actor's own GPUs, theirs stay reserved after the actor has ended."""
    from ray.util.placement_group import remove_placement_group

    for group in groups:
        try:
            remove_placement_group(group)
        except Exception:  # Ray may be gone, and the caller is about to report why the pass has ended
            logger.exception("A placement group cannot be given back")


def require_whole_stages(tensor_parallel_size: int) -> None:
    """Check that each tensor parallel group of this actor's placement group is on one node; loads no model.

    GPUs held by other jobs may split it. vLLM takes a group's GPUs node by node (vLLM 0.32, v1/executor/ray_utils.py,
    get_bundles_sorted_by_node), so each tensor parallel group is on one node when the number of the group's GPUs on
    every node is a multiple of its size. vLLM itself only warns.

    Raises:
        ConfigError: The number of the group's GPUs on some node is not a multiple.
    """
    from ray.util.placement_group import get_current_placement_group, placement_group_table

    nodes = placement_group_table(get_current_placement_group())["bundles_to_node_id"].values()
    gpus = sorted(Counter(nodes).values())
    if any(count % tensor_parallel_size for count in gpus):
        raise ConfigError(
            f"engine.tensor_parallel_size={tensor_parallel_size}: other jobs hold GPUs, and of the {len(nodes)} of "
            f"this replica the nodes have {gpus}: run again when whole nodes are free, or choose a size that divides "
            "these"
        )


@contextmanager
def cluster(
    config: Config, report: Callable[[str], None] = lambda _: None, on_start: Callable[[], None] = lambda: None
) -> Iterator[Placement]:
    """Join or start Ray, and leave it at the end; a local one is stopped with all its processes.

    Args:
        config: The run's configuration.
        report: Receives lines for the terminal: what the cluster has, and what the run waits for.
        on_start: Called once Ray is there: its start installs a handler of SIGTERM.

    Raises:
        ConfigError: The cluster cannot be reached, or lacks the GPUs that the configuration requests.
        Interrupted: SIGTERM arrived before `on_start` was called.
    """
    connection.set_environment()
    import ray

    joined = ray.is_initialized()
    is_local = connection.address_of(config).is_local
    try:
        try:
            if not joined:
                connection.connect(config)
            on_start()
            report(_describe(config, ray.nodes(), is_local=is_local))
            placement = place_when_possible(config, report, is_local=is_local)
        except SystemExit as error:  # raised by Ray's own handler of SIGTERM, which its start installs
            raise Interrupted(CAN_BE_RESUMED) from error
        yield placement
    finally:
        if not joined:  # also when it has started only in part
            ray.shutdown()


def _describe(config: Config, nodes: Sequence[Node], *, is_local: bool) -> str:
    """Return a line that names the cluster, its nodes and their GPUs."""
    import ray

    where = ray.get_runtime_context().gcs_address
    has = cluster_nodes.describe(matching(nodes, {}))
    selector = config.cluster.label_selector
    match = f"; with cluster.label_selector: {cluster_nodes.describe(matching(nodes, selector))}" if selector else ""
    kind = "a Ray of its own" if is_local else "Ray cluster"
    return f"cluster: {kind} at {where}, Ray {ray.__version__}: {has}{match}"


def place_when_possible(config: Config, report: Callable[[str], None], *, is_local: bool) -> Placement:
    """Return the placement of the replicas; on a joined cluster wait for its nodes, for at most `cluster.wait_s`.

    Raises:
        ConfigError: The replicas do not fit; the message names the key and what the nodes have.
    """
    import ray

    def find(nodes: Sequence[Node]) -> Placement:
        return place(config, nodes, is_local=is_local)

    placement = find(ray.nodes()) if is_local else waiting.wait_for(config, find, ray.nodes, report)
    names = {node["NodeID"] for node in matching(ray.nodes(), placement.label_selector)}
    free = ray._private.state.available_resources_per_node()
    num_free = sum(int(resources.get("GPU", 0)) for name, resources in free.items() if name in names)
    return replace(placement, num_held_gpus=max(0, placement.num_gpus - num_free))


def place(config: Config, nodes: Sequence[Node], *, is_local: bool = True) -> Placement:
    """Return the placement of the replicas on these nodes.

    Args:
        config: The run's configuration.
        nodes: As `ray.nodes()` returns them; only those count that are alive and match `cluster.label_selector`.
        is_local: Whether they are a Ray that the run has started itself, which no node will join.

    Raises:
        NotEnough: The replicas do not fit, but may when nodes join.
        ConfigError: They do not fit; the message names the key and what the nodes have.
    """
    engine, selector = config.engine, config.cluster.label_selector
    there = matching(nodes, selector)
    gpus = cluster_nodes.gpus(there)
    takes_gpus = engine.kind == "vllm" and any(gpus)
    try:
        if selector and not there:
            raise NotEnough(f"cluster.label_selector={dict(selector)}: no node has these labels")
        if not is_local and not takes_gpus:
            _require_cpu_meant(config)
        num_replicas = _num_replicas(config, gpus)
        if not is_local:
            _require_cpus(matching(nodes, {}), there, takes_gpus=takes_gpus)
    except NotEnough as error:
        match = f" (cluster.label_selector={dict(selector)} leaves {len(there)} nodes)" if selector and there else ""
        wait = "" if is_local or config.cluster.wait_s else "; or let the run wait for nodes: cluster.wait_s=1800"
        raise NotEnough(f"{error}{match}{wait}") from error
    spans_nodes = takes_gpus and engine.gpus_per_replica > max(gpus)
    return Placement(
        num_replicas=num_replicas,
        gpus_per_replica=engine.gpus_per_replica if takes_gpus else 0,
        num_gpus=sum(gpus),
        spans_nodes=spans_nodes,
        grows=takes_gpus and engine.replicas == "auto" and not is_local and not spans_nodes,
        wait_s=0.0 if is_local else config.cluster.wait_s,
        label_selector=selector,
        gpu_types=cluster_nodes.gpu_types(there),
    )


def _require_cpu_meant(config: Config) -> None:
    """Check that, on a joined cluster without GPUs, the engine is meant to run on a CPU: GPUs may be on their way.

    It is if one replica is configured, no wait is, and the installed vLLM can run on a CPU.

    Raises:
        NotEnough: It is not.
    """
    engine = config.engine
    if engine.kind != "vllm":
        return
    if (engine.replicas, engine.gpus_per_replica) != (1, 1) or config.cluster.wait_s:
        each = counted(engine.gpus_per_replica, "GPU")
        raise NotEnough(
            f"engine.replicas={engine.replicas}, {each} each: the cluster has no GPU: start nodes with GPUs, or, for "
            "vLLM's CPU build, set engine.replicas=1, engine.tensor_parallel_size=1 and cluster.wait_s=0"
        )
    if not installation.runs_on_cpu():
        raise NotEnough(
            "engine.kind=vllm: the cluster has no GPU, and the installed vllm needs one: start nodes with GPUs"
        )


def _require_cpus(nodes: Sequence[Node], matching_nodes: Sequence[Node], *, takes_gpus: bool) -> None:
    """Check that there is a CPU for Ray Data's own tasks, and one more for a replica that takes no GPU.

    Raises:
        NotEnough: There is not; the run would wait for ever.
    """
    num_cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes]
    if not sum(num_cpus):
        raise NotEnough("the cluster has no CPU, and Ray Data's tasks take one: start a node with `--num-cpus=2`")
    for_replica = any(node["Resources"].get("CPU", 0) >= 1 for node in matching_nodes)
    if not takes_gpus and (sum(num_cpus) < 2 or not for_replica):
        raise NotEnough(
            f"the nodes have {num_cpus} CPUs, and without GPUs the run takes two, one for its replica and one for Ray "
            "Data's tasks: start a node with `--num-cpus=2`"
        )


def num_groups(gpus: Sequence[int], size: int, *, spans_nodes: bool = False) -> int:
    """Return how many groups of `size` GPUs fit on nodes with these GPUs, each on one node unless it spans nodes."""
    return sum(gpus) // size if spans_nodes else sum(count // size for count in gpus)


def _num_replicas(config: Config, gpus: Sequence[int]) -> int:
    """Return how many replicas run on nodes with these numbers of GPUs.

    Raises:
        NotEnough: They do not fit on so few.
        ConfigError: They do not fit on such nodes.
    """
    engine = config.engine
    requested = None if engine.replicas == "auto" else int(engine.replicas)
    tensor, size = engine.tensor_parallel_size, engine.gpus_per_replica
    at = f"engine.tensor_parallel_size={tensor}"
    if engine.pipeline_parallel_size > 1:
        at += f", engine.pipeline_parallel_size={engine.pipeline_parallel_size}"
    if engine.kind == "endpoint":
        return 1  # one client; the server's hardware is not placed here
    if not any(gpus):
        if size > 1:
            raise NotEnough(f"{at}: the cluster has no GPU; set it to 1")
        if requested not in (None, 1):
            raise NotEnough(f"engine.replicas={requested}: the cluster has no GPU and holds 1 replica; set auto or 1")
        return 1
    if tensor > max(gpus):
        raise NotEnough(f"{at}: no node has {tensor} GPUs for one tensor parallel group (there are {gpus}); lower it")
    spans_nodes = size > max(gpus)
    if spans_nodes and any(count % tensor for count in gpus):
        raise ConfigError(f"{at}: a replica over several nodes needs nodes whose GPUs it divides (there are {gpus})")
    fitting = num_groups(gpus, size, spans_nodes=spans_nodes)
    if not fitting:
        raise NotEnough(f"{at}: one replica takes {size} GPUs, and the nodes have {gpus}; lower it")
    if requested is None and fitting * size != sum(gpus):
        raise ConfigError(f"{at} does not divide the GPUs of every node ({gpus}): choose another, or engine.replicas")
    if requested is not None and requested > fitting:
        raise NotEnough(
            f"engine.replicas={requested}: {fitting} of {size} GPUs each fit on the nodes ({gpus}); lower it"
        )
    return requested or fitting
