"""The attempt log: what the next process of a replica learns about those that crashed before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.generate.attempt_log import MAX_ISOLATED_CRASHES, WITHOUT_REASON, AttemptLog, RowStatus, Suspicion


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "session" / "actor"


def crash_with(file: Path, *keys: str) -> None:
    """Simulate a process that starts the rows, each at its current isolation level, and crashes."""
    log = AttemptLog(file)
    for key in keys:
        log.start(key, log.suspicion(key))


def test_the_first_process_finds_an_empty_log(file: Path) -> None:
    log = AttemptLog(file)
    assert log.num_crashes == 0
    assert log.finished("a") is None
    assert (log.suspicion("a"), log.attempts("a"), log.is_poison("a")) == (Suspicion.NONE, 0, False)


def test_a_row_in_flight_at_each_crash_is_grouped_then_isolated_then_poison(file: Path) -> None:
    seen = []
    for num_crashes in range(2 + MAX_ISOLATED_CRASHES):
        log = AttemptLog(file)
        seen.append((log.suspicion("bad"), log.is_poison("bad")))
        assert log.num_crashes == log.attempts("bad") == num_crashes
        log.start("bad", log.suspicion("bad"))
    assert seen == [
        (Suspicion.NONE, False),
        (Suspicion.GROUPED, False),
        (Suspicion.ISOLATED, False),
        (Suspicion.ISOLATED, False),
    ]
    assert AttemptLog(file).is_poison("bad")


def test_a_row_that_ended_before_the_crash_is_not_suspected_and_keeps_its_status(file: Path) -> None:
    log = AttemptLog(file)
    for key in ("good", "failed", "bad"):
        log.start(key, Suspicion.NONE)
    log.end("good", RowStatus(failed=False, num_output_tokens=7))
    log.end("failed", RowStatus(failed=True, num_output_tokens=0))
    after = AttemptLog(file)
    assert after.finished("good") == RowStatus(failed=False, num_output_tokens=7)
    assert after.finished("failed") == RowStatus(failed=True, num_output_tokens=0)
    assert after.finished("bad") is None
    assert [after.suspicion(key) for key in ("good", "failed", "bad")] == [
        Suspicion.NONE,
        Suspicion.NONE,
        Suspicion.GROUPED,
    ]


def test_neighbours_of_a_crash_that_complete_later_are_never_poison(file: Path) -> None:
    crash_with(file, "a", "bad", "b")
    log = AttemptLog(file)
    for key in ("a", "bad", "b"):
        log.start(key, log.suspicion(key))
    log.end("a", RowStatus(failed=False, num_output_tokens=1))
    log.end("b", RowStatus(failed=False, num_output_tokens=1))
    for _ in range(MAX_ISOLATED_CRASHES):
        crash_with(file, "bad")
    last = AttemptLog(file)
    assert [last.is_poison(key) for key in ("a", "bad", "b")] == [False, True, False]


def test_crashes_outside_isolation_never_make_a_row_poison(file: Path) -> None:
    for _ in range(9):
        AttemptLog(file).start("neighbour", Suspicion.NONE)
    log = AttemptLog(file)
    assert log.attempts("neighbour") == 9
    assert not log.is_poison("neighbour")


def test_a_crash_with_nothing_in_flight_is_counted(file: Path) -> None:
    AttemptLog(file)
    assert AttemptLog(file).num_crashes == 1
    assert AttemptLog(file).num_crashes == 2


def test_a_process_that_ends_to_be_tried_again_is_counted_and_is_no_crash(file: Path) -> None:
    crash_with(file, "a")
    for num_tries in (0, 1):
        log = AttemptLog(file)
        assert (log.num_tries_again, log.num_crashes) == (num_tries, 1)
        log.try_again()
    log.leave()
    last = AttemptLog(file)
    assert (last.num_tries_again, last.suspicion("a")) == (2, Suspicion.GROUPED)


def test_keys_may_contain_spaces(file: Path) -> None:
    log = AttemptLog(file)
    log.start("my task/test/1/0", Suspicion.NONE)
    log.end("my task/test/1/0", RowStatus(failed=False, num_output_tokens=3))
    assert AttemptLog(file).finished("my task/test/1/0") == RowStatus(failed=False, num_output_tokens=3)


@pytest.mark.parametrize(
    "truncated", [b"E 0 7", b"E 0", b"E", b"S", b"S ", b"S 0", b"E 0 7 b", "E 0 7 а".encode()[:-1]]
)
def test_a_truncated_last_line_is_ignored(file: Path, truncated: bytes) -> None:
    """A full disk truncates a line; the lines that follow must still be read correctly."""
    crash_with(file, "a")
    with file.open("ab") as stream:
        stream.write(truncated)
    log = AttemptLog(file)
    assert log.num_crashes == 1
    assert (log.finished("a"), log.finished("b")) == (None, None)
    assert log.suspicion("a") == Suspicion.GROUPED
    assert AttemptLog(file).num_crashes == 2


def crash(file: Path, cause: str, *keys: str, finished: str | None = None) -> None:
    """Let a process start the rows, finish one of them or none, and crash with this cause."""
    log = AttemptLog(file)
    for key in keys:
        log.start(key, log.suspicion(key))
    if finished is not None:
        log.end(finished, RowStatus(failed=False, num_output_tokens=1))
    log.crash(cause)


def test_three_crashes_alike_with_different_rows_and_none_finished_are_the_engines(file: Path) -> None:
    crash(file, "ValueError: 0x7f12 of 3 MiB\nand a second line", "a", "b")
    first = AttemptLog(file)
    assert (first.is_unproven, first.is_last_try, first.crashes_alike) == (True, False, False)
    first.start("c", Suspicion.NONE)
    first.crash("ValueError: 0x9a of 47 MiB and a second line")
    first.crash("what other requests saw later")
    second = AttemptLog(file)
    assert second.last_cause == "ValueError: 0x9a of 47 MiB and a second line"
    assert (second.is_last_try, second.crashes_alike) == (True, False)
    second.start("d", Suspicion.NONE)
    second.crash("ValueError: 0x0 of 1 MiB and a second line")
    assert AttemptLog(file).crashes_alike


def test_crashes_that_one_row_explains_are_not_the_engines(file: Path) -> None:
    for rows in (("a", "bad", "b"), ("bad", "b"), ("bad",), ("bad",)):
        crash(file, "E: x", *rows)
    log = AttemptLog(file)
    assert (log.is_unproven, log.crashes_alike) == (True, False)


def test_crashes_with_other_causes_or_without_any_are_not_alike(file: Path) -> None:
    crash(file, "E: x", "a")
    crash(file, "E: y", "b")
    log = AttemptLog(file)
    assert (log.is_unproven, log.crashes_alike, log.last_cause) == (True, False, "E: y")
    log.start("c", Suspicion.NONE)  # and the process is killed
    log = AttemptLog(file)
    assert (log.is_unproven, log.crashes_alike, log.last_cause) == (False, False, None)


def test_a_row_that_was_finished_shows_that_the_engine_works(file: Path) -> None:
    crash(file, "E: x", "a")
    crash(file, "E: x", "b", "c", finished="c")
    log = AttemptLog(file)
    assert (log.is_unproven, log.crashes_alike) == (False, False)


def test_a_poison_row_that_is_recorded_shows_nothing(file: Path) -> None:
    crash(file, "E: x", "a")
    crash(file, "E: x", "c")
    log = AttemptLog(file)
    log.end("poison", RowStatus(failed=True, num_output_tokens=0))
    log.start("b", Suspicion.NONE)
    log.crash("E: x")
    assert AttemptLog(file).crashes_alike


def test_poison_rows_one_after_another_are_not_the_engines_once_it_has_worked(file: Path) -> None:
    crash(file, "E: x", "good", "a", "b", finished="good")
    crash(file, "E: x", "a")
    crash(file, "E: x", "a")
    log = AttemptLog(file)
    log.end("a", RowStatus(failed=True, num_output_tokens=0))
    log.start("b", log.suspicion("b"))
    log.crash("E: x")
    after = AttemptLog(file)
    assert (after.is_last_try, after.crashes_alike) == (True, False)


def test_an_engine_that_breaks_after_it_has_worked_is_noticed(file: Path) -> None:
    crash(file, "E: x", "good", finished="good")
    for row in "abc":
        crash(file, "E: x", row)
    assert AttemptLog(file).crashes_alike


@pytest.mark.parametrize("cause", ["EngineDeadError: EngineCore encountered an issue.", WITHOUT_REASON[1]])
def test_engines_that_end_without_a_reason_are_not_alike(file: Path, cause: str) -> None:
    for row in "abc":
        crash(file, cause, row)
    log = AttemptLog(file)
    assert (log.is_unproven, log.crashes_alike) == (False, False)


def test_crashes_in_a_row_are_counted_anew_after_a_process_that_finished_a_row(file: Path) -> None:
    for expected in (0, 1, 2):
        log = AttemptLog(file)
        assert log.num_recent_crashes == expected
    log.start("good", Suspicion.NONE)
    log.end("good", RowStatus(failed=False, num_output_tokens=1))
    after = AttemptLog(file)
    assert (after.num_recent_crashes, after.num_crashes) == (1, 3)
    after.leave()
    assert AttemptLog(file).num_recent_crashes == 1
