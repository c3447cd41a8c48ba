"""How vLLM's processes are ended, with an engine that only ends; all else of it is tried in tests/engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.generate import vllm_engine
from pipeline.generate.vllm_engine import VllmEngine


class Ending:
    """Ends when it is let."""

    output_handler = None

    def __init__(self) -> None:
        self.let = threading.Event()
        self.has_ended = threading.Event()

    def shutdown(self, timeout: float) -> None:  # noqa: ARG002
        self.let.wait()
        self.has_ended.set()


@pytest.fixture
def ending() -> Iterator[Ending]:
    made = Ending()
    yield made
    made.let.set()


def engine(of: Any) -> VllmEngine:
    return VllmEngine(of, SimpleNamespace(drops_special_tokens=False), {}, None, None)


def test_the_end_is_waited_for(ending: Ending) -> None:
    threading.Timer(0.3, ending.let.set).start()
    engine(ending).close()
    assert ending.has_ended.is_set()


def test_an_end_that_never_comes_is_left_alone_and_told_with_its_stacks(
    ending: Ending, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vllm_engine, "LONGEST_CLOSE_S", 0.2)
    engine(ending).close()
    assert not ending.has_ended.is_set()
    assert "vLLM has not ended after 0 s" in caplog.text
    assert "in shutdown" in capfd.readouterr().err
