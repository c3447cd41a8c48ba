"""The ledger: what the next process of a replica knows of the ones that died before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.generate.attempt_log import GROUPED, ISOLATED, MAX_ISOLATED_CRASHES, NONE, AttemptLog, RowStatus


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "session" / "actor"


def die_with(file: Path, *keys: str) -> None:
    """Let a process start the rows, each at the level that it then has, and die."""
    ledger = AttemptLog(file)
    for key in keys:
        ledger.start(key, ledger.level(key))


def test_a_first_process_knows_nothing(file: Path) -> None:
    ledger = AttemptLog(file)
    assert ledger.num_crashes == 0
    assert ledger.finished("a") is None
    assert (ledger.level("a"), ledger.attempts("a"), ledger.is_poison("a")) == (NONE, 0, False)


def test_a_row_under_way_at_each_death_goes_from_the_crowd_to_alone_to_blame(file: Path) -> None:
    seen = []
    for num_crashes in range(2 + MAX_ISOLATED_CRASHES):
        ledger = AttemptLog(file)
        seen.append((ledger.level("bad"), ledger.is_poison("bad")))
        assert ledger.num_crashes == ledger.attempts("bad") == num_crashes
        ledger.start("bad", ledger.level("bad"))
    assert seen == [(NONE, False), (GROUPED, False), (ISOLATED, False), (ISOLATED, False)]
    assert AttemptLog(file).is_poison("bad")


def test_a_row_that_ended_before_the_death_is_not_suspected_and_is_remembered(file: Path) -> None:
    ledger = AttemptLog(file)
    for key in ("good", "failed", "bad"):
        ledger.start(key, NONE)
    ledger.end("good", RowStatus(failed=False, num_output_tokens=7))
    ledger.end("failed", RowStatus(failed=True, num_output_tokens=0))
    after = AttemptLog(file)
    assert after.finished("good") == RowStatus(failed=False, num_output_tokens=7)
    assert after.finished("failed") == RowStatus(failed=True, num_output_tokens=0)
    assert after.finished("bad") is None
    assert [after.level(key) for key in ("good", "failed", "bad")] == [NONE, NONE, GROUPED]


def test_neighbours_at_a_death_that_then_end_well_are_never_blamed(file: Path) -> None:
    die_with(file, "a", "bad", "b")
    ledger = AttemptLog(file)
    for key in ("a", "bad", "b"):
        ledger.start(key, ledger.level(key))
    ledger.end("a", RowStatus(failed=False, num_output_tokens=1))
    ledger.end("b", RowStatus(failed=False, num_output_tokens=1))
    for _ in range(MAX_ISOLATED_CRASHES):
        die_with(file, "bad")
    last = AttemptLog(file)
    assert [last.is_poison(key) for key in ("a", "bad", "b")] == [False, True, False]


def test_deaths_among_others_alone_never_condemn_a_row(file: Path) -> None:
    for _ in range(9):
        AttemptLog(file).start("beside", NONE)
    ledger = AttemptLog(file)
    assert ledger.attempts("beside") == 9
    assert not ledger.is_poison("beside")


def test_a_death_with_nothing_under_way_blames_nobody(file: Path) -> None:
    AttemptLog(file)
    assert AttemptLog(file).num_crashes == 1
    assert AttemptLog(file).num_crashes == 2


def test_keys_may_hold_spaces(file: Path) -> None:
    ledger = AttemptLog(file)
    ledger.start("my task/test/1/0", NONE)
    ledger.end("my task/test/1/0", RowStatus(failed=False, num_output_tokens=3))
    assert AttemptLog(file).finished("my task/test/1/0") == RowStatus(failed=False, num_output_tokens=3)


@pytest.mark.parametrize("torn", [b"E 0 7", b"E 0", b"E", b"S", b"S ", b"S 0", b"E 0 7 b", "E 0 7 а".encode()[:-1]])
def test_a_last_line_that_was_cut_off_is_no_hindrance(file: Path, torn: bytes) -> None:
    """A full disk cuts a line; what follows it must still be read right."""
    die_with(file, "a")
    with file.open("ab") as stream:
        stream.write(torn)
    ledger = AttemptLog(file)
    assert ledger.num_crashes == 1
    assert (ledger.finished("a"), ledger.finished("b")) == (None, None)
    assert ledger.level("a") == GROUPED
    assert AttemptLog(file).num_crashes == 2
