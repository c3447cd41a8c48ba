"""Renders compare.html: a self-contained file that opens from disk, without scripts or requests.

jinja2 escapes every text from a run, and the page's Content Security Policy forbids scripts and external resources.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.comparison.significance import Comparison
from pipeline.metrics.names import higher_is_better
from pipeline.records import MetricChange
from pipeline.terminal.text import truncate

MOST_CHARACTERS = 600
"""Maximum number of characters of a response on the page."""


def render(comparison: Comparison) -> str:
    """Return the HTML page of a comparison."""
    environment = Environment(
        loader=PackageLoader("pipeline.comparison", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    base, new = comparison.base, comparison.new
    return environment.get_template("compare.html.jinja").render(
        base=base.name,
        new=new.config.run_id,
        base_root=base.store.root,
        new_root=new.store.root,
        num_questions=f"{sum(each.num_questions for each in comparison.split_questions):,}",
        differences=comparison.differences,
        rows=[cells(row) for row in comparison.rows],
        flipped=[{name: _cut(value) for name, value in row.items()} for row in comparison.flipped.to_pylist()],
        num_flips=comparison.num_flips,
    )


def cells(row: MetricChange) -> dict[str, str]:
    """Return a change as formatted texts; `sign` is `better` or `worse` when the change is significant, else empty."""
    is_count = row.metric == "output_tokens"
    digits = 1 if is_count else 3

    def number(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign},.{digits}f}"

    is_significant = row.p_holm < 0.05 and row.difference != 0
    sign = ""
    if is_significant and not is_count:
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


def probability(value: float) -> str:
    """Return a formatted p-value."""
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return truncate(value, MOST_CHARACTERS, " …")
    return "-" if value is None else value
