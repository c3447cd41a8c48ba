"""A failure is the row's when other rows are answered, and ends the run when none is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipeline.errors import RunError
from pipeline.generate import failures
from pipeline.generate.engines.base import RowError, ServerUnavailable
from pipeline.generate.failures import FailureJudge


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "POLL_S", 0.001)
    monkeypatch.setattr(failures, "IDLE_S", 0.05)


async def up() -> bool:
    return True


async def down() -> bool:
    return False


def judged(
    *errors: RowError, limit: int | None = 3, is_serving: Callable[[], Awaitable[bool]] = up, ending: bool = False
) -> list[bool | BaseException]:
    """Return what is decided for requests that are in flight together and fail in this order."""

    async def run() -> list[bool | BaseException]:
        judge = FailureJudge(limit, lambda: ending)
        tokens = [judge.begin() for _ in errors]
        waiting = [judge.is_of_row(token, error, is_serving) for token, error in zip(tokens, errors, strict=True)]
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(run())


def test_a_failure_is_the_rows_when_another_was_answered_since_it_began() -> None:
    async def run() -> bool:
        judge = FailureJudge(1, lambda: False)
        bad, good = judge.begin(), judge.begin()
        judge.answered(good)
        return await judge.is_of_row(bad, ServerUnavailable("HTTP 504"), down)

    assert asyncio.run(run())


def test_a_failure_waits_for_requests_that_began_before_it() -> None:
    async def run() -> bool:
        judge = FailureJudge(1, lambda: False)
        slow, bad = judge.begin(), judge.begin()
        waiting = asyncio.create_task(judge.is_of_row(bad, RowError("no"), up))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        judge.answered(slow)
        return await waiting

    assert asyncio.run(run())


def test_failures_alike_without_an_answer_end_the_run() -> None:
    found = judged(*[RowError(f"HTTP 400: row {n} has no 'x{n}'") for n in range(3)])
    assert all(isinstance(each, RunError) for each in found)
    assert str(found[0]).startswith("3 requests failed alike and none was answered: HTTP 400: row")
    assert str(found[0]).endswith("Fix the cause and run the same run_id again")


def test_fewer_failures_than_the_limit_are_the_rows() -> None:
    assert judged(RowError("no"), RowError("no")) == [True, True]
    assert judged(*[RowError("no")] * 4, limit=None) == [True] * 4


def test_failures_for_different_reasons_are_the_rows() -> None:
    assert judged(*[RowError(reason) for reason in ("no", "never", "nothing")]) == [True] * 3


def test_a_server_that_is_down_ends_the_run_and_one_that_is_up_fails_the_row() -> None:
    gone = ServerUnavailable("HTTP 504")
    assert all(isinstance(each, RunError) for each in judged(gone, gone, is_serving=down))
    assert judged(gone, gone, is_serving=up) == [True, True]
    assert all(isinstance(each, RunError) for each in judged(gone, gone, gone, is_serving=up, limit=None))


def test_nothing_is_decided_when_the_replica_ends() -> None:
    assert judged(RowError("no"), ending=True) == [False]
