"""The one seam of the generate room: what an engine is asked, what it answers, and how it may fail.

`vllm_engine.py` and `endpoint.py` implement it; tests have a scripted one. An engine knows nothing of rows that are
finished or lost: that is the worker's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pipeline.records import FinishReason
from pipeline.runs.manifest import EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation that is wanted.

    `prompt_token_ids` are what an engine with the model is fed; `messages` (JSON) is what an endpoint is sent.
    """

    request_id: str
    messages: str
    prompt_token_ids: list[int] | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One generation as the engine ended it; see `records.Completion` for the fields."""

    completion: str
    reasoning: str | None
    content: str | None
    finish_reason: FinishReason
    num_prompt_tokens: int | None
    num_output_tokens: int | None


class RowError(Exception):
    """One row cannot be generated; its neighbours are not concerned. The message becomes the row's `error`."""


class EngineCrashed(Exception):
    """The engine is gone and every row in it; only a new process helps."""


class Engine(Protocol):
    """A running engine. All methods are called on one event loop."""

    @property
    def info(self) -> EngineInfo:
        """What is in force and worth recording: versions, precision, device. No secrets."""

    async def generate(self, request: Request) -> Output:
        """Return the generation.

        Raises:
            RowError: This request alone failed.
            EngineDead: The engine is gone.
            PipelineError: No request can succeed, and the user can mend it.
        """

    def close(self) -> None:
        """End the engine and its processes."""


class EngineFactory(Protocol):
    """Starts engines. It is sent to the workers, so it pickles and holds no secret."""

    def __call__(self) -> Engine:
        """Start an engine in this process and return it when it is ready.

        Raises:
            PipelineError: It cannot start, and the user can mend it.
        """
