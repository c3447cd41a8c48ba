"""The data of a report except its samples: metrics, lengths, speed, warnings and the manifest, formatted for the page.

In: metrics.parquet, samples/ and the manifest. Out: `ReportData`, whose size depends only on the tasks and groups.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import duckdb

from pipeline.config.schema import Config
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.publish.report import header, warnings
from pipeline.publish.report.engines import EngineTable, engine_table
from pipeline.publish.report.sample_blocks import FLIPS, LONGEST_BASELINE
from pipeline.publish.report.texts import Recorded, Text, t
from pipeline.records import FLIP_SCHEMA, METRIC_SCHEMA, METRICS_FILE, SAMPLE_SCHEMA, MetricChange
from pipeline.runs.cost import line as cost_line
from pipeline.runs.manifest import ChangedAnswers, GateRule, Manifest, ScoreTrend, dump
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore, parquet_files

NUM_BINS = 40

MOST_GROUPS = 100
"""Groups of a grouping that the page plots, those with the most rows; metrics.parquet has all of them."""

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
_BASELINE_BYTES_SQL = """
    SELECT coalesce(sum(strlen(base_response[:$longest])), 0)::BIGINT AS num_bytes FROM flips
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
class Changes:
    """What changed since the baseline and over several runs; `unchanged` are the rows without a difference."""

    base: Text | Recorded | None
    rules: tuple[GateRule, ...]
    notes: tuple[str, ...]
    rows: list[MetricChange]
    unchanged: list[MetricChange]
    trends: tuple[ScoreTrend, ...]
    changed: ChangedAnswers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The data of the template. `plots` is passed to the page's script; the template renders the rest."""

    title: str
    banner: header.Banner
    cards: list[header.Card]
    settings: list[header.Setting]
    revisions: list[tuple[str, str]]
    tasks: list[dict[str, Any]]
    warnings: list[warnings.WarningGroup]
    extractions: list[dict[str, Any]]
    disagreements: list[dict[str, Any]]
    speed: list[dict[str, Any]]
    totals: list[tuple[Text, Text | Recorded]]
    engines: EngineTable | None
    compare: Changes | None
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
    metrics = run.read_parquet(METRICS_FILE, METRIC_SCHEMA).to_pylist()
    counts = query.rows(database, _COUNTS_SQL)[0]
    width = _width(counts["longest"])
    whole = [row for row in metrics if row["group_by"] is None]
    return ReportData(
        title=manifest.run_id or config.run_id,
        banner=header.banner(counts, manifest),
        cards=header.cards(whole, config, manifest),
        settings=header.settings(config, manifest),
        revisions=header.revisions(manifest),
        tasks=_tasks(whole),
        warnings=warnings.collect(whole, counts, manifest),
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
            "references": header.references(config),
            "lengths": query.rows(database, _LENGTHS_SQL, {"width": width}),
            "bin_width": width,
            "max_gen_toks": config.generation.max_gen_toks,
        },
        num_samples=counts["num_samples"],
        num_bytes=query.rows(database, _BYTES_SQL)[0]["num_bytes"] + _bytes_of_baseline(database, run),
    )


def _bytes_of_baseline(database: duckdb.DuckDBPyConnection, run: ArtifactStore) -> int:
    """Return the size of the baseline's responses that are shown next to the run's."""
    if not run.exists(FLIPS):
        return 0
    database.register("flips", parquet_files(run, [FLIPS], FLIP_SCHEMA))
    return int(query.rows(database, _BASELINE_BYTES_SQL, {"longest": LONGEST_BASELINE})[0]["num_bytes"])


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


def _totals(counts: dict[str, Any], manifest: Manifest) -> list[tuple[Text, Text | Recorded]]:
    """Return the run's totals, and its speed if the manifest has its times."""
    timings = manifest.timings_s
    found: list[tuple[Text, Text | Recorded]] = [
        (t("samples"), Recorded(f"{counts['num_samples']:,}")),
        (t("output tokens"), _count(counts["num_output_tokens"])),
        (t("prompt tokens"), _count(counts["num_prompt_tokens"])),
        (t("truncated"), Recorded(f"{counts['num_truncated']:,}")),
        (t("failed"), Recorded(f"{counts['num_failed']:,}")),
    ]
    if manifest.cost is not None:
        found.append((t("cost"), Recorded(cost_line(manifest.cost))))
    if timings.get("generate") and counts["num_output_tokens"] is not None:
        rate = counts["num_output_tokens"] / timings["generate"]
        found.append((t("tokens/s with the engine's start"), Recorded(f"{rate:,.0f}")))
    return found + [(t("{stage}, s", stage=name), Recorded(f"{seconds:,.1f}")) for name, seconds in timings.items()]


def _count(number: int | None) -> Text | Recorded:
    return t("not known") if number is None else Recorded(f"{number:,}")


def _compare(manifest: Manifest) -> Changes | None:
    """Return the gate's rules and notes, the comparison with the baseline and the trends, or None without a gate."""
    gate = manifest.gate
    if gate is None:
        return None
    rows = [row for row in manifest.compare or () if row.level != "run" or row.metric in HEADLINE_METRICS]
    shown, unchanged = header.changed_rows(rows)
    return Changes(
        base=header.base_name(gate),
        rules=gate.rules,
        notes=gate.notes,
        rows=shown,
        unchanged=unchanged,
        trends=gate.trends,
        changed=gate.changed,
    )
