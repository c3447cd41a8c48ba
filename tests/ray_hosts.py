"""Clusters of several hosts on this machine: Ray nodes with environments, host names and file systems of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from builders import wait_until

_NAMESPACES = ["unshare", "--mount", "--uts"]

HAS_NAMESPACES = subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False).returncode == 0
"""Whether a host can have a name and mounts of its own: only root can make them."""


@contextmanager
def head(num_gpus: int = 1) -> Iterator[str]:
    """Start a node with simulated GPUs; yield its address."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 2, "num_gpus": num_gpus, "include_dashboard": False}
    some = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield some.address
    finally:
        ray.shutdown()
        some.shutdown()


@contextmanager
def other_host(
    address: str, *mounts: str, name: str = "other", environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Start a node with a simulated GPU; this process is connected to the cluster.

    Args:
        address: That of the head.
        mounts: Commands of the shell that change what this host alone sees; they need `HAS_NAMESPACES`.
        name: The host's name, where it can have one.
        environment: Its whole environment, where it is not that of this process.
    """
    ray_start = f"{sys.executable} -m ray.scripts.scripts start --address={address} --num-cpus=2 --num-gpus=1 --block"
    line = ["sh", "-c", f"exec {ray_start}"]
    if HAS_NAMESPACES:
        line = [*_NAMESPACES, "sh", "-c", " && ".join([f"hostname {name}", *mounts, f"exec {ray_start}"])]
    num_nodes = _num_alive()
    process = subprocess.Popen(line, start_new_session=True, env=environment, stdout=subprocess.DEVNULL)
    try:
        # One after the other: nodes that start at the same time on one machine may choose the same ports.
        wait_until(lambda: process.poll() is not None or _num_alive() > num_nodes)
        assert process.poll() is None, "the node has not started"
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _num_alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())
