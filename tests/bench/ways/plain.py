"""`vllm.LLM.generate` with all prompts at once, in the order of the rows; rows are written to disk at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.child import check, sampling, write_rows
from bench.questions import read
from bench.settings import engine_arguments
from vllm import LLM, SamplingParams

from pipeline.config.schema import Config


class Plain:
    def __init__(self, config: Config) -> None:
        began = time.monotonic()
        self._llm = LLM(**engine_arguments(config))
        self.engine_start_s = time.monotonic() - began

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        self._generate(read(directory / "warm_up.parquet"))
        questions = read(directory / "questions.parquet")
        began = time.monotonic()
        rows = self._generate(questions)
        write_rows(directory, way, rows)
        seconds = time.monotonic() - began
        check(way, {row["name"]: row["num_tokens"] for row in questions}, {name: count for name, _, count in rows})
        return {
            "began": began,
            "seconds": seconds,
            "num_rows": len(rows),
            "num_tokens": sum(count for _, _, count in rows),
        }

    def _generate(self, questions: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
        prompts = [{"prompt_token_ids": row["prompt_token_ids"]} for row in questions]
        params = [SamplingParams(**sampling(row["num_tokens"])) for row in questions]
        outputs = [each.outputs[0] for each in self._llm.generate(prompts, params, use_tqdm=False)]
        return [(row["name"], out.text, len(out.token_ids)) for row, out in zip(questions, outputs, strict=True)]

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


def start(config: Config) -> Plain:
    return Plain(config)
