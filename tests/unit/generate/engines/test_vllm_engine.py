"""How vLLM's processes are shut down, and how its crash is detected. tests/engine covers everything else."""

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


class Stopping:
    """vLLM whose shutdown returns once `release` is set."""

    output_handler = None

    def __init__(self) -> None:
        self.release = threading.Event()
        self.has_shut_down = threading.Event()

    def shutdown(self, timeout: float) -> None:  # noqa: ARG002
        self.release.wait()
        self.has_shut_down.set()


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    made = Stopping()
    yield made
    made.release.set()


def engine(of: Any) -> VllmEngine:
    return VllmEngine(of, SimpleNamespace(drops_special_tokens=False), {}, SimpleNamespace, None)


def test_close_waits_for_the_shutdown(stopping: Stopping) -> None:
    threading.Timer(0.3, stopping.release.set).start()
    engine(stopping).close()
    assert stopping.has_shut_down.is_set()


def test_a_shutdown_that_hangs_is_abandoned_and_its_stacks_are_logged(
    stopping: Stopping,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(vllm_engine, "LONGEST_CLOSE_S", 0.2)
    engine(stopping).close()
    assert not stopping.has_shut_down.is_set()
    assert "vLLM has not ended after 0 s" in caplog.text
    assert "in shutdown" in capfd.readouterr().err


class Silent:
    """vLLM whose scheduler crashes at the first request: marked as errored, but no request gets an error."""

    def __init__(self, crashes_after_s: float) -> None:
        self._crashes_at = time.monotonic() + crashes_after_s

    @property
    def errored(self) -> bool:
        return time.monotonic() > self._crashes_at

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:  # noqa: ARG002
        await asyncio.Event().wait()
        yield None


class Stubborn(Silent):
    """The same, with a client that waits for its own clean-up when a request is cancelled."""

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:  # noqa: ARG002
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()
        yield None


class Closing(Silent):
    """The same, after it has closed its sockets: requests that wait for them are cancelled."""

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:  # noqa: ARG002
        raise asyncio.CancelledError
        yield None


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the engine often, and replace vLLM's modules."""
    exceptions = ModuleType("vllm.v1.engine.exceptions")
    exceptions.EngineDeadError = type("EngineDeadError", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", exceptions)
    monkeypatch.setattr(vllm_engine, "WATCH_S", 0.05)


def request(name: str) -> Request:
    return Request(request_id=name, messages="[]", prompt_token_ids=[1], seed=1)


async def outcomes(engine: VllmEngine, num_requests: int) -> list[BaseException | Output]:
    requests = (engine.generate(request(str(number))) for number in range(num_requests))
    return await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 10)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("of", [lambda: Silent(0.0), lambda: Silent(0.2), lambda: Stubborn(0.0), lambda: Closing(0.0)])
def test_a_crash_that_vllm_does_not_report_fails_every_request(of: Callable[[], Silent]) -> None:
    found = asyncio.run(outcomes(engine(of()), 3))
    assert [type(each) for each in found] == [EngineCrashed] * 3


@pytest.mark.usefixtures("watched")
def test_requests_that_arrive_after_the_watch_has_stopped_are_watched_too() -> None:
    async def twice() -> list[BaseException | Output]:
        silent = engine(Silent(0.0))
        await outcomes(silent, 1)
        await asyncio.sleep(0.2)
        return await outcomes(silent, 2)

    assert [type(each) for each in asyncio.run(twice())] == [EngineCrashed] * 2


@pytest.mark.usefixtures("watched")
def test_a_cancelled_request_of_a_healthy_engine_is_not_a_crash() -> None:
    async def cancelled() -> BaseException | Output:
        task = asyncio.ensure_future(engine(Silent(1e9)).generate(request("one")))
        await asyncio.sleep(0.2)  # several checks
        assert not task.done()
        task.cancel()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        return found

    assert isinstance(asyncio.run(cancelled()), asyncio.CancelledError)
