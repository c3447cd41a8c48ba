"""Renders compare.html: a self-contained file that opens from disk, without scripts or requests.

jinja2 escapes every text from a run, and the page's Content Security Policy forbids scripts and external resources.
"""

from __future__ import annotations

from typing import Any

import jinja2

from pipeline.comparison.significance import Comparison
from pipeline.metrics.names import higher_is_better
from pipeline.records import MetricChange
from pipeline.terminal.text import truncate

MOST_CHARACTERS = 600
"""Maximum number of characters of a response on the page."""

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{{ new }} against {{ base }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --worse: #c0392b; --better: #1e8449; }
@media (prefers-color-scheme: dark) { :root { --worse: #ff8a7a; --better: #7ddc9a; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.5rem 0 2rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; }
tr.worse td.change { color: var(--worse); font-weight: 600; }
tr.better td.change { color: var(--better); font-weight: 600; }
td.text { max-width: 26rem; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.scroll { overflow-x: auto; }
</style>
</head>
<body>
<h1>{{ new }} against {{ base }}</h1>
<p>Base: {{ base_root }}<br>New: {{ new_root }}<br>
The same {{ num_questions }} questions. A change is sure when its p-value is below 0.05, adjusted by Holm over all rows
with its metric. Detectable is the smallest true difference that is found 8 times in 10.</p>
<h2>What else differs</h2>
{% if differences %}
<table><tr><th>what</th><th>name</th><th>base</th><th>new</th></tr>
{% for each in differences %}
<tr><td>{{ each.kind }}</td><td>{{ each.name }}</td><td class="text">{{ each.base }}</td>
<td class="text">{{ each.new }}</td></tr>
{% endfor %}</table>
{% else %}<p>Nothing that was recorded.</p>{% endif %}
<h2>Changes</h2>
<div class="scroll"><table>
<tr><th>task or domain</th><th>split</th><th>metric</th><th class="n">base</th><th class="n">new</th>
<th class="n">change</th><th class="n">95% interval</th><th class="n">p</th><th class="n">p, Holm</th>
<th class="n">questions</th><th class="n">lost</th><th class="n">gained</th><th class="n">detectable</th></tr>
{% for row in rows %}
<tr class="{{ row.sign }}"><td>{{ row.task }}</td><td>{{ row.split }}</td><td>{{ row.metric }}</td>
<td class="n">{{ row.base }}</td><td class="n">{{ row.new }}</td><td class="n change">{{ row.change }}</td>
<td class="n">{{ row.interval }}</td><td class="n">{{ row.p_value }}</td><td class="n">{{ row.p_holm }}</td>
<td class="n">{{ row.num_questions }}</td><td class="n">{{ row.lost }}</td><td class="n">{{ row.gained }}</td>
<td class="n">{{ row.detectable }}</td></tr>
{% endfor %}</table></div>
<h2>Flipped questions</h2>
<p>{{ num_flips }} in all{% if num_flips > flipped|length %}, the first {{ flipped|length }} of them{% endif %};
flips.parquet has every one with its whole response.</p>
<div class="scroll"><table>
<tr><th>task</th><th>split</th><th class="n">id</th><th>metric</th><th>flip</th><th>gold</th><th>base's answer</th>
<th>new answer</th><th>base's response</th><th>new response</th></tr>
{% for row in flipped %}
<tr class="{{ 'better' if row.flip == 'gained' else 'worse' }}"><td>{{ row.task }}</td><td>{{ row.split }}</td>
<td class="n">{{ row.id }}</td><td>{{ row.metric }}</td><td class="change">{{ row.flip }}</td>
{% for name in ('gold', 'base_answer', 'new_answer', 'base_response', 'new_response') %}
<td class="text">{{ row[name] }}</td>
{% endfor %}</tr>
{% endfor %}</table></div>
</body>
</html>
"""


def render(comparison: Comparison) -> str:
    """Return the HTML page of a comparison."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    base, new = comparison.base, comparison.new
    return environment.from_string(TEMPLATE).render(
        base=base.config.run_id,
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
