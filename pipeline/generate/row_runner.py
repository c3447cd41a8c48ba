"""What a replica does with one row: wait for a slot, send the request to the engine, journal the completion.

In: a work row. Out: a `RowStatus`, once the row's completion is on disk. A row that fails is a completion with an
error; an engine that crashes takes this process with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.generate.admission import AdmissionQueue
from pipeline.generate.attempt_log import AttemptLog, RowStatus
from pipeline.generate.engines.base import Engine, EngineCrashed, Output, Request, RowError
from pipeline.generate.failures import FailureJudge
from pipeline.generate.journal import Journal
from pipeline.records import Completion
from pipeline.terminal.text import replace_surrogates

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRow:
    """A row of the work list of a part; columns: `work_list.WORK_SCHEMA`, and those that `blocks.blocks` adds."""

    task: str
    split: str
    id: int
    repeat: int
    prompt_sha256: str
    messages: str | None
    prompt_token_ids: list[int] | None
    expected_tokens: float | None
    place: int
    part: int

    @property
    def key(self) -> str:
        """The row's name in the attempt log."""
        key = f"{self.task}/{self.split}/{self.id}/{self.repeat}"
        return f"{key}/{self.part}" if self.part else key


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRunner:
    """Runs the rows of one replica. Used on one event loop.

    `journals` has a journal for each part. `is_ending` returns whether no row may start any more; `judge` decides
    whether a failure is the row's; `end_process` does not return.
    """

    admission: AdmissionQueue
    attempt_log: AttemptLog
    journals: Sequence[Journal]
    replica: str
    seed: int
    is_ending: Callable[[], bool]
    judge: FailureJudge
    end_process: Callable[[], None]

    async def generate(self, row: WorkRow, received_at: float, engine: Engine | None) -> RowStatus | None:
        """Return the status of a row, or None when it was not started because the replica ends.

        Args:
            row: The row to generate.
            received_at: When the replica received it, by `time.monotonic()`.
            engine: The running engine; None only when the replica ends.

        Raises:
            PipelineError: No request can succeed.
            OSError: The journal or the attempt log cannot be written.
        """
        finished = self.attempt_log.finished(row.key)
        if finished is not None:
            return finished
        level = self.attempt_log.suspicion(row.key)
        async with self.admission.slot(level, row.place, row.part):
            if self.is_ending():
                return None
            started_at = time.monotonic()
            num_crashes = self.attempt_log.attempts(row.key)
            token = self.judge.begin()
            result: Output | RowError
            if self.attempt_log.is_poison(row.key):
                attempts = num_crashes
                result = RowError(f"the engine crashed {num_crashes} times with this row in it")
            else:
                attempts = num_crashes + 1
                self.attempt_log.start(row.key, level)
                result = await self._request(row, engine)
                self.admission.prove()
            durations = {"queued_s": started_at - received_at, "generated_s": time.monotonic() - started_at}
            completion = completion_of(row, result, attempts=attempts, replica=self.replica, **durations)
            if level:  # the next suspicious row must not start, and perhaps crash, before this one is cleared
                self.judge.abandon(token)
                return await self._persist(row, completion)
        if isinstance(result, RowError):
            assert engine is not None, "it has failed this row"
            if not await self.judge.is_of_row(token, result, engine.is_serving):
                return None
        else:
            self.judge.answered(token)
        return await self._persist(row, completion)

    async def _persist(self, row: WorkRow, completion: Completion) -> RowStatus:
        await self.journals[row.part].append(completion)
        truncated = completion.finish_reason == "length"
        status = RowStatus(completion.error is not None, completion.num_output_tokens or 0, truncated)
        self.attempt_log.end(row.key, status)
        return status

    async def _request(self, row: WorkRow, engine: Engine | None) -> Output | RowError:
        """Return the engine's output, or why this row has none."""
        assert engine is not None
        request = Request(
            request_id=f"{row.key}/{uuid.uuid4().hex[:8]}",
            messages=row.messages,
            prompt_token_ids=row.prompt_token_ids,
            seed=self.seed + row.repeat,
            cache_salt=str(row.part) if row.part else None,
        )
        try:
            return await engine.generate(request)
        except RowError as error:
            return error
        except EngineCrashed as error:
            # An exception would fail only this block, and the crashed engine would fail every row of the queue. When
            # the process exits, Ray restarts the actor and resubmits its rows; a clean exit is not retried.
            logger.exception("The engine has crashed; this process ends")
            self.attempt_log.crash(str(error))
            await asyncio.to_thread(self.end_process)
            raise AssertionError("the process has ended") from error
        except PipelineError:
            raise
        except Exception as error:
            logger.exception("%s fails in a way that is its own", row.key)
            return RowError(f"{type(error).__name__}: {error}")


def completion_of(
    row: WorkRow, result: Output | RowError, *, attempts: int, replica: str, queued_s: float, generated_s: float
) -> Completion:
    """Return a row's completion; `result` is the engine's output, or why there is none."""
    output = result if isinstance(result, Output) else None
    return Completion(
        task=row.task,
        split=row.split,
        id=row.id,
        repeat=row.repeat,
        prompt_sha256=row.prompt_sha256,
        completion=replace_surrogates(output.completion) if output else None,
        reasoning=replace_surrogates(output.reasoning) if output else None,
        content=replace_surrogates(output.content) if output else None,
        finish_reason=output.finish_reason if output else "error",
        num_prompt_tokens=output.num_prompt_tokens if output else None,
        num_output_tokens=output.num_output_tokens if output else None,
        error=None if output else replace_surrogates(str(result)),
        attempts=attempts,
        replica=replica,
        queued_s=queued_s,
        generated_s=generated_s,
    )
