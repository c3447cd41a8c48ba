"""The nodes of a cluster are selected by their labels as Ray does it, and described by their GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.generate.nodes import ACCELERATOR_TYPE, describe, gpu_types, matching


def node(gpus: float = 0, kind: str | None = None, *, is_alive: bool = True, **labels: str) -> Any:
    found = {**labels, **({ACCELERATOR_TYPE: kind} if kind else {})}
    return {"Alive": is_alive, "NodeID": "n", "Resources": {"CPU": 8.0, "GPU": gpus}, "Labels": found}


@pytest.mark.parametrize(
    ("condition", "kinds"),
    [
        ("A100", {"A100"}),
        ("!A100", {"H100", "in", None}),
        ("in(A100,H100)", {"A100", "H100"}),
        ("in(A100,in)", {"A100", "in"}),
        ("!in(A100,H100)", {"in", None}),
        ("in", {"in"}),
    ],
)
def test_a_label_is_compared_as_ray_compares_it(condition: str, kinds: set[str | None]) -> None:
    nodes = [node(1, kind) for kind in ("A100", "H100", "in", None)]
    found = {each.get("Labels", {}).get(ACCELERATOR_TYPE) for each in matching(nodes, {ACCELERATOR_TYPE: condition})}
    assert found == kinds


def test_every_label_of_a_selector_must_match() -> None:
    nodes = [node(1, "A100", zone="a"), node(1, "A100", zone="b")]
    assert matching(nodes, {ACCELERATOR_TYPE: "A100", "zone": "b"}) == nodes[1:]
    assert matching(nodes, {}) == nodes


def test_a_lost_node_matches_nothing() -> None:
    assert matching([node(1, "A100", is_alive=False)], {}) == []


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node()], "1 node, 0 GPUs"),
        ([node(), node(1)], "2 nodes, 1 GPU"),
        ([node(), node(4, "A100"), node(4, "A100")], "3 nodes, 8 GPUs (A100)"),
        ([node(4, "H100"), node(8, "A100")], "2 nodes, 12 GPUs (8 x A100, 4 x H100)"),
    ],
)
def test_nodes_are_described_by_their_gpus(nodes: list[Any], words: str) -> None:
    assert describe(nodes) == words


def test_a_node_without_gpus_adds_no_type() -> None:
    assert gpu_types([node(0, "T4"), node(4, "A100"), node(2)]) == {"A100": 4}
