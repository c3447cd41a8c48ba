"""A run that is resumed asks the model that has answered its rows, and tells what else has changed of the server."""

from __future__ import annotations

import pytest

from pipeline.errors import RunError
from pipeline.generate.resumed_server import server_changes
from pipeline.runs.manifest import EngineInfo

THEN = EngineInfo(served_model="m", base_url="http://a/v1", server="vllm 1", max_model_len=8192, session="1")
NOW = EngineInfo(served_model="m", base_url="http://b/v1", server="vllm 2", max_model_len=4096)


def test_another_model_is_refused_with_both_names() -> None:
    with pytest.raises(RunError, match="'m' answered rows of this run, and the server now serves 'n'"):
        list(server_changes([EngineInfo(), THEN], EngineInfo(served_model="n"), "2"))


def test_another_address_version_or_context_is_told_once() -> None:
    found = [(each.name, each.before, each.now) for each in server_changes([THEN, THEN], NOW, "2")]
    assert found == [
        ("base_url", "http://a/v1", "http://b/v1"),
        ("server", "vllm 1", "vllm 2"),
        ("max_model_len", "8192", "4096"),
    ]


@pytest.mark.parametrize("earlier", [[], [EngineInfo()], [EngineInfo(gave_up="no")]])
def test_without_an_earlier_answer_nothing_is_compared(earlier: list[EngineInfo]) -> None:
    assert list(server_changes(earlier, NOW, "2")) == []


def test_replicas_of_one_session_are_not_compared() -> None:
    assert list(server_changes([THEN], NOW, "1")) == []
