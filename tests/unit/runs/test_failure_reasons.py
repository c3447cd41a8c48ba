"""The commonest reasons of failed rows are counted once, and have the same words wherever they are shown."""

from __future__ import annotations

from pipeline.runs.failure_reasons import lines, normalized
from pipeline.runs.manifest import FailureReason


def test_reasons_are_alike_without_their_numbers_and_quotations() -> None:
    assert normalized("row 17 of 'ab' at 0x1f: no") == normalized("row 5 of 'cd' at 0xee: no")
    assert normalized("no") != normalized("never")
    assert normalized("HTTP 400 for row 1") == normalized("HTTP 400 for row 2") != normalized("HTTP 500 for row 1")
    assert normalized("the server's answer is 'a'") == normalized("the server's answer is 'b'")
    assert normalized("the server's answer is cut") != normalized("the server's clock is late")


def test_rows_beyond_the_listed_reasons_are_counted_together() -> None:
    failures = (FailureReason(num=1_200, reason="HTTP 400", example="agro_bench test id=1"),)
    assert lines(failures, 1_201) == [
        "1,200 rows failed: HTTP 400 (such as agro_bench test id=1)",
        "1 row failed for other reasons: see the column error of samples/",
    ]
    assert lines(failures, 1_200) == ["1,200 rows failed: HTTP 400 (such as agro_bench test id=1)"]
    assert lines((), 7) == []
