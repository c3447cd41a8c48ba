"""The fixed texts of the report: each has a Russian one with the same values, and none is left over."""

from __future__ import annotations

import re
from importlib import resources

from markupsafe import Markup

from pipeline.publish.report import engines, header, warnings
from pipeline.publish.report.texts import Text, russian, t
from pipeline.runs.manifest import GateResult, Manifest

KEY = re.compile(r"""\b(?:t\(|attribute\("[\w-]+", )"([^"]*)"|^[A-Z_]+ = "(\{[^"]*)"$""", re.MULTILINE)
CELLS = {"on", "off", "none", "default"}
"""Words in the table of the engines."""


def keys_of_sources() -> set[str]:
    """Return the fixed texts in the template, the script and the modules."""
    found: set[str] = set()
    for file in resources.files("pipeline.publish.report").iterdir():
        if file.name.endswith((".py", ".jinja", ".js")):
            found |= {first or second for first, second in KEY.findall(file.read_text(encoding="utf-8"))}
    return found | {key for _, key in header._PARTS} | {name for name, _ in engines._FIGURES} | CELLS


def test_every_fixed_text_has_a_russian_one_and_none_is_left_over() -> None:
    keys = keys_of_sources()
    assert len(keys) > 150
    assert keys - set(russian()) == set()
    assert set(russian()) - keys == set()


def test_a_russian_text_has_the_values_of_the_english_one() -> None:
    for english, text in russian().items():
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", text)), english
        assert text.strip(), english


def test_values_are_escaped_and_isolated() -> None:
    text = t("{run} – report", run='"><script>\u202e')
    assert "<script>" not in text.__html__()
    assert "<bdi>&#34;&gt;&lt;script&gt;\u202e</bdi> – report" in text.__html__()
    assert str(t("{p}", p=Markup("&lt;0.001"))) == "<0.001"
    assert str(text) == '"><script>\u202e – report'


def test_warnings_of_one_kind_are_one_group() -> None:
    counts = {"num_failed": 0, "num_scored": 90, "num_samples": 900}
    cell = {"metric": "score", "level": "task", "num_total": 100, "num_truncated": 0, "num_failed": 0, "value": None}
    rows = [{**cell, "task": f"task{number}", "split": "test", "num_no_answer": 10 + number} for number in range(9)]
    lines = [f"task{number} test: {number} answers are cut in the middle: id {number}" for number in range(1, 4)]
    lines.append("task4 test: 9 answers are cut in the middle: id 3, 5, 6 and 6 more")
    recorded, own = warnings.collect(rows, counts, Manifest(status="complete", warnings=tuple(lines)))
    assert [str(line) for line in recorded.lines] == lines
    assert str(recorded.heading) == "… answers are cut in the middle: id …"
    assert (len(own.lines), str(own.heading)) == (9, "more than 5% of the rows have no readable answer")
    assert str(own.lines[0]) == "task0 test: 10 of 100 rows (10.0%) have no readable answer"


def test_a_verdict_of_an_unknown_form_is_shown_as_it_is() -> None:
    gate = GateResult(baseline="n1", broken=(), rules=(), notes=(), verdict="significantly worse: 7 of 9; <b>")
    banner = header.banner({"num_failed": 0, "num_samples": 1}, Manifest(status="complete", gate=gate))
    assert isinstance(banner.verdict, Text)
    assert [str(part) for part in banner.parts] == ["7 of 9", "<b>"]
