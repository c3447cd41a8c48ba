"""The Ray cluster: join or start one, see what it has, place the replicas, leave it as it was found.

In: the configuration. Out: a `Placement`. Ray's own words go to its log files, not to the terminal.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.engines import EngineConfig
from pipeline.config.schema import Config
from pipeline.errors import CAN_BE_RESUMED, ConfigError, Interrupted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many engines run and what each of them takes.

    A replica's GPUs are on one node, where an actor that asks for them all is never split. Only a replica with more
    pipeline stages than a node holds `spans_nodes`; then each of its stages is on one node.
    `num_held_gpus` are other jobs' at this moment.
    """

    num_replicas: int
    gpus_per_replica: int
    num_gpus: int
    gpu_type: str | None
    num_held_gpus: int = 0
    spans_nodes: bool = False

    def num_fitting(self, nodes: list[dict[str, Any]]) -> int:
        """Return how many replicas the living of these nodes have room for; 1 where replicas take no GPU."""
        gpus = _gpus(nodes)
        return num_groups(gpus, self.gpus_per_replica, spans_nodes=self.spans_nodes) if self.gpus_per_replica else 1

    @property
    def waits_for(self) -> str | None:
        """What replicas wait for, in a line, or None: GPUs that other jobs hold."""
        short = self.num_replicas * self.gpus_per_replica - (self.num_gpus - self.num_held_gpus)
        if short <= 0 or not self.num_held_gpus:
            return None
        return (
            f"engine.replicas: other jobs hold {self.num_held_gpus} of the {self.num_gpus} GPUs; of "
            f"{self.num_replicas} replicas of {self.gpus_per_replica} some start only when {short} are given back"
        )

    def group_args(self, groups: list[Any]) -> dict[str, Any]:
        """Return what Ray is told when it makes the actor of a replica over several nodes; called once for each.

        Args:
            groups: Gets the placement group that is made for it; whoever owns the list calls `remove_groups`.
        """
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # A GPU a bundle is what vLLM's own Ray executor asks for. PACK fills a node before it begins the next.
        groups.append(placement_group([{"GPU": 1.0}] * self.gpus_per_replica, strategy="PACK"))
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                groups[-1], placement_group_capture_child_tasks=True
            )
        }


def remove_groups(groups: list[Any]) -> None:
    """Give back what the placement groups hold: unlike an actor's, their GPUs stay taken when their actor has ended."""
    from ray.util.placement_group import remove_placement_group

    for group in groups:
        try:
            remove_placement_group(group)
        except Exception:  # Ray may be gone, and why the pass has ended is what the caller is about to say
            logger.exception("A placement group cannot be given back")


