"""A scripted engine: it answers from a function, waits as long as it is told, and dies when it is told."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass

from pipeline.generate.engine import EngineDead, Output, Request, RowError


@dataclass(frozen=True)
class ScriptedFactory:
    """Makes engines that answer every question with `answer`, after `seconds`.

    A question whose text holds `raise_on` is a row error, one that holds DIE ends the engine.
    """

    answer: str = "A"
    seconds: float = 0.0
    raise_on: str = "RAISE"

    def __call__(self) -> ScriptedEngine:
        return ScriptedEngine(self)


class ScriptedEngine:
    def __init__(self, script: ScriptedFactory) -> None:
        self._script = script

    @property
    def facts(self) -> dict[str, str | int]:
        return {"engine": "scripted", "pid": os.getpid()}

    async def generate(self, request: Request) -> Output:
        await asyncio.sleep(self._script.seconds)
        question = json.loads(request.messages)[-1]["content"] if request.messages else ""
        if self._script.raise_on in question:
            raise RowError("told to raise")
        if "DIE" in question:
            raise EngineDead("told to die")
        text = self._script.answer
        return Output(
            completion=text,
            reasoning=None,
            content=text,
            finish_reason="stop",
            num_prompt_tokens=len(question.split()),
            num_output_tokens=len(text),
        )

    def close(self) -> None:
        return None
