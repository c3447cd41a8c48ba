"""What a replica does with one row: wait for its slot, ask the engine, journal what came of it.

In: a work row. Out: a `RowStatus`, when the row's completion is on disk. A row that fails is a completion with an
error; an engine that dies takes this process with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import PipelineError
from pipeline.generate.admission import AdmissionQueue
from pipeline.generate.attempt_log import AttemptLog, RowStatus
from pipeline.generate.engines.base import Engine, EngineCrashed, Output, Request, RowError
from pipeline.generate.journal import Journal
from pipeline.records import Completion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRunner:
    """The rows of one replica. Used on one event loop.

    `is_ending` tells whether no row may begin any more.
    """

    admission: AdmissionQueue
    attempt_log: AttemptLog
    journal: Journal
    replica: str
    seed: int
    is_ending: Callable[[], bool]

    async def generate(self, row: dict[str, Any], received: float, engine: Engine | None) -> RowStatus | None:
        """Return what became of a row, or None when it was not begun because the replica ends.

        Args:
            row: Of `schedule.WORK_SCHEMA`, with its `place`.
            received: When it came to the replica, by `time.monotonic()`.
            engine: The running engine; None only where the replica ends.
        """
        key = f"{row['task']}/{row['split']}/{row['id']}/{row['repeat']}"
        finished = self.attempt_log.finished(key)
        if finished is not None:
            return finished
        level = self.attempt_log.suspicion(key)
        async with self.admission.slot(level, row["place"]):
            if self.is_ending():
                return None
            started = time.monotonic()
            if self.attempt_log.is_poison(key):
                result: Output | str = f"the engine died {self.attempt_log.attempts(key)} times with this row in it"
            else:
                self.attempt_log.start(key, level)
                result = await self._ask(row, key, engine)
            attempts = self.attempt_log.attempts(key) + (0 if self.attempt_log.is_poison(key) else 1)
            took = {"queued_s": started - received, "generated_s": time.monotonic() - started}
            completion = completion_of(row, result, attempts=attempts, replica=self.replica, **took)
            if level:  # the next suspect must not begin, and perhaps kill, before this one is known to be innocent
                return await self._keep(key, completion)
        return await self._keep(key, completion)

    async def _keep(self, key: str, completion: Completion) -> RowStatus:
        await self.journal.append(completion)
        status = RowStatus(completion.error is not None, completion.num_output_tokens or 0)
        self.attempt_log.end(key, status)
        return status

    async def _ask(self, row: dict[str, Any], key: str, engine: Engine | None) -> Output | str:
        """Return the output, or why this row has none."""
        assert engine is not None
        request = Request(
            request_id=f"{key}/{uuid.uuid4().hex[:8]}",
            messages=row["messages"],
            prompt_token_ids=row["prompt_token_ids"],
            seed=self.seed + row["repeat"],
        )
        try:
            return await engine.generate(request)
        except RowError as error:
            return str(error)
        except EngineCrashed:
            # An exception would only fail this block, and the dead engine would go on to swallow the queue. Without
            # the process Ray makes the actor anew and gives it the rows that it had; a clean exit is not retried.
            logger.exception("The engine is dead; this process ends")
            await asyncio.to_thread(self.journal.close)  # what has finished and waits to be written
            logging.shutdown()
            os._exit(1)
        except PipelineError:
            raise
        except Exception as error:
            logger.exception("%s fails in a way that is its own", key)
            return f"{type(error).__name__}: {error}"


def completion_of(
    row: dict[str, Any], result: Output | str, *, attempts: int, replica: str, queued_s: float, generated_s: float
) -> Completion:
    """Return a work row's completion; `result` is the engine's output, or why there is none."""
    output = result if isinstance(result, Output) else None
    return Completion(
        task=row["task"],
        split=row["split"],
        id=row["id"],
        repeat=row["repeat"],
        prompt_sha256=row["prompt_sha256"],
        completion=_whole(output.completion) if output else None,
        reasoning=_whole(output.reasoning) if output else None,
        content=_whole(output.content) if output else None,
        finish_reason=output.finish_reason if output else "error",
        num_prompt_tokens=output.num_prompt_tokens if output else None,
        num_output_tokens=output.num_output_tokens if output else None,
        error=None if output else _whole(str(result)),
        attempts=attempts,
        replica=replica,
        queued_s=queued_s,
        generated_s=generated_s,
    )


def _whole(text: str | None) -> str | None:
    """Replace halves of surrogate pairs, which a server's JSON may hold and UTF-8 cannot."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
