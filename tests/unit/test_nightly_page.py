"""The page of nightly runs has each metric, and its links and files exist."""

from __future__ import annotations

import re

from builders import ROOT

from pipeline.generate.metrics import METRICS, PREFIX

PAGE = (ROOT / "docs/nightly.md").read_text(encoding="utf-8")


def test_the_table_of_metrics_is_complete() -> None:
    rows = re.findall(rf"(?m)^\| {PREFIX}(\w+) \| *([^|]*?) *\|", PAGE)
    assert {name: tuple(tags.split(", ")) if tags else () for name, tags in rows} == {
        name: series.tags for name, series in METRICS.items()
    }


def test_each_link_of_the_page_leads_to_a_heading() -> None:
    headings = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in re.findall(r"(?m)^#+ (.*)$", PAGE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings


def test_each_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"\bconf/(?:kuberay|hosts)/[\w.-]+\w", PAGE))
    table = set(re.findall(r"\b[a-z-]+\.(?:yaml|json)\b", PAGE.partition("## Watching")[0].partition("| file |")[2]))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    assert {"nightly.yaml", "run.yaml", "grafana.json"} <= table
