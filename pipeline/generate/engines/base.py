"""The interface between a replica and an engine: the request, the output, and how an engine may fail.

`vllm_engine.py` and `openai_endpoint.py` implement it; tests have a scripted engine. An engine does not know which rows
are finished or lost: that is the replica's concern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.records import FinishReason
from pipeline.runs.manifest import EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation to make.

    `prompt_token_ids` is the prompt for an engine that has the model; `messages` (JSON) is the prompt for a server
    that renders it. One of them may be None. Requests with different values of `cache_salt` share no cached prefix: the
    second pass of a run computes its prompts again, as another run does. A server does not get this request.
    """

    request_id: str
    messages: str | None
    prompt_token_ids: list[int] | None
    seed: int
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One generation as the engine returned it; see `records.Completion` for the fields."""

    completion: str
    reasoning: str | None
    content: str | None
    finish_reason: FinishReason
    num_prompt_tokens: int | None
    num_output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counters of a running engine since it started; None is unknown.

    Requests running and waiting now, output tokens so far, the used fraction of the KV cache, and the peaks of these.
    `num_preemptions` counts how often a request lost its place in the KV cache and was computed again,
    `num_preempted_rows` the finished requests to which that happened. `answered_by` has the names of models that a
    server put into its answers.
    """

    num_running: int | None = None
    num_waiting: int | None = None
    num_output_tokens: int | None = None
    kv_cache_usage: float | None = None
    peak_running: int | None = None
    peak_waiting: int | None = None
    peak_kv_cache_usage: float | None = None
    num_preemptions: int | None = None
    num_preempted_rows: int | None = None
    answered_by: tuple[str, ...] = ()


class RowError(Exception):
    """One row cannot be generated; other rows are not affected. The message becomes the row's `error`."""


class ServerUnavailable(RowError):
    """The server did not answer this request, or refused it as it may refuse every one.

    The row is the cause only if the server answers others meanwhile.
    """


class EngineCrashed(Exception):
    """The engine crashed, and with it every request in flight; only a new process helps. The message is the cause."""


class TransientStartError(Exception):
    """The engine did not start for a reason that may pass by itself: another start may succeed.

    `error` is to be raised when it does not.
    """

    def __init__(self, error: PipelineError) -> None:
        super().__init__(str(error))
        self.error = error


class Engine(Protocol):
    """A running engine. `generate` is called on one event loop, `close` from another thread."""

    @property
    def info(self) -> EngineInfo:
        """What is in force and worth recording: versions, precision, device. No secrets."""

    @property
    def stats(self) -> EngineStats:
        """The engine's counters; called from any thread."""

    async def generate(self, request: Request) -> Output:
        """Return the generation.

        Raises:
            RowError: This request alone failed.
            EngineCrashed: The engine crashed.
            PipelineError: No request can succeed, and the user can fix it.
        """

    async def is_serving(self) -> bool:
        """Return whether the engine would answer another request; called after one failed, while none is in flight."""

    def close(self) -> None:
        """End the engine and its processes."""


class EngineFactory(Protocol):
    """Starts engines. Sent to Ray actors, so it must be picklable; it holds no secret."""

    def __call__(self) -> Engine:
        """Start an engine in this process and return it when it is ready.

        Raises:
            PipelineError: It cannot start, and the user can fix it.
            StartError: It did not start, and this machine may be the cause.
            TransientStartError: It does not start now; another start may succeed.
        """
