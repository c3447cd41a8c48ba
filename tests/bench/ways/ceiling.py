"""`AsyncLLM` in this process and nothing around it: rows admitted one by one, longest first, 1.25 per slot.

This is the most that an engine can give an asynchronous caller: no Ray, no journal, exact lengths known in advance.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from bench.child import check, sampling, write_rows
from bench.questions import read
from bench.settings import engine_arguments
from vllm import AsyncEngineArgs, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from pipeline.config.schema import Config

MARGIN = 1.25
"""Rows admitted per slot, so that a row is always waiting in the engine when another ends."""


class Ceiling:
    def __init__(self, config: Config) -> None:
        began = time.monotonic()
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(config), disable_log_stats=True))
        self.engine_start_s = time.monotonic() - began
        self._loop = asyncio.new_event_loop()
        self._width = int(MARGIN * config.engine.max_num_seqs)
        self._num_requests = 0

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        self._loop.run_until_complete(self._generate(read(directory / "warm_up.parquet")))
        questions = sorted(read(directory / "questions.parquet"), key=lambda row: -row["num_tokens"])
        began = time.monotonic()
        rows = self._loop.run_until_complete(self._generate(questions))
        write_rows(directory, way, rows)
        seconds = time.monotonic() - began
        check(way, {row["name"]: row["num_tokens"] for row in questions}, {name: count for name, _, count in rows})
        return {
            "began": began,
            "seconds": seconds,
            "num_rows": len(rows),
            "num_tokens": sum(count for _, _, count in rows),
        }

    async def _generate(self, questions: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
        semaphore = asyncio.Semaphore(self._width)

        async def one(row: dict[str, Any]) -> tuple[str, str, int]:
            async with semaphore:
                params = SamplingParams(**sampling(row["num_tokens"]), output_kind=RequestOutputKind.FINAL_ONLY)
                self._num_requests += 1
                prompt = {"type": "token", "prompt_token_ids": row["prompt_token_ids"]}
                async for output in self._engine.generate(prompt, params, str(self._num_requests)):
                    final = output.outputs[0]
            return row["name"], final.text, len(final.token_ids)

        return await asyncio.gather(*(one(row) for row in questions))

    def close(self) -> None:
        self._engine.shutdown()


def start(config: Config) -> Ceiling:
    return Ceiling(config)
