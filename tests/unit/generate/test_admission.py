"""Admission: how many rows the engine runs at once, and which rows may run together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.generate import admission
from pipeline.generate.admission import AdmissionQueue
from pipeline.generate.attempt_log import Suspicion

WIDTHS = {Suspicion.NONE: 64, Suspicion.GROUPED: 8, Suspicion.ISOLATED: 1}


class Watch:
    """Runs rows through the queue and records what it sees."""

    def __init__(self, slots: int = 64) -> None:
        self.queue = AdmissionQueue(slots)
        self.order: list[object] = []
        self.most: Counter[Suspicion] = Counter()
        self.mixed = False
        self._running: Counter[Suspicion] = Counter()

    async def row(
        self, level: Suspicion, name: object = None, num_turns: int = 1, place: int = 0, part: int = 0
    ) -> None:
        async with self.queue.slot(level, place, part):
            self.order.append(name)
            self._running[level] += 1
            self.most[level] = max(self.most[level], self._running[level])
            self.mixed |= len(+self._running) > 1
            try:
                for _ in range(num_turns):
                    await asyncio.sleep(0)
            finally:
                self._running[level] -= 1


def run(scene: Callable[[Watch], Awaitable[None]], slots: int = 64) -> Watch:
    async def play() -> Watch:
        watch = Watch(slots)
        async with asyncio.timeout(10):
            await scene(watch)
        return watch

    return asyncio.run(play())


@pytest.mark.parametrize(("level", "width"), WIDTHS.items())
def test_each_isolation_level_runs_as_many_rows_as_its_width(level: Suspicion, width: int) -> None:
    async def scene(watch: Watch) -> None:
        await asyncio.gather(*(watch.row(level) for _ in range(200)))

    watch = run(scene)
    assert watch.most[level] == width
    assert len(watch.order) == 200


def test_the_width_of_a_level_is_limited_by_the_slots() -> None:
    async def scene(watch: Watch) -> None:
        await asyncio.gather(*(watch.row(level) for level in (Suspicion.GROUPED,) * 20 + (Suspicion.NONE,) * 20))

    watch = run(scene, slots=3)
    assert (watch.most[Suspicion.GROUPED], watch.most[Suspicion.NONE]) == (3, 3)


def test_within_a_level_rows_start_in_the_order_of_arrival() -> None:
    async def scene(watch: Watch) -> None:
        await asyncio.gather(*(watch.row(Suspicion.NONE, number) for number in range(100)))

    assert run(scene, slots=4).order == list(range(100))


def test_the_most_suspicious_rows_start_first_once_the_running_rows_end() -> None:
    async def scene(watch: Watch) -> None:
        first = asyncio.ensure_future(watch.row(Suspicion.NONE, "running", num_turns=5))
        await asyncio.sleep(0)
        rows = [
            (Suspicion.GROUPED, "grouped"),
            (Suspicion.ISOLATED, "isolated"),
            (Suspicion.NONE, "none"),
            (Suspicion.ISOLATED, "isolated too"),
        ]
        await asyncio.gather(first, *(watch.row(level, name) for level, name in rows))

    watch = run(scene)
    assert watch.order == ["running", "isolated", "isolated too", "grouped", "none"]
    assert not watch.mixed


def test_waiting_rows_start_in_the_order_of_the_work_list() -> None:
    """Blocks do not matter: two of them may arrive in swapped order."""

    async def scene(watch: Watch) -> None:
        places = [4, 5, 2, 3, 0, 1]
        await asyncio.gather(*(watch.row(Suspicion.NONE, place, place=place) for place in places))

    assert run(scene, slots=1).order == [4, 0, 1, 2, 3, 5]


def test_a_row_that_raises_releases_its_slot() -> None:
    async def scene(watch: Watch) -> None:
        with pytest.raises(ValueError, match="row"):
            async with watch.queue.slot(Suspicion.ISOLATED, 0):
                raise ValueError("row")
        await watch.row(Suspicion.ISOLATED)

    assert run(scene).queue.num_running == 0


@pytest.mark.parametrize("num_turns", [0, 1, 2, 3])
def test_a_cancelled_waiter_leaks_no_slot(num_turns: int) -> None:
    """It is cancelled before its turn, exactly at its turn, and after it."""

    async def scene(watch: Watch) -> None:
        holder = asyncio.ensure_future(watch.row(Suspicion.ISOLATED, "holder", num_turns=2))
        await asyncio.sleep(0)
        waiter = asyncio.ensure_future(watch.row(Suspicion.ISOLATED, "waiter", num_turns=5))
        last = asyncio.ensure_future(watch.row(Suspicion.ISOLATED, "last"))
        await asyncio.sleep(0)
        for _ in range(num_turns):
            await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(holder, waiter, last, return_exceptions=True)

    watch = run(scene)
    assert watch.order[-1] == "last"
    assert watch.queue.num_running == 0
    assert watch.most[Suspicion.ISOLATED] == 1


LEVELS = st.sampled_from(list(Suspicion))
ROWS = st.lists(st.tuples(LEVELS, st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=60)


@settings(deadline=None)
@given(ROWS, st.integers(1, 12))
def test_no_level_exceeds_its_width_no_two_levels_mix_and_every_row_runs(
    rows: list[tuple[Suspicion, int, int, bool]], slots: int
) -> None:
    async def late(watch: Watch, name: int, level: Suspicion, num_before: int, num_turns: int) -> None:
        for _ in range(num_before):
            await asyncio.sleep(0)
        await watch.row(level, name, num_turns)

    async def scene(watch: Watch) -> None:
        tasks = [asyncio.ensure_future(late(watch, name, *row[:3])) for name, row in enumerate(rows)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task, (_, _, _, is_cancelled) in zip(tasks, rows, strict=True):
            if is_cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    watch = run(scene, slots)
    widths = {Suspicion.NONE: slots, Suspicion.GROUPED: min(8, slots), Suspicion.ISOLATED: 1}
    assert all(watch.most[level] <= width for level, width in widths.items())
    assert not watch.mixed
    assert {name for name, row in enumerate(rows) if not row[3]} <= set(watch.order)
    assert watch.queue.num_running == 0


def test_an_unproven_engine_gets_the_least_suspicious_rows_first_until_one_is_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first to arrive is suspicious, and still waits for those that are not."""
    monkeypatch.setattr(admission, "GATHER_S", 0.05)

    async def scene(watch: Watch) -> None:
        watch.queue = AdmissionQueue(2, unproven=True)

        async def finishing(level: Suspicion, name: str) -> None:
            async with watch.queue.slot(level, 0):
                watch.order.append(name)
                if level:  # the normal row shows nothing, as if it had failed without the engine
                    watch.queue.prove()

        names = ["alone", "crowd", "crowd too", "normal", "alone too"]
        levels = {"a": Suspicion.ISOLATED, "c": Suspicion.GROUPED, "n": Suspicion.NONE}
        await asyncio.gather(*(finishing(levels[name[0]], name) for name in names))

    normal, crowd, *alone, other_crowd = run(scene).order
    assert normal == "normal"
    assert {crowd, other_crowd} == {"crowd", "crowd too"}
    assert alone == ["alone", "alone too"]


