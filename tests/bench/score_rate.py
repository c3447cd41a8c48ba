"""Measures rows per second of the whole score stage: join, scores, samples/, metrics.parquet.

    PYTHONPATH=tests taskset -c 0 .venv/bin/python -m bench.score_rate 200000      # rows
    PYTHONPATH=tests taskset -c 0 .venv/bin/python -m bench.score_rate 200000 4    # rows, repeats of a question

Short responses in the usual forms, one task, four options, twenty categories. Memory is the peak of the process.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
from bench.results import Target

from pipeline.config.schema import Config, GenerationConfig, ModelConfig, TaskConfig
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA
from pipeline.score.stage import score
from pipeline.storage.artifacts import ArtifactStore

FORMS = [
    "{}",
    "Ответ: {}",
    "{}) текст ответа",
    "**{}**",
    "Правильный ответ — {}, потому что так написано в вопросе {n}.",
]
CHUNK = 50_000
ROWS_A_SECOND = 20_000
"""The target for one core."""


def main(num_rows: int, repeats: int = 1) -> None:
    with tempfile.TemporaryDirectory() as place:
        run = ArtifactStore.open(str(Path(place) / "run=bench"))
        run.create()
        for artifact, schema, columns, rows_of_id in (
            ("prompts", PROMPT_SCHEMA, prompts, 1),
            ("completions", COMPLETION_SCHEMA, completions, repeats),
        ):
            with run.publish(artifact, schema) as directory:
                for start in range(0, num_rows // repeats * rows_of_id, CHUNK):
                    rows = range(start, min(start + CHUNK, num_rows // repeats * rows_of_id))
                    table = pa.table(columns(rows, rows_of_id), schema=schema)
                    directory.write_parquet(f"part-{start // CHUNK:05}.parquet", schema, [table])
        config = Config(
            tasks={"agro": TaskConfig(dataset="x", domain="agriculture")},
            model=ModelConfig(path="m"),
            generation=GenerationConfig(max_gen_toks=8, repeats=repeats),
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        score(run, config)
        took_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{num_rows:,} rows in {took_s:.1f} s: {num_rows / took_s:,.0f} rows/s")
        print(f"{cpu_s:.1f} s of CPU: {num_rows / cpu_s:,.0f} rows a CPU second")
        print(f"- {Target(size='score', what='rows/s on one core', value=num_rows / took_s, wanted=ROWS_A_SECOND)}")
        print(f"peak memory {peak / 1024:,.0f} MB, {before / 1024:,.0f} MB before scoring")


def prompts(ids: range, _: int) -> dict[str, list]:
    options = {f"option_{letter}": f"вариант {letter}" for letter in "abcd"}
    row = {"instruction": "Ответьте: {question}", "inputs": {"question": "Почему так? " * 20, **options}}
    doc = json.dumps(row, ensure_ascii=False)
    many = len(ids)
    return {
        "task": ["agro"] * many,
        "split": ["train"] * many,
        "id": list(ids),
        "categories": [[{"key": "topic", "value": f"тема {i % 20}"}] for i in ids],
        "doc": [doc] * many,
        "messages": [doc] * many,
        "prompt": [doc] * many,
        "prompt_sha256": [f"{i:064x}" for i in ids],
        "prompt_token_ids": [None] * many,
        "num_prompt_tokens": [200] * many,
        "gold": ["ABCD"[i % 4] for i in ids],
        "error": [None] * many,
    }


def completions(rows: range, repeats: int) -> dict[str, list]:
    many = len(rows)
    ids = [row // repeats for row in rows]
    texts = [FORMS[(i + row) % len(FORMS)].format("ABCD"[i % 3], n=i) for i, row in zip(ids, rows, strict=True)]
    return {
        "task": ["agro"] * many,
        "split": ["train"] * many,
        "id": ids,
        "repeat": [row % repeats for row in rows],
        "prompt_sha256": [f"{i:064x}" for i in ids],
        "completion": texts,
        "reasoning": [None] * many,
        "content": texts,
        "finish_reason": ["stop"] * many,
        "num_prompt_tokens": [200] * many,
        "num_output_tokens": [5] * many,
        "error": [None] * many,
        "attempts": [1] * many,
        "replica": ["r0"] * many,
        "queued_s": [0.0] * many,
        "generated_s": [0.1] * many,
    }


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["200000"]))
