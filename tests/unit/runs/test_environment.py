"""What the engines of a run resolved is compared: rows of one run should be answered alike."""

from __future__ import annotations

import pytest

from pipeline.runs.environment import mixed
from pipeline.runs.manifest import EngineInfo


@pytest.mark.parametrize(
    ("one", "other", "lines"),
    [
        (EngineInfo(vllm="1", dtype="x"), EngineInfo(vllm="1", dtype="x"), []),
        (EngineInfo(vllm="1"), EngineInfo(gave_up="no GPU"), []),
        (
            EngineInfo(vllm="1"),
            EngineInfo(vllm="2"),
            ["rows of this run were answered by engines whose vllm differs: 1, 2"],
        ),
        (
            EngineInfo(served_model="m", server="vllm 1", max_model_len=8),
            EngineInfo(served_model="m", server="vllm 2", max_model_len=9),
            [
                "rows of this run were answered by engines whose server differs: vllm 1, vllm 2",
                "rows of this run were answered by engines whose max_model_len differs: 8, 9",
            ],
        ),
    ],
)
def test_engines_that_differ_are_a_warning_each(one: EngineInfo, other: EngineInfo, lines: list[str]) -> None:
    assert mixed({"a": one, "b": other}) == lines
