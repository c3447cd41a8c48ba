"""Simulates nightly runs of models: scripted answers through the real score stage, gate, manifest and index.

    PYTHONPATH=tests .venv/bin/python -m nights <output_dir> [<number of nights>]

Each question has a probability of being answered right, the same every night of an unchanged model: most are 0 or 1, a
few unstable ones lie between. On night 25 a model loses 5 points for one night, and from night 30 on it declines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from archives import completion, question
from builders import settings

from pipeline.comparison import gate
from pipeline.config.loading import plain
from pipeline.config.schema import Config
from pipeline.orchestrator import finish
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Prompt, to_table
from pipeline.runs import directory as run_directory
from pipeline.runs import index
from pipeline.runs.counts import count_samples
from pipeline.runs.identity import settings_hash
from pipeline.runs.manifest import Manifest, PromptMetadata, write_manifest
from pipeline.score.stage import score
from pipeline.storage.artifacts import ArtifactStore

TASKS = ("agro_bench", "aqua_bench", "med_bench")
FIRST = datetime(2026, 10, 19, 21, tzinfo=UTC)
REGRESSION, DECLINE = 25, 30
"""The night of the regression, and the first night of the slow decline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model under test: its name, the share of questions that it answers right, and whether it gets worse."""

    name: str
    accuracy: float
    gets_worse: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Nights:
    """Nights of a model in a directory, over the same questions, `num_questions` in each task.

    `reports` is whether the products are published, as a run does.
    """

    output: Path
    num_questions: int = 100
    reports: bool = False

    def run(self, model: Model, night: int, *overrides: str) -> ArtifactStore:
        """Make the run of a night, counted from 1, and return its directory."""
        begins = FIRST + timedelta(days=night)
        suffix = "" if model.name == "steady" else f"-{model.name}"
        config = settings(
            f"output_dir={self.output}",
            f"run_id={begins:%Y-%m-%d}{suffix}",
            f"engine.endpoint.model={model.name}",
            "gate.baseline=latest",
            *overrides,
        )
        config = replace(config, tasks={name: config.tasks[name] for name in TASKS}, only=())
        run, config = run_directory.place(config)
        run_directory.begin(run, config)
        prompts = questions(self.num_questions, config.limit)
        with run.publish("prompts", PROMPT_SCHEMA) as store:
            store.write_parquet("part-00000.parquet", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)])
        rows = answers(model, night, prompts)
        with run.publish("completions", COMPLETION_SCHEMA) as store:
            store.write_parquet("part-00000.parquet", COMPLETION_SCHEMA, [to_table(rows, COMPLETION_SCHEMA)])
        score(run, config)
        self._end(run, config, begins)
        return run

    def _end(self, run: ArtifactStore, config: Config, begins: datetime) -> None:
        times = [f"{each:%Y-%m-%dT%H:%M:%SZ}" for each in (begins, begins + timedelta(hours=2, minutes=begins.day))]
        manifest = Manifest(
            status="complete",
            run_id=config.run_id,
            conf=config.conf,
            started_at=times[0],
            ended_at=times[1],
            settings_hash=settings_hash(config),
            config=plain(config),
            datasets=PromptMetadata(dataset_revisions=dict.fromkeys(TASKS, "sha256:questions")),
            counts=count_samples(run),
            timings_s={"generate": 7_000.0, "total": 7_200.0 + 60 * begins.day},
        )
        if self.reports:
            finish(run, config, manifest)
            return
        verdict = gate.judge(config, run, manifest)
        manifest = replace(manifest, gate=verdict.result if verdict else None)
        write_manifest(run, manifest)
        index.record(run, manifest)


def questions(num: int, limit: int | None = None) -> list[Prompt]:
    """Return the questions of all tasks, with the answer B."""
    return [question(task, number, split="train", gold="B") for task in TASKS for number in range(limit or num)]


def answers(model: Model, night: int, prompts: Sequence[Prompt]) -> list[Any]:
    """Return the completions of a night."""
    fixed, luck = np.random.default_rng(model.seed), np.random.default_rng([model.seed, night])
    drawn, unstable, order = fixed.random(len(prompts)), fixed.random(len(prompts)) < 0.04, fixed.random(len(prompts))
    right = np.where(unstable, luck.random(len(prompts)) < 0.5, drawn < model.accuracy)
    lost = points_lost(night) if model.gets_worse else 0.0
    right &= ~((drawn < model.accuracy) & (order < lost / model.accuracy))
    pairs = zip(prompts, right, strict=True)
    return [
        completion(
            {name: getattr(each, name) for name in ("task", "split", "id", "prompt_sha256")}, 0, "AB"[int(is_right)]
        )
        for each, is_right in pairs
    ]


def points_lost(night: int) -> float:
    """Return how much of the score is lost on a night: 5 points on one, half a point more each night of a decline."""
    return 0.05 if night == REGRESSION else max(0, night - DECLINE + 1) * 0.005


def main(output: str, num: int = 40) -> None:
    """Make the nights of three models."""
    nights = Nights(output=Path(output), num_questions=300, reports=True)
    models = (
        Model(name="steady", accuracy=0.72, seed=2),
        Model(name="worse", accuracy=0.70, gets_worse=True),
        Model(name="small", accuracy=0.55, seed=3),
    )
    for night in range(1, num + 1):
        for model in models:
            if model.name != "small" or night % 4 == 0:
                nights.run(model, night)
        print(f"night {night}", flush=True)
    nights.run(models[0], num + 1, "run_id=quick-look", "limit=3")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
