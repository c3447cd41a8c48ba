"""The pipeline's own vLLM engine with a forced length for each row and a warm-up on other prompts before the first row.

Nothing else is changed: rows go through the pipeline's replica, admission queue, journal and engine. The times that are
not counted (the engine's start, the warm-up, the engine's shutdown) are written next to the round's files.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.questions import read

from pipeline.generate.engines.base import EngineStats, Output, Request
from pipeline.generate.engines.vllm_engine import VllmFactory
from pipeline.runs.manifest import EngineInfo


@dataclass(frozen=True, slots=True)
class ForcedFactory:
    """Starts the pipeline's engine for a round whose files are in `directory`; `times` is the file for its times."""

    factory: VllmFactory
    directory: Path
    times: Path

    def __call__(self) -> ForcedEngine:
        began = time.monotonic()
        engine = self.factory()
        return ForcedEngine(engine, self, time.monotonic() - began)


class ForcedEngine:
    """The engine. All times are `time.monotonic()`, the same clock for all processes of a machine."""

    def __init__(self, engine: Any, forced: ForcedFactory, engine_start_s: float) -> None:
        self._engine, self._times = engine, forced.times
        self._warm_up_rows = read(forced.directory / "warm_up.parquet")
        rows = self._warm_up_rows + read(forced.directory / "questions.parquet")
        self._num_tokens = {row["name"]: row["num_tokens"] for row in rows}
        self._found: dict[str, float] = {"engine_start_s": engine_start_s}
        self._warm_up: asyncio.Task[None] | None = None
        plain = engine.sampling

        def sampling(request: Request) -> Any:
            params = plain(request)
            params.max_tokens = self._num_tokens["/".join(request.request_id.split("/")[:3])]
            params.ignore_eos = True
            return params

        engine.sampling = sampling

    @property
    def info(self) -> EngineInfo:
        info: EngineInfo = self._engine.info
        return info

    @property
    def stats(self) -> EngineStats:
        stats: EngineStats = self._engine.stats
        return stats

    async def generate(self, request: Request) -> Output:
        if "started" not in self._found:
            if self._warm_up is None:
                self._warm_up = asyncio.create_task(self._warm())
            await self._warm_up
            self._found.setdefault("started", time.monotonic())
        output: Output = await self._engine.generate(request)
        self._found["last"] = time.monotonic()
        return output

    async def _warm(self) -> None:
        requests = [
            Request(
                request_id=f"{row['name']}/0/warm-up",
                messages="[]",
                prompt_token_ids=row["prompt_token_ids"],
                seed=0,
            )
            for row in self._warm_up_rows
        ]
        await asyncio.gather(*(self._engine.generate(each) for each in requests))

    def close(self) -> None:
        self._found["closing"] = time.monotonic()
        self._engine.close()
        self._found["close_s"] = time.monotonic() - self._found["closing"]
        self._times.write_text(json.dumps(self._found), encoding="utf-8")
