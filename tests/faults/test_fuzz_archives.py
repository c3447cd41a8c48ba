"""Archives for `validate`: any bytes become findings, a line each; what is not refused has an answer for each id."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

from archives import rows, zipped
from faults import fuzzing
from hypothesis import given
from hypothesis import strategies as st

from pipeline.publish.validation.rules import Expected, Report, check

IDS = frozenset(range(1, 7))
FILE = "ruTXTAgroBench.json"
CONTENT = rows({number: "BCDE"[number % 4] for number in IDS})
GOOD = zipped({FILE: CONTENT, "logs_public.zip": zipped({"results_x.json": {}, "samples_agro_bench_x.jsonl": {}})})


def checked(content: bytes) -> Report:
    """Validate an archive, and check that each finding is a line."""
    report = fuzzing.result_or_line(
        lambda: check("x_submission.zip", io.BytesIO(content), [Expected(task="agro_bench", file=FILE, ids=IDS)])
    )
    assert report is not None
    for finding in map(str, report.findings):
        assert "\n" not in finding
        assert len(finding) < fuzzing.LONGEST_LINE
        finding.encode()
    return report


def require_readable(report: Report, content: bytes) -> None:
    """Check, if the archive is not refused, that a plain reader finds a text for each id in it."""
    if report.num_refusals:
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        data = json.loads(archive.read(FILE))
    outputs = {row["meta"]["id"]: row["outputs"] for row in data["data"]["test"]}
    assert outputs.keys() >= IDS
    assert all(isinstance(text, str) for text in outputs.values())
    assert report.num_answers == len(outputs)


@fuzzing.fuzzed(100)
@given(content=fuzzing.damaged(GOOD) | st.binary(max_size=100))
def test_damaged_archives_are_findings(content: bytes) -> None:
    require_readable(checked(content), content)


@fuzzing.fuzzed(80)
@given(data=fuzzing.changed(CONTENT), escaped=st.booleans())
def test_changed_answers_are_findings(data: Any, escaped: bool) -> None:
    text = json.dumps(data, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    content = zipped({FILE: text})
    require_readable(checked(content), content)


@fuzzing.fuzzed(100)
@given(content=fuzzing.damaged(json.dumps(CONTENT).encode()))
def test_damaged_answers_are_findings(content: bytes) -> None:
    archive = zipped({FILE: content})
    require_readable(checked(archive), archive)


names = st.sampled_from([FILE, f"a/{FILE}", f"../{FILE}", "logs_public.zip", "ruTXTAgroBench.JSON", "é", "\x1b[31m"])


@fuzzing.fuzzed(60)
@given(
    members=st.dictionaries(
        names | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=10),
        st.just(CONTENT) | fuzzing.values(),
        max_size=4,
    )
)
def test_archives_of_other_files_are_findings(members: dict[str, Any]) -> None:
    content = zipped({name: json.dumps(value).encode() for name, value in members.items()})
    require_readable(checked(content), content)
