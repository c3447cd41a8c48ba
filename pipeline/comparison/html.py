"""Renders compare.html: a self-contained file that opens from disk, without scripts or requests.

jinja2 escapes every text from a run, and the page's Content Security Policy forbids scripts and external resources.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.comparison.pairing import ComparedRun
from pipeline.comparison.significance import Comparison
from pipeline.comparison.verdict import is_significant, is_worth_showing, verdict
from pipeline.metrics.names import higher_is_better
from pipeline.records import MetricChange
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import truncate

REPORT_FILE = "report.html"

MOST_CHARACTERS = 600
"""Maximum number of characters of a response on the page."""


def render(comparison: Comparison, out: ArtifactStore) -> str:
    """Return the HTML page of a comparison, whose links are relative to the directory `out`."""
    environment = Environment(
        loader=PackageLoader("pipeline.comparison", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    base, new = comparison.base, comparison.new
    return environment.get_template("compare.html.jinja").render(
        verdict=verdict(comparison),
        base=base.name,
        new=new.config.run_id,
        base_root=base.store.shown(),
        new_root=new.store.shown(),
        num_questions=f"{sum(each.num_questions for each in comparison.split_questions):,}",
        differences=comparison.differences,
        rows=[cells(row) for row in comparison.rows if is_worth_showing(row)],
        num_rows=len(comparison.rows),
        flipped=[
            {name: _cut(value) for name, value in row.items()}
            | {f"{name}_link": link(run, out, row) for name, run in (("base", base), ("new", new))}
            for row in comparison.flipped.to_pylist()
        ],
        num_flips=comparison.num_flips,
    )


def cells(row: MetricChange) -> dict[str, str]:
    """Return a change as formatted texts; `sign` is `better` or `worse` when the change is significant, else empty."""
    is_count = row.metric == "output_tokens"
    digits = 1 if is_count else 3

    def number(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign},.{digits}f}"

    sign = ""
    if is_significant(row) and not is_count:
        sign = "better" if (row.difference > 0) == higher_is_better(row.metric) else "worse"
    return {
        "task": row.task,
        "split": row.split,
        "metric": row.metric,
        "base": number(row.base),
        "new": number(row.new),
        "change": number(row.difference, "+"),
        "interval": f"{number(row.ci_low, '+')} to {number(row.ci_high, '+')}",
        "p_value": probability(row.p_value),
        "p_holm": probability(row.p_holm),
        "num_questions": f"{row.num_questions:,}",
        "lost": "-" if row.num_lost is None else f"{row.num_lost:,}",
        "gained": "-" if row.num_gained is None else f"{row.num_gained:,}",
        "detectable": number(row.detectable),
        "sign": sign,
    }


def link(run: ComparedRun, out: ArtifactStore, row: Mapping[str, Any]) -> str | None:
    """Return the address of a question in a run's report, relative to `out`; None without one on the same disk."""
    if run.store.local is None or out.local is None or not run.store.exists(REPORT_FILE):
        return None
    place = "/".join(quote(str(part), safe="") for part in (row["task"], row["split"], row["id"], 0))
    return f"{quote(os.path.relpath(run.store.local / REPORT_FILE, out.local))}#{place}"


def probability(value: float) -> str:
    """Return a formatted p-value."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return truncate(value, MOST_CHARACTERS, " …")
    return "-" if value is None else value
