"""A scripted engine: it returns a fixed answer after a fixed time, and fails or crashes on request."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ModelError, StartError
from pipeline.generate.engines.base import EngineCrashed, EngineStats, Output, Request, RowError, TransientStartError
from pipeline.runs.manifest import EngineInfo


@dataclass(frozen=True)
class ScriptedFactory:
    """Makes engines that answer every question with `answer`, after `seconds`.

    A question whose text contains `raise_on` is a row error, one that contains `cut_on` is cut at the token limit, one
    that contains `crash_on` crashes the engine, and one that contains `exit_on` ends the process without a message, as
    a fault in native code does. On a simulated GPU of
    `broken_gpus` (comma separated) the engine does not start, and on one of `refusing_gpus` it refuses to. `starts` is
    the path of a file that gets a line for every start, also where it fails; the first `failing_starts` of them fail
    for a reason that may pass, and of those on a broken GPU only the first `broken_starts` fail. `requests` is the path
    of a file that gets a line for every request.
    """

    answer: str = "A"
    seconds: float = 0.0
    raise_on: str = "RAISE"
    cut_on: str = "CUT"
    crash_on: str = "DIE"
    exit_on: str = "EXIT"
    starts: str = ""
    failing_starts: int = 0
    broken_gpus: str = ""
    broken_starts: int = 1_000
    refusing_gpus: str = ""
    requests: str = ""

    def __call__(self) -> ScriptedEngine:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        starts = self._starts(f"start {gpu}".strip())
        if gpu and gpu in self.refusing_gpus.split(","):
            raise ModelError(f"GPU {gpu} is told to refuse")
        if gpu and gpu in self.broken_gpus.split(",") and starts.count(f"start {gpu}") <= self.broken_starts:
            raise StartError(f"GPU {gpu} is told not to start")
        if 0 < len(starts) <= self.failing_starts:
            raise TransientStartError(ModelError("the memory is not free yet"))
        return ScriptedEngine(self)

    def _starts(self, line: str) -> list[str]:
        """Write the line into the file of starts and return all of them."""
        if not self.starts:
            return []
        with Path(self.starts).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        return Path(self.starts).read_text(encoding="utf-8").splitlines()


class ScriptedEngine:
    def __init__(self, script: ScriptedFactory) -> None:
        self._script = script

    @property
    def info(self) -> EngineInfo:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return EngineInfo(other={"engine": "scripted", "pid": os.getpid(), "gpus": gpus})

    @property
    def stats(self) -> EngineStats:
        return EngineStats()

    async def generate(self, request: Request) -> Output:
        if self._script.requests:
            with Path(self._script.requests).open("a", encoding="utf-8") as file:
                file.write(f"{request.request_id.rpartition('/')[0]}\n")
        await asyncio.sleep(self._script.seconds)
        question = json.loads(request.messages)[-1]["content"] if request.messages else ""
        if self._script.raise_on in question:
            raise RowError("told to raise")
        if self._script.crash_on in question:
            raise EngineCrashed("told to die")
        if self._script.exit_on in question:
            os._exit(1)
        text = self._script.answer
        return Output(
            completion=text,
            reasoning=None,
            content=text,
            finish_reason="length" if self._script.cut_on in question else "stop",
            num_prompt_tokens=len(question.split()),
            num_output_tokens=len(text),
        )

    async def is_serving(self) -> bool:
        return True

    def close(self) -> None:
        return None
