"""Waits for the nodes that the replicas need, and meanwhile requests them from the cluster's autoscaler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.generate import nodes as cluster_nodes
from pipeline.generate.nodes import Node
from pipeline.terminal.text import counted

POLL_S = 2.0
LINE_EVERY_S = 30.0
"""Seconds between two lines for the terminal."""

Bundle = dict[str, float]
T = TypeVar("T")

logger = logging.getLogger(__name__)


class NotEnough(ConfigError):
    """The cluster's nodes are too few or too small; nodes that join may change that."""


def wait_for(
    config: Config,
    find: Callable[[Sequence[Node]], T],
    nodes: Callable[[], Sequence[Node]],
    report: Callable[[str], None],
) -> T:
    """Return what `find` returns for the nodes, as soon as they are enough.

    Args:
        config: The run's configuration; `cluster.wait_s` is the longest wait.
        find: Raises `NotEnough` for nodes that are not enough.
        nodes: Returns the nodes of the cluster at this moment.
        report: Receives a line every `LINE_EVERY_S`.

    Raises:
        NotEnough: They are still not enough after `cluster.wait_s`.
    """
    wait_s, began, next_line = config.cluster.wait_s, time.monotonic(), 0.0
    try:
        return find(nodes())
    except NotEnough:
        if not wait_s:
            raise
    with _requested(config) as request:
        while True:
            there, waited_s = nodes(), time.monotonic() - began
            has = cluster_nodes.describe(cluster_nodes.matching(there, config.cluster.label_selector))
            try:
                found = find(there)
                report(f"after {waited_s:.0f} s the cluster has {has}")
                return found
            except NotEnough as error:
                if waited_s >= wait_s:
                    raise NotEnough(
                        f"{error}. The run has waited {wait_s:.0f} s (cluster.wait_s): the same run_id resumes"
                    ) from error
            request()
            if waited_s >= next_line:
                next_line = waited_s + LINE_EVERY_S
                report(f"{_waits_for(config)}: {has}, {waited_s:.0f} of {wait_s:.0f} s")
            time.sleep(min(POLL_S, wait_s - waited_s))


def bundles(config: Config) -> list[Bundle]:
    """Return the resources of the replicas, each of which fits on a node; with `auto` those of one replica."""
    engine = config.engine
    num_replicas = 1 if engine.replicas == "auto" or engine.kind != "vllm" else int(engine.replicas)
    if engine.kind != "vllm":
        return [{"CPU": 1.0}] * 2  # the replica's, and Ray Data's tasks'
    return [{"GPU": float(engine.tensor_parallel_size)}] * (engine.pipeline_parallel_size * num_replicas)


def _waits_for(config: Config) -> str:
    wanted = bundles(config)
    (resource,) = wanted[0]
    return f"waiting for {counted(int(sum(bundle[resource] for bundle in wanted)), resource)}"


@contextmanager
def _requested(config: Config) -> Iterator[Callable[[], None]]:
    """Yield a function that requests the replicas' resources; withdraw the request at the end, whatever the end is.

    The cluster has one request for all jobs, the last one. Ray Data's coordinator, which outlives the job that has
    started it, replaces it every 20 s, so it is made again and again.
    """
    from ray.autoscaler.sdk import request_resources

    wanted, selector = bundles(config), dict(config.cluster.label_selector)
    selectors = [selector] * len(wanted) if selector else None
    try:
        yield lambda: request_resources(bundles=wanted, bundle_label_selectors=selectors)
    finally:
        try:
            request_resources(bundles=[])
        except Exception:  # Ray may be gone, and the caller is about to report why
            logger.exception("The request for nodes cannot be withdrawn")
