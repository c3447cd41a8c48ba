"""The pipeline's generate stage on Ray, from a real prompts artifact to the published completions/.

The engine's start and shutdown are not counted. Everything else from the first row's request is: Ray Data, the
journals, the messages between driver and replica, the compaction into completions/. Rows reach the replica while its
engine warms up; by then a single replica has all rows of a round.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from bench.child import check
from bench.forced import ForcedFactory
from bench.questions import read
from bench.settings import ROOT
from builders import Counting

from pipeline.config.schema import Config
from pipeline.generate import length_estimates
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import cluster
from pipeline.generate.engines.vllm_engine import VllmFactory
from pipeline.generate.length_estimates import Lengths
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore


class GenerateStage:
    engine_start_s = None

    def __init__(self, config: Config) -> None:
        self._config = replace(config, reasoning_parser="qwen3")

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        questions = read(directory / "questions.parquet")
        run = ArtifactStore.open(str(directory / f"run={way}"))
        run.remove()
        run.create()
        prompts = _publish_prompts(directory, run)
        lengths = _lengths(prompts, questions) if way == "history" else None
        times = directory / f"{way}.json"
        factory = ForcedFactory(VllmFactory(self._config), directory, times)
        with cluster(self._config) as placement:
            made = generate_stage.generate(self._config, run, placement, factory, Counting(), Counting(), lengths)
            ended = time.monotonic()
        found = json.loads(times.read_text(encoding="utf-8"))
        completions = run.require_artifact("completions", COMPLETION_SCHEMA).dataset().to_table().to_pylist()
        counts = {f"{row['task']}/{row['split']}/{row['id']}": row["num_output_tokens"] for row in completions}
        check(way, {row["name"]: row["num_tokens"] for row in questions}, counts)
        assert len(made.engine) == 1, made
        return {
            "began": found["started"],
            "seconds": ended - found["started"] - found["close_s"],
            "num_rows": len(counts),
            "num_tokens": sum(counts.values()),
            "engine_start_s": found["engine_start_s"],
            "engine_end_s": found["close_s"],
            "after_last_row_s": ended - found["last"] - found["close_s"],
        }

    def close(self) -> None:
        pass


def _publish_prompts(directory: Path, run: ArtifactStore) -> pa.Table:
    """Publish the round's prompts in the run, sorted by id as a run's are, and return them."""
    prompts = (
        ArtifactStore.open(str(directory)).require_artifact("prompts", PROMPT_SCHEMA).dataset().to_table().sort_by("id")
    )
    with run.publish("prompts", PROMPT_SCHEMA) as store:
        store.write_parquet("task=bench/split=test/part-00000.parquet", PROMPT_SCHEMA, [prompts])
    return prompts


def _lengths(prompts: pa.Table, questions: list[dict[str, Any]]) -> Lengths:
    """Return the length estimates that a past run would give."""
    tokens = {int(row["name"].rpartition("/")[2]): row["num_tokens_before"] for row in questions}
    before = pa.table({"sha": prompts["prompt_sha256"], "tokens": [tokens[key] for key in prompts["id"].to_pylist()]})
    with query.connection() as database:
        database.register("before", before)
        sql = "SELECT hash(sha)::UBIGINT AS prompt, avg(tokens)::FLOAT AS tokens FROM before GROUP BY ALL"
        by_prompt = query.batches(database, sql, rows=query.BATCH_ROWS).read_all().cast(length_estimates.PROMPT_LENGTHS)
    return replace(length_estimates.none(), run_id="earlier", by_prompt=by_prompt)


def start(config: Config) -> GenerateStage:
    os.chdir(ROOT)
    return GenerateStage(config)
