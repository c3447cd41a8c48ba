"""How vLLM's processes are ended, and how its death is heard. All else of it is tried in tests/engine."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.generate.engines import vllm_engine
from pipeline.generate.engines.base import EngineCrashed, Output, Request
from pipeline.generate.engines.vllm_engine import VllmEngine


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
    return VllmEngine(of, SimpleNamespace(drops_special_tokens=False), {}, SimpleNamespace, None)


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


class Silent:
    """vLLM as it is when its scheduler dies at the first request: marked as dead, and nobody told."""

    def __init__(self, died_after_s: float) -> None:
        self._died = time.monotonic() + died_after_s

    @property
    def errored(self) -> bool:
        return time.monotonic() > self._died

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:  # noqa: ARG002
        await asyncio.Event().wait()
        yield None


class Stubborn(Silent):
    """The same, when its client waits for its own clean-up once a request is interrupted."""

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:  # noqa: ARG002
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()
        yield None


class Closing(Silent):
    """The same, when it has already closed its sockets: what waits for them is cancelled."""

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:  # noqa: ARG002
        raise asyncio.CancelledError
        yield None


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and do without vLLM's modules."""
    exceptions = ModuleType("vllm.v1.engine.exceptions")
    exceptions.EngineDeadError = type("EngineDeadError", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", exceptions)
    monkeypatch.setattr(vllm_engine, "WATCH_S", 0.05)


def request(name: str) -> Request:
    return Request(request_id=name, messages="[]", prompt_token_ids=[1], seed=1)


async def outcomes(engine: VllmEngine, num_requests: int) -> list[BaseException | Output]:
    asked = (engine.generate(request(str(number))) for number in range(num_requests))
    return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("of", [lambda: Silent(0.0), lambda: Silent(0.2), lambda: Stubborn(0.0), lambda: Closing(0.0)])
def test_a_death_that_vllm_does_not_tell_is_told_to_every_request(of: Callable[[], Silent]) -> None:
    found = asyncio.run(outcomes(engine(of()), 3))
    assert [type(each) for each in found] == [EngineCrashed] * 3


@pytest.mark.usefixtures("watched")
def test_requests_that_come_after_the_watch_has_rested_are_watched_too() -> None:
    async def twice() -> list[BaseException | Output]:
        silent = engine(Silent(0.0))
        await outcomes(silent, 1)
        await asyncio.sleep(0.2)
        return await outcomes(silent, 2)

    assert [type(each) for each in asyncio.run(twice())] == [EngineCrashed] * 2


@pytest.mark.usefixtures("watched")
def test_a_cancelled_request_of_a_living_engine_is_cancelled_and_not_a_death() -> None:
    async def cancelled() -> BaseException | Output:
        task = asyncio.ensure_future(engine(Silent(1e9)).generate(request("one")))
        await asyncio.sleep(0.2)  # several looks
        assert not task.done()
        task.cancel()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        return found

    assert isinstance(asyncio.run(cancelled()), asyncio.CancelledError)
