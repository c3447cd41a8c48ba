"""`ray.data.llm`: token ids in, batches of 16, 8 of them at a time, no stage except the engine's.

The rows of the warm-up come first in the same data set. The others wait in its preprocessing until all rows of the
warm-up are done; the measurement starts when they are released.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from bench.child import check, sampling, write_rows
from bench.questions import read
from bench.settings import ROOT, engine_arguments

from pipeline.config.schema import Config

BATCH_SIZE, NUM_BATCHES = 16, 8


class RayLlm:
    engine_start_s = None

    def __init__(self, config: Config) -> None:
        self._arguments = engine_arguments(config)

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        import ray
        import ray.data

        began = time.monotonic()
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        gate = directory / f"{way}.gate"
        gate.unlink(missing_ok=True)
        warm_up, questions = read(directory / "warm_up.parquet"), read(directory / "questions.parquet")
        warm_up = warm_up[: len(warm_up) // BATCH_SIZE * BATCH_SIZE]
        # Whole batches: a warm-up row in the same batch as a waiting row would wait forever.
        blocks = ray.data.from_arrow([*_batches(warm_up, waits=False), *_batches(questions, waits=True)])
        try:
            started, found = _answers(self._processor(gate)(blocks), len(warm_up), gate)
            write_rows(directory, way, found)
            ended = time.monotonic()
        finally:
            ray.shutdown()
        check(way, {row["name"]: row["num_tokens"] for row in questions}, {name: count for name, _, count in found})
        return {
            "began": started,
            "seconds": ended - started,
            "num_rows": len(found),
            "num_tokens": sum(count for _, _, count in found),
            "engine_start_s": started - began,
        }

    def _processor(self, gate: Path) -> Any:
        import ray
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        config = vLLMEngineProcessorConfig(
            model_source=self._arguments["model"],
            engine_kwargs={name: value for name, value in self._arguments.items() if name != "model"},
            batch_size=BATCH_SIZE,
            max_concurrent_batches=NUM_BATCHES,
            concurrency=1,
            # By default it requests a GPU from Ray.
            placement_group_config=None if ray.cluster_resources().get("GPU") else {"bundle_per_worker": {"CPU": 1}},
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            log_engine_metrics=False,
        )
        return build_processor(
            config,
            preprocess=Waiting(str(gate)),
            postprocess=_result,
            preprocess_map_kwargs={"num_cpus": 0.1, "concurrency": 1},
            postprocess_map_kwargs={"num_cpus": 0.1},
        )

    def close(self) -> None:
        pass


class Waiting:
    """Makes a request from a row; a waiting row is held back until the gate file exists."""

    def __init__(self, gate: str) -> None:
        self._gate = gate

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        while row["waits"] and not os.path.exists(self._gate):  # noqa: PTH110
            time.sleep(0.01)
        return {**row, "tokenized_prompt": row["prompt_token_ids"], "sampling_params": sampling(row["num_tokens"])}


def _answers(answered: Any, num_warm_up: int, gate: Path) -> tuple[float, list[tuple[str, str, int]]]:
    """Create the gate file after the warm-up; return the time of that, and the rows generated after it."""
    num_warm, found, started = 0, [], 0.0
    # No prefetch: it would hold back the last rows of the warm-up until others arrive.
    done = answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for row in (row for block in done for row in block.to_pylist()):
        if row["waits"]:
            found.append((row["name"], row["text"], row["num_generated_tokens"]))
            continue
        num_warm += 1
        if num_warm == num_warm_up:
            started = time.monotonic()
            gate.touch()
    return started, found


def _batches(rows: list[dict[str, Any]], *, waits: bool) -> Iterator[pa.Table]:
    for first in range(0, len(rows), BATCH_SIZE):
        yield pa.Table.from_pylist([{**row, "waits": waits} for row in rows[first : first + BATCH_SIZE]])


def _result(row: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "waits", "num_generated_tokens")
    return {**{name: row[name] for name in names}, "text": row["generated_text"]}


def start(config: Config) -> RayLlm:
    os.chdir(ROOT)
    return RayLlm(config)
