"""A run of the pipeline whose engine records when it worked: `python -m gpu_check.timed <times.json> <arguments>...`.

The pipeline's own engine is wrapped, in its actor. Before the first row it warms up with copies of that row, as plain
vLLM does with all rows, and then empties the prefix cache.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.loading import compose
from pipeline.errors import PipelineError
from pipeline.generate.engines.base import Output, Request
from pipeline.generate.engines.vllm_engine import VllmFactory
from pipeline.orchestrator import execute
from pipeline.runs.manifest import EngineInfo


@dataclass(frozen=True, slots=True)
class TimedFactory:
    """Starts the pipeline's engine; `times` is the file for what it records."""

    factory: VllmFactory
    times: Path

    def __call__(self) -> TimedEngine:
        return TimedEngine(self.factory(), self.factory.config.engine.slots, self.times)


class TimedEngine:
    """The engine. `seconds` is from the first row's request to the last row's output, without the warm-up."""

    def __init__(self, engine: Any, slots: int, times: Path) -> None:
        self._engine, self._slots, self._times = engine, slots, times
        self._warm_up: asyncio.Task[None] | None = None
        self._first = self._last = 0.0
        self._num_tokens = self._num_rows = 0

    @property
    def info(self) -> EngineInfo:
        info: EngineInfo = self._engine.info
        return info

    async def generate(self, request: Request) -> Output:
        if self._warm_up is None:
            self._warm_up = asyncio.create_task(self._warm(request))
        await self._warm_up
        self._first = self._first or time.monotonic()
        output: Output = await self._engine.generate(request)
        self._last = time.monotonic()
        self._num_rows += 1
        self._num_tokens += output.num_output_tokens or 0
        return output

    async def _warm(self, request: Request) -> None:
        copies = [replace(request, request_id=f"{request.request_id}/warm-up/{each}") for each in range(self._slots)]
        await asyncio.gather(*(self._engine.generate(each) for each in copies))
        await self._engine._engine.reset_prefix_cache()

    def close(self) -> None:
        self._engine.close()
        found = {
            "seconds": self._last - self._first,
            "num_rows": self._num_rows,
            "num_output_tokens": self._num_tokens,
        }
        self._times.write_text(json.dumps(found), encoding="utf-8")


def main(times: str, *arguments: str) -> None:
    config = compose(arguments)
    execute(config, TimedFactory(VllmFactory(config), Path(times)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