@pytest.fixture
def gathers_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "GATHER_S", 0.01)


@pytest.mark.usefixtures("gathers_fast")
def test_an_unproven_engine_gets_suspicious_rows_singly() -> None:
    async def scene(watch: Watch) -> None:
        watch.queue = AdmissionQueue(64, unproven=True)
        await asyncio.gather(*(watch.row(Suspicion.GROUPED) for _ in range(20)))

    assert run(scene).most[Suspicion.GROUPED] == 1


@pytest.mark.usefixtures("gathers_fast")
def test_at_its_last_try_an_engine_gets_one_row_until_that_is_finished() -> None:
    async def scene(watch: Watch) -> None:
        watch.queue = AdmissionQueue(64, unproven=True, is_last_try=True)
        await asyncio.gather(*(watch.row(Suspicion.NONE) for _ in range(20)))

    assert run(scene).most[Suspicion.NONE] == 1

    async def proving(watch: Watch) -> None:
        watch.queue = AdmissionQueue(64, unproven=True, is_last_try=True)
        async with watch.queue.slot(Suspicion.NONE, 0):
            watch.queue.prove()
        await asyncio.gather(*(watch.row(Suspicion.NONE) for _ in range(20)))

    assert run(proving).most[Suspicion.NONE] == 20


@pytest.mark.usefixtures("gathers_fast")
def test_the_row_that_an_unproven_engine_gets_first_is_another_one_each_time() -> None:
    async def scene(watch: Watch) -> None:
        watch.queue = AdmissionQueue(8, unproven=True)
        await asyncio.gather(*(watch.row(Suspicion.GROUPED, place, place=place) for place in range(50)))

    orders = [run(scene).order for _ in range(5)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({order[0] for order in orders}) > 1


@pytest.mark.usefixtures("gathers_fast")
def test_rows_of_the_second_part_start_when_none_of_the_first_runs_or_waits() -> None:
    """Whatever their suspicion, and although one of them is the first to arrive."""

    async def scene(watch: Watch) -> None:
        running: Counter[int] = Counter()

        async def row(part: int, level: Suspicion, number: int) -> None:
            async with watch.queue.slot(level, number, part):
                watch.order.append(part)
                running[part] += 1
                watch.mixed |= len(+running) > 1
                await asyncio.sleep(0.001 * (number % 3))
                running[part] -= 1

        others = ((part, level, number) for number in range(10) for level in Suspicion for part in (1, 0))
        rows = [(1, Suspicion.GROUPED, 0), *others]
        await asyncio.gather(*(row(*each) for each in rows))

    watch = run(scene, slots=4)
    assert watch.order == [0] * 30 + [1] * 31
    assert not watch.mixed


@pytest.mark.usefixtures("gathers_fast")
def test_a_second_part_without_a_first_starts_too() -> None:
    async def scene(watch: Watch) -> None:
        await asyncio.gather(*(watch.row(Suspicion.NONE, number, part=1) for number in range(9)))

    assert run(scene, slots=4).order == list(range(9))