def require_whole_stages(tensor_parallel_size: int) -> None:
    """Refuse a placement group that other jobs' GPUs have torn; called in an actor, no model is loaded for it.

    vLLM takes a group's GPUs node by node (vLLM 0.32, v1/executor/ray_utils.py, get_bundles_sorted_by_node), so that
    each tensor parallel group is on one node when every node has a multiple of its size. vLLM itself only warns.

    Raises:
        ConfigError: Some node has another number of the group's GPUs.
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


def load() -> None:
    """Import Ray, which takes seconds, while something else is waited for. Starts nothing."""
    _settle()
    import ray.data  # noqa: F401


@contextmanager
def cluster(config: Config) -> Iterator[Placement]:
    """Join or start Ray, and leave it at the end; a local one is stopped with all its processes.

    Raises:
        ConfigError: The cluster cannot be reached, or has not the GPUs that the configuration asks for.
        Interrupted: SIGTERM came before the caller's handler was back.
    """
    _settle()
    import ray

    joined = ray.is_initialized()
    try:
        try:
            if not joined:
                _start(config)
            placement = place(config, ray.nodes())
            num_free = int(ray.available_resources().get("GPU", 0))
        except SystemExit as ended:  # Ray's own handler of SIGTERM, which its start puts in place
            raise Interrupted(CAN_BE_RESUMED) from ended
        yield replace(placement, num_held_gpus=max(0, placement.num_gpus - num_free))
    finally:
        if not joined:  # also after half a start
            ray.shutdown()


def _settle() -> None:
    """Settle what Ray asks the environment for before it is imported or started."""
    # Ray's API starts a local Ray by itself where none runs. A thread of Ray Data may outlive the run by a call, and
    # that Ray would stay: only `cluster` starts one. Read once, when Ray is imported (_private/auto_init_hook.py).
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Ray's workers give way to all else on a machine (15), and with them the engine: everything waits for the engine.
    os.environ.setdefault("RAY_worker_niceness", "0")


def _start(config: Config) -> None:
    import ray

    try:
        ray.init(
            address=config.cluster.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if config.cluster.address == "local" else None,
        )
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"cluster.address={config.cluster.address!r}: no Ray cluster answers ({error}): "
            "start one with `ray start --head`, or set cluster.address=local"
        ) from error


def place(config: Config, nodes: list[dict[str, Any]]) -> Placement:
    """Return where the replicas go on these nodes.

    Args:
        config: What is asked for.
        nodes: As `ray.nodes()` returns them; only the living ones count.

    Raises:
        ConfigError: It cannot fit; the message names the key and what there is.
    """
    gpus = _gpus(nodes)
    prefix = "accelerator_type:"
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    kinds = sorted({name.removeprefix(prefix) for each in resources for name in each if name.startswith(prefix)})
    size = config.engine.gpus_per_replica
    return Placement(
        num_replicas=_num_replicas(config.engine, gpus),
        gpus_per_replica=size if config.engine.kind == "vllm" and any(gpus) else 0,
        num_gpus=sum(gpus),
        gpu_type=", ".join(kinds) or None,
        spans_nodes=config.engine.kind == "vllm" and any(gpus) and size > max(gpus),
    )


def _gpus(nodes: list[dict[str, Any]]) -> list[int]:
    """Return the number of GPUs of each living node."""
    return [int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"]]


def num_groups(gpus: Sequence[int], size: int, *, spans_nodes: bool = False) -> int:
    """Return how many groups of `size` GPUs nodes with these numbers of GPUs hold, each on one node unless it spans."""
    return sum(gpus) // size if spans_nodes else sum(count // size for count in gpus)


def _num_replicas(engine: EngineConfig, gpus: list[int]) -> int:
    """Return how many replicas run on nodes with these numbers of GPUs, or say why they cannot."""
    requested = None if engine.replicas == "auto" else int(engine.replicas)
    tensor, size = engine.tensor_parallel_size, engine.gpus_per_replica
    at = f"engine.tensor_parallel_size={tensor}"
    if engine.pipeline_parallel_size > 1:
        at += f", engine.pipeline_parallel_size={engine.pipeline_parallel_size}"
    if engine.kind == "endpoint":
        return 1  # one client; what the server runs on is not ours to place
    if not any(gpus):
        if size > 1:
            raise ConfigError(f"{at}: the cluster has no GPU; set it to 1")
        if requested not in (None, 1):
            raise ConfigError(f"engine.replicas={requested}: the cluster has no GPU and holds 1 replica; set auto or 1")
        return 1
    if tensor > max(gpus):
        raise ConfigError(f"{at}: no node has {tensor} GPUs for one tensor parallel group (there are {gpus}); lower it")
    spans_nodes = size > max(gpus)
    if spans_nodes and any(count % tensor for count in gpus):
        raise ConfigError(f"{at}: a replica over several nodes needs nodes whose GPUs it divides (there are {gpus})")
    fitting = num_groups(gpus, size, spans_nodes=spans_nodes)
    if not fitting:
        raise ConfigError(f"{at}: one replica takes {size} GPUs, and the nodes have {gpus}; lower it")
    if requested is None and fitting * size != sum(gpus):
        raise ConfigError(f"{at} does not divide the GPUs of every node ({gpus}): choose another, or engine.replicas")
    if requested is not None and requested > fitting:
        raise ConfigError(
            f"engine.replicas={requested}: {fitting} of {size} GPUs each fit on the nodes ({gpus}); lower it"
        )
    return requested or fitting
