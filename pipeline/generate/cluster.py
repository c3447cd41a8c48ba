"""The Ray cluster: join or start one, read its resources, place the replicas, leave it as it was found.

In: the configuration. Out: a `Placement`. Ray's own output goes to its log files, not to the terminal.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from pipeline.config.schema import Config, EngineConfig
from pipeline.errors import CAN_BE_RESUMED, ConfigError, Interrupted
from pipeline.storage.filesystem import without_credentials

logger = logging.getLogger(__name__)

PASSED_ON = re.compile(r"(HF|VLLM|NCCL)_")
"""Matches the start of a variable that an existing cluster's actors receive from the driver."""

NOT_PASSED_ON = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|^VLLM_HOST_IP$")
"""Matches names of secrets, which Ray would show in its dashboard and logs, and of what differs between hosts."""


class Node(TypedDict):
    """A node as `ray.nodes()` returns it; these keys are read."""

    Alive: bool
    NodeID: str
    NodeManagerAddress: str
    NodeManagerHostname: str
    Resources: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many engines run and what each of them takes.

    A replica's GPUs are on one node, where an actor that requests all of them is never split. Only a replica with more
    pipeline stages than fit on a node `spans_nodes`; then each of its stages is on one node. `num_held_gpus` counts the
    GPUs that other jobs hold at this moment.
    """

    num_replicas: int
    gpus_per_replica: int
    num_gpus: int
    num_held_gpus: int = 0
    spans_nodes: bool = False

    def num_fitting(self, nodes: list[Node]) -> int:
        """Return how many replicas fit on those of the nodes that are alive; 1 where replicas take no GPU."""
        gpus = _gpus(nodes)
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

    def group_args(self, groups: list[Any]) -> dict[str, object]:
        """Return Ray's options for the actor of a replica over several nodes; called once for each actor.

        Args:
            groups: The placement group that is made for the actor is appended; the list's owner calls `remove_groups`.
        """
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        # vLLM's own Ray executor requires one GPU a bundle. PACK fills a node before it uses the next.
        groups.append(placement_group([{"GPU": 1.0}] * self.gpus_per_replica, strategy="PACK"))
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


def load() -> None:
    """Import Ray, which takes seconds, while the caller waits for something else. Starts nothing."""
    _set_environment()
    import ray.data  # noqa: F401


@contextmanager
def cluster(config: Config) -> Iterator[Placement]:
    """Join or start Ray, and leave it at the end; a local one is stopped with all its processes.

    Raises:
        ConfigError: The cluster cannot be reached, or lacks the GPUs that the configuration requests.
        Interrupted: SIGTERM arrived before the caller's handler was installed again.
    """
    _set_environment()
    import ray

    joined = ray.is_initialized()
    try:
        try:
            if not joined:
                _start(config)
            placement = place(config, ray.nodes())
            num_free = int(ray.available_resources().get("GPU", 0))
        except SystemExit as error:  # raised by Ray's own handler of SIGTERM, which its start installs
            raise Interrupted(CAN_BE_RESUMED) from error
        yield replace(placement, num_held_gpus=max(0, placement.num_gpus - num_free))
    finally:
        if not joined:  # also when it has started only in part
            ray.shutdown()


def _set_environment() -> None:
    """Set the variables that Ray reads when it is imported or started."""
    # Ray's API starts a local Ray by itself where none runs. A thread of Ray Data may make one call after the run has
    # ended, and that Ray would stay: only `cluster` starts one. Read once, at import (_private/auto_init_hook.py).
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # By default Ray's workers have niceness 15, and the engine in them too, though everything waits for the engine.
    os.environ.setdefault("RAY_worker_niceness", "0")


def _start(config: Config) -> None:
    import ray

    is_local = config.cluster.address == "local"  # then Ray itself has this process's environment
    # The actors of a Ray job have the job's environment already, and Ray refuses a variable that is given twice.
    passes_on = not is_local and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ
    try:
        ray.init(
            address=config.cluster.address,
            runtime_env={"env_vars": passed_environment(os.environ)} if passes_on else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if is_local else None,
        )
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"cluster.address={config.cluster.address!r}: no Ray cluster answers ({error}): "
            "start one with `ray start --head`, or set cluster.address=local"
        ) from error
    except RuntimeError as error:
        versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))  # Ray's own check, _private/utils.py
        if len(versions) != 2:
            raise
        (ray_there, python_there), (ray_here, python_here) = versions
        raise ConfigError(
            f"cluster.address={config.cluster.address!r}: the cluster runs Ray {ray_there} and Python {python_there}, "
            f"this process Ray {ray_here} and Python {python_here}: install the same on every host"
        ) from error


def passed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an existing cluster's actors receive from the driver: no secret, nothing of one host.

    Without them actors have the environment that `ray start` had on their host.
    """
    return {
        name: value
        for name, value in environment.items()
        if PASSED_ON.match(name) and not NOT_PASSED_ON.search(name) and without_credentials(value) == value
    }


def place(config: Config, nodes: list[Node]) -> Placement:
    """Return the placement of the replicas on these nodes.

    Args:
        config: The run's configuration.
        nodes: As `ray.nodes()` returns them; only those that are alive count.

    Raises:
        ConfigError: The replicas do not fit; the message names the key and what the nodes have.
    """
    gpus = _gpus(nodes)
    size = config.engine.gpus_per_replica
    return Placement(
        num_replicas=_num_replicas(config.engine, gpus),
        gpus_per_replica=size if config.engine.kind == "vllm" and any(gpus) else 0,
        num_gpus=sum(gpus),
        spans_nodes=config.engine.kind == "vllm" and any(gpus) and size > max(gpus),
    )


def _gpus(nodes: list[Node]) -> list[int]:
    """Return the number of GPUs of each node that is alive."""
    return [int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"]]


def num_groups(gpus: Sequence[int], size: int, *, spans_nodes: bool = False) -> int:
    """Return how many groups of `size` GPUs fit on nodes with these GPUs, each on one node unless it spans nodes."""
    return sum(gpus) // size if spans_nodes else sum(count // size for count in gpus)


def _num_replicas(engine: EngineConfig, gpus: list[int]) -> int:
    """Return how many replicas run on nodes with these numbers of GPUs.

    Raises:
        ConfigError: They do not fit.
    """
    requested = None if engine.replicas == "auto" else int(engine.replicas)
    tensor, size = engine.tensor_parallel_size, engine.gpus_per_replica
    at = f"engine.tensor_parallel_size={tensor}"
    if engine.pipeline_parallel_size > 1:
        at += f", engine.pipeline_parallel_size={engine.pipeline_parallel_size}"
    if engine.kind == "endpoint":
        return 1  # one client; the server's hardware is not placed here
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
