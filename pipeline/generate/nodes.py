"""What the nodes of a cluster have: labels, GPUs and their types. Pure functions over what `ray.nodes()` returns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from pipeline.terminal.text import counted

ACCELERATOR_TYPE = "ray.io/accelerator-type"
"""The label that Ray itself gives to nodes with GPUs, such as `A100`."""


class Node(TypedDict):
    """A node as `ray.nodes()` returns it; these keys are read."""

    Alive: bool
    NodeID: str
    NodeManagerAddress: str
    NodeManagerHostname: str
    Resources: dict[str, float]
    Labels: NotRequired[dict[str, str]]


def matching(nodes: Sequence[Node], selector: Mapping[str, str]) -> list[Node]:
    """Return the nodes that are alive and whose labels satisfy the selector, as Ray's `label_selector` defines it."""
    return [node for node in nodes if node["Alive"] and _matches(node.get("Labels", {}), selector)]


def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether each label is, or with `!` is not, one of the values: `A100`, `!A100`, `in(A100,H100)`."""
    for name, condition in selector.items():
        wanted = condition.removeprefix("!")
        values = re.findall(r"[^(),]+", wanted.removeprefix("in") if wanted.endswith(")") else wanted)
        if (labels.get(name) in values) == condition.startswith("!"):
            return False
    return True


def gpus(nodes: Sequence[Node]) -> list[int]:
    """Return the number of GPUs of each node."""
    return [int(node["Resources"].get("GPU", 0)) for node in nodes]


def gpu_types(nodes: Sequence[Node]) -> dict[str, int]:
    """Return the number of GPUs by type; those of a node whose type Ray does not know are left out."""
    found: Counter[str] = Counter()
    for node, count in zip(nodes, gpus(nodes), strict=True):
        kind = node.get("Labels", {}).get(ACCELERATOR_TYPE)
        if kind and count:
            found[kind] += count
    return dict(sorted(found.items()))


def describe(nodes: Sequence[Node]) -> str:
    """Return the nodes in words, such as `3 nodes, 8 GPUs (A100)`."""
    num_gpus, types = sum(gpus(nodes)), gpu_types(nodes)
    kinds = ", ".join(types if len(types) == 1 else (f"{count} x {kind}" for kind, count in types.items()))
    return f"{counted(len(nodes), 'node')}, {counted(num_gpus, 'GPU')}{f' ({kinds})' if kinds else ''}"
