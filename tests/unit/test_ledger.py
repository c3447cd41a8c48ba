"""The ledger: what the next process of a replica knows of the ones that died before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.generate.ledger import ALONE, CROWD, MOST_DEATHS_ALONE, NORMAL, Ended, Ledger


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "session" / "actor"


def die_with(file: Path, *keys: str) -> None:
    """Let a process start the rows, each at the level that it then has, and die."""
    ledger = Ledger(file)
    for key in keys:
        ledger.start(key, ledger.level(key))


def test_a_first_process_knows_nothing(file: Path) -> None:
    ledger = Ledger(file)
    assert ledger.num_deaths == 0
    assert ledger.ended("a") is None
    assert (ledger.level("a"), ledger.attempts("a"), ledger.is_poison("a")) == (NORMAL, 0, False)


def test_a_row_under_way_at_each_death_goes_from_the_crowd_to_alone_to_blame(file: Path) -> None:
    seen = []
    for num_deaths in range(2 + MOST_DEATHS_ALONE):
        ledger = Ledger(file)
        seen.append((ledger.level("bad"), ledger.is_poison("bad")))
        assert ledger.num_deaths == ledger.attempts("bad") == num_deaths
        ledger.start("bad", ledger.level("bad"))
    assert seen == [(NORMAL, False), (CROWD, False), (ALONE, False), (ALONE, False)]
    assert Ledger(file).is_poison("bad")


def test_a_row_that_ended_before_the_death_is_not_suspected_and_is_remembered(file: Path) -> None:
    ledger = Ledger(file)
    for key in ("good", "failed", "bad"):
        ledger.start(key, NORMAL)
    ledger.end("good", Ended(failed=False, num_output_tokens=7))
    ledger.end("failed", Ended(failed=True, num_output_tokens=0))
    after = Ledger(file)
    assert after.ended("good") == Ended(failed=False, num_output_tokens=7)
    assert after.ended("failed") == Ended(failed=True, num_output_tokens=0)
    assert after.ended("bad") is None
    assert [after.level(key) for key in ("good", "failed", "bad")] == [NORMAL, NORMAL, CROWD]


def test_neighbours_at_a_death_that_then_end_well_are_never_blamed(file: Path) -> None:
    die_with(file, "a", "bad", "b")
    ledger = Ledger(file)
    for key in ("a", "bad", "b"):
        ledger.start(key, ledger.level(key))
    ledger.end("a", Ended(failed=False, num_output_tokens=1))
    ledger.end("b", Ended(failed=False, num_output_tokens=1))
    for _ in range(MOST_DEATHS_ALONE):
        die_with(file, "bad")
    last = Ledger(file)
    assert [last.is_poison(key) for key in ("a", "bad", "b")] == [False, True, False]


def test_deaths_among_others_alone_never_condemn_a_row(file: Path) -> None:
    for _ in range(9):
        Ledger(file).start("beside", NORMAL)
    ledger = Ledger(file)
    assert ledger.attempts("beside") == 9
    assert not ledger.is_poison("beside")


def test_a_death_with_nothing_under_way_blames_nobody(file: Path) -> None:
    Ledger(file)
    assert Ledger(file).num_deaths == 1
    assert Ledger(file).num_deaths == 2


def test_keys_may_hold_spaces(file: Path) -> None:
    ledger = Ledger(file)
    ledger.start("my task/test/1/0", NORMAL)
    ledger.end("my task/test/1/0", Ended(failed=False, num_output_tokens=3))
    assert Ledger(file).ended("my task/test/1/0") == Ended(failed=False, num_output_tokens=3)


@pytest.mark.parametrize("torn", [b"E 0 7", b"E 0", b"E", b"S", b"S ", b"S 0", b"E 0 7 b", "E 0 7 а".encode()[:-1]])
def test_a_last_line_that_was_cut_off_is_no_hindrance(file: Path, torn: bytes) -> None:
    """A full disk cuts a line; what follows it must still be read right."""
    die_with(file, "a")
    with file.open("ab") as stream:
        stream.write(torn)
    ledger = Ledger(file)
    assert ledger.num_deaths == 1
    assert (ledger.ended("a"), ledger.ended("b")) == (None, None)
    assert ledger.level("a") == CROWD
    assert Ledger(file).num_deaths == 2
