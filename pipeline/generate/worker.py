"""One replica: the actor that holds an engine and a journal.

In: blocks of a few work rows. Out: for each row whether it failed and how many tokens it took; the completion itself
goes to the journal before that is said. Several blocks are under way at once, and a semaphore inside keeps the engine
at its slots, so that no row waits for a slower neighbour of its block. Ray makes the actors; nothing here imports it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import PipelineError, RunError
from pipeline.generate.engine import EngineDead, EngineFactory, Output, Request, RowError
from pipeline.generate.journal import Journal, write_facts
from pipeline.records import Completion
from pipeline.store import Folder

STATUS_SCHEMA = pa.schema(
    [
        pa.field("failed", pa.bool_(), nullable=False),
        pa.field("num_output_tokens", pa.int64(), nullable=False),
        pa.field("fatal_kind", pa.string()),
        pa.field("fatal", pa.string()),
    ]
)
"""One row a work row; or a single row with `fatal`, the message of the `PipelineError` that no row gets past.

An exception would do, but Ray hands on only its text, and the driver wants its kind.
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What every worker of a run is told. Sent to the actors, so it pickles.

    `log_dir` is a directory of the worker's own machine.
    """

    factory: EngineFactory
    journal: Folder
    flush_s: float
    slots: int
    seed: int
    log_dir: str


class Worker:
    """A callable actor class for `map_batches`."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty
        self._name = f"{os.uname().nodename}-{uuid.uuid4().hex[:8]}"
        log = _redirect_output(Path(duty.log_dir), self._name)
        self._slots = asyncio.Semaphore(duty.slots)
        self._journal = Journal(duty.journal, self._name, duty.flush_s)
        self._hopeless: PipelineError | None = None
        try:
            began = time.monotonic()
            self._engine = duty.factory()
            started = {"engine_start_s": round(time.monotonic() - began, 3)}
            write_facts(duty.journal, self._name, {**self._engine.facts, **started})
        except PipelineError as error:
            # Raised here, Ray would only tell that the actor died; the first block tells it in one line.
            logger.exception("The engine does not start")
            self._hopeless = type(error)(f"{error}{_root_cause(log)}. All of it is in {log}")

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Generate every row of the block; returns `STATUS_SCHEMA` when all are journaled."""
        received = time.monotonic()
        try:
            if self._hopeless is not None:
                raise self._hopeless
            rows = await asyncio.gather(*(self._row(row, received) for row in block.to_pylist()))
        except PipelineError as error:
            fatal = {"failed": True, "num_output_tokens": 0, "fatal_kind": type(error).__name__, "fatal": str(error)}
            return pa.Table.from_pylist([fatal], schema=STATUS_SCHEMA)
        statuses = [{"failed": row.error is not None, "num_output_tokens": row.num_output_tokens or 0} for row in rows]
        return pa.Table.from_pylist(statuses, schema=STATUS_SCHEMA)

    async def _row(self, row: dict[str, Any], received: float) -> Completion:
        async with self._slots:
            started = time.monotonic()
            result = await self._generate(row)
            ended = time.monotonic()
        completion = self._completion(row, result, started - received, ended - started)
        try:
            await self._journal.append(completion)
        except OSError as error:
            where = self._duty.journal.root
            raise RunError(
                f"{where} cannot be written: {error.strerror}. Make room and run the same run_id again"
            ) from error
        return completion

    async def _generate(self, row: dict[str, Any]) -> Output | str:
        """Return the output, or why this row has none."""
        request = Request(
            request_id=f"{row['task']}/{row['split']}/{row['id']}/{row['repeat']}/{uuid.uuid4().hex[:8]}",
            messages=row["messages"],
            prompt_token_ids=row["prompt_token_ids"],
            seed=self._duty.seed + row["repeat"],
        )
        try:
            return await self._engine.generate(request)
        except RowError as error:
            return str(error)
        except EngineDead:
            # An exception would only fail this block, and the dead engine would go on to swallow the queue. Without
            # the process Ray makes the actor anew and gives it the rows that it had; a clean exit is not retried.
            logger.exception("The engine is dead; this process ends")
            logging.shutdown()
            os._exit(1)

    def _completion(self, row: dict[str, Any], result: Output | str, queued_s: float, generated_s: float) -> Completion:
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
            attempts=1,
            replica=self._name,
            queued_s=queued_s,
            generated_s=generated_s,
        )


def _whole(text: str | None) -> str | None:
    """Replace halves of surrogate pairs, which a server's JSON may hold and UTF-8 cannot."""
    return None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _redirect_output(folder: Path, name: str) -> Path:
    """Send all that this process and its children print to a file of its own, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return log


def _root_cause(log: Path) -> str:
    """Return the first error that stands in the log: vLLM's processes print there what they do not hand on."""
    sys.stderr.flush()
    found = re.search(r"\b(\w+(?:Error|Exception): .+)", log.read_text(encoding="utf-8", errors="replace"))
    return f": {found[1][:500]}" if found else ""
