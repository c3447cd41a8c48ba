"""Makes complete runs that have scores but no samples, in milliseconds each: for lists and pages over many runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from builders import settings

from pipeline.config import loading
from pipeline.config.schema import Config
from pipeline.metrics.confidence import wilson
from pipeline.metrics.weights import weights_of
from pipeline.records import METRIC_SCHEMA
from pipeline.runs import index
from pipeline.runs.manifest import load, write_manifest
from pipeline.storage.artifacts import ArtifactStore

TASKS = {"agro_bench": "agriculture", "aqua_bench": "agriculture", "med_bench": "medicine"}
NUM_ROWS = 300
FIRST = datetime(2025, 10, 19, 21, tzinfo=UTC)


def make_nights(
    output: Path,
    scores: Iterable[float],
    *,
    model: str = "steady",
    broken: Mapping[int, str] | None = None,
    overrides: Sequence[str] = (),
    **manifest: Any,
) -> list[ArtifactStore]:
    """Make a run a night, counted from 1, whose tasks have these scores; `broken` has the broken rule by night."""
    text = loading.dump(_config(output, model, overrides))
    directory = ArtifactStore.open(str(output))
    found = []
    for number, score in enumerate(scores, start=1):
        begins = FIRST + timedelta(days=number)
        run_id = f"{begins:%Y-%m-%d}-{model}"
        run = directory.child(f"run={run_id}")
        run.create()
        run.write_text("config.yaml", text.replace("RUN-ID", run_id))
        pq.write_table(metrics(score), run.path("metrics.parquet"))
        rules = [broken[number]] if broken and number in broken else []
        content: dict[str, Any] = {
            "status": "complete",
            "run_id": run_id,
            "started_at": f"{begins:%Y-%m-%dT%H:%M:%SZ}",
            "ended_at": f"{begins + timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}",
            "settings_hash": "s",
            "model": model,
            "counts": {"num_samples": 3 * NUM_ROWS, "num_failed": 0, "num_output_tokens": 900_000},
            "gate": {"baseline": None, "broken": rules, "rules": [], "notes": []},
            "timings_s": {"total": 7_260.0},
            "published": {"report": {"file": "report.html", "chunks": None, "num_samples": 900}},
        }
        recorded = load(content | manifest)
        write_manifest(run, recorded)
        index.record(run, recorded)
        found.append(run)
    return found


def _config(output: Path, model: str, overrides: Sequence[str]) -> Config:
    config = settings(f"output_dir={output}", "run_id=RUN-ID", f"engine.endpoint.model={model}", *overrides)
    return replace(config, tasks={name: config.tasks[name] for name in TASKS}, only=())


def metrics(score: float) -> pa.Table:
    """Return metrics.parquet of a run whose tasks all have this score on the train split, and none on test."""
    names = [("task", task, 1) for task in TASKS]
    names += [("domain", name, len(weights_of(TASKS, name))) for name in dict.fromkeys(TASKS.values())]
    rows = []
    for level, name, num_tasks in [*names, ("run", "all", len(TASKS))]:
        num = NUM_ROWS * num_tasks
        low, high = wilson(score, num)
        known = {"value": score, "ci_low": float(low), "ci_high": float(high), "num_scored": num}
        rows += [_row(level, name, split, num, **(known if split == "train" else {})) for split in ("test", "train")]
    return pa.Table.from_pylist(rows, schema=METRIC_SCHEMA)


def _row(level: str, task: str, split: str, num: int, **known: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("num_scored", "num_truncated", "num_no_answer", "num_failed", "num_doubtful"), 0)
    return {"level": level, "task": task, "split": split, "metric": "score", "num_total": num} | counts | known


def declining(
    num: int, *, regression: int = 25, decline: int = 30, accuracy: float = 0.7, seed: int = 1
) -> list[float]:
    """Return the scores of nights with a regression of 5 points on one night and a slow decline."""
    noise = np.random.default_rng(seed).normal(0, 0.006, num)
    lost = [0.05 if night == regression else max(0, night - decline + 1) * 0.005 for night in range(1, num + 1)]
    return [float(np.clip(accuracy - each + luck, 0, 1)) for each, luck in zip(lost, noise, strict=True)]


def add_parts(run: Path) -> None:
    """Put small files in place of the large parts of a run, and what is kept next to them."""
    for name in ("samples/task=a/split=b/p.parquet", "prompts/_stage.json", "completions/p.parquet", "journal/a/b"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"x" * 1_000)
    for name in ("noise/samples/p.parquet", "logs/driver.log", "report_samples/0.js", "compare/compare.parquet"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"x" * 10)
    for name in ("report.html", "report.ru.html", "report_of_mine.txt", "card.md", "x_submission.zip"):
        (run / name).write_text("x")
