"""One replica: the actor that holds an engine, a journal and a ledger.

In: blocks of a few work rows. Out: for each row whether it is done, whether it failed and how many tokens it took; the
completion itself goes to the journal before that is said (rows.py). Several blocks are under way at once, so that no
row waits for a slower neighbour of its block. Here is the replica's life: it starts, holds its last block back, gives
up, ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import PipelineError, RunError
from pipeline.generate.admission import AdmissionQueue
from pipeline.generate.attempt_log import AttemptLog, RowStatus
from pipeline.generate.control import CLOSE, IDLE_POLL_S, POLL_S, STOP, Control, GivenUp
from pipeline.generate.engines.base import Engine, EngineFactory
from pipeline.generate.journal import Journal, write_engine_info
from pipeline.generate.row_runner import RowRunner
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.console import redirect_output, root_cause

LONGEST_BACKOFF_S = 30.0
"""Longest pause before an engine that has died is started again."""

LONGEST_IDLE_S = 20.0
"""Seconds without a row after which a replica ends its engine."""

STATUS_SCHEMA = pa.schema(
    [
        pa.field("done", pa.bool_(), nullable=False),
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
class ReplicaConfig:
    """What every worker of a session is told. Sent to the actors, so it pickles.

    `slots` rows are in flight in an engine. `log_dir` is a directory of the replica's own machine; `session` names this
    driver's attempt at the run.
    """

    factory: EngineFactory
    journal: ArtifactStore
    control: Control
    session: str
    flush_s: float
    slots: int
    seed: int
    max_restarts: int
    log_dir: str


class Replica:
    """A callable actor class for `map_batches`."""

    def __init__(self, config: ReplicaConfig) -> None:
        import ray

        actor = ray.get_runtime_context().get_actor_id() or uuid.uuid4().hex
        self._config, self._actor = config, actor
        self._name = f"{os.uname().nodename}-{actor[:8]}"
        self._engine: Engine | None = None
        self._given_up: PipelineError | None = None
        self._fatal: PipelineError | None = None
        self._num_blocks = self._num_taken = self._num_held = 0
        self._stopping = self._has_ended = False
        self._idle = threading.Event()
        self._closed = threading.Event()
        self._closing = threading.Lock()
        try:
            self._log = Path(config.log_dir) / f"{self._name}.log"
            redirect_output(self._log)
            self._attempt_log = AttemptLog(Path(tempfile.gettempdir()) / f"pipeline-{config.session}" / actor)
            self._journal = Journal(config.journal, f"{self._name}-{uuid.uuid4().hex[:8]}", config.flush_s)
            self._runner = RowRunner(
                admission=AdmissionQueue(config.slots),
                attempt_log=self._attempt_log,
                journal=self._journal,
                replica=self._name,
                seed=config.seed,
                is_ending=lambda: self._stopping or self._closed.is_set(),
            )
            config.control.begins(actor)
            self._start()
        except PipelineError as error:
            self._fatal = error  # raised here, Ray would only tell that the actor died; the first block tells it
        except OSError as error:
            self._fatal = self._unwritable(error)
        threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def _start(self) -> None:
        """Start the engine, or give this replica up: the others go on, and the driver hears why."""
        if self._config.control.received(CLOSE):  # made anew when the pass was at its end: nothing is left to do
            self._closed.set()
            return
        num_crashes = self._attempt_log.num_crashes
        if num_crashes > self._config.max_restarts:
            self._give_up(RunError(f"engine.max_restarts={self._config.max_restarts}: replica {self._name} died again"))
            return
        if num_crashes:
            backoff_s = min(2.0 ** (num_crashes - 1), LONGEST_BACKOFF_S)
            logger.warning("Start %d of this replica, after a pause of %.0f s", num_crashes + 1, backoff_s)
            time.sleep(backoff_s)
        began = time.monotonic()
        try:
            self._engine = self._config.factory()
        except PipelineError as error:
            cause = root_cause(self._log)
            logger.exception("The engine does not start")
            self._give_up(type(error)(f"{error}{cause}"))
            return
        start_s = round(time.monotonic() - began, 3)
        info = replace(self._engine.info, engine_start_s=start_s, restarts=num_crashes, session=self._config.session)
        write_engine_info(self._config.journal, self._name, info)
        self._config.control.ready(self._actor)

    def _give_up(self, reason: PipelineError) -> None:
        self._given_up = reason
        write_engine_info(
            self._config.journal, self._name, EngineInfo(gave_up=str(reason), restarts=self._attempt_log.num_crashes)
        )
        self._config.control.gave_up(self._actor, GivenUp(type(reason).__name__, str(reason)))

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Generate every row of the block; returns `STATUS_SCHEMA` when all are journaled."""
        try:
            return statuses(await self._block(block.to_pylist()))
        except PipelineError as error:
            fatal = error
        except OSError as error:
            fatal = self._unwritable(error)
        if self._fatal is None:
            await self._journal.flush()  # the run ends with this word, and others may have finished just now
        return fatal_status(fatal)

    async def _block(self, rows: list[dict[str, Any]]) -> list[RowStatus | None]:
        received = time.monotonic()
        if self._fatal is not None:
            raise self._fatal
        if self._given_up is not None:
            await self._hold(len(rows))
            return [None] * len(rows)
        if self._closed.is_set() and not self._config.control.received(CLOSE):
            # Closed because it was idle, and there is work after all: Ray makes the actor anew and asks it again.
            self._attempt_log.leave()
            os._exit(1)
        self._num_blocks += 1
        self._num_taken += 1
        try:
            row_statuses = await asyncio.gather(*(self._runner.generate(row, received, self._engine) for row in rows))
        finally:
            self._num_blocks -= 1
        if not self._num_blocks:
            await self._hold(len(rows))
        return row_statuses

    def _unwritable(self, error: OSError) -> RunError:
        where = error.filename or self._config.journal.root
        reason = error.strerror or str(error)
        return RunError(f"{where} cannot be written: {reason}. Make room and run the same run_id again")

    async def _hold(self, num_rows: int) -> None:
        """Keep a block back: the last one of this replica, or all that come to one that has given up.

        With the last block Ray Data would drop the actor, and Ray would kill the engine under it before it could end in
        good order; and a replica that has given up would swallow the queue of the others. An idle replica lets go after
        a while all the same: its GPUs may be what rows of a lost machine are waiting for.
        """
        until = time.monotonic() + LONGEST_IDLE_S
        num_taken = self._num_taken
        self._num_held += num_rows
        self._config.control.holds(self._actor, self._num_held)
        self._idle.set()
        while not (self._closed.is_set() or self._stopping):
            # What has come since may be gone as well: were it held beside this one, soon nothing more could come.
            if self._given_up is None and (self._num_taken > num_taken or time.monotonic() > until):
                break
            await asyncio.sleep(POLL_S / 10)
        if not self._num_blocks and self._num_taken == num_taken:
            self._closed.set()  # here, on the loop of the rows: none begins under an engine that ends
            await asyncio.to_thread(self._close)
        self._num_held -= num_rows
        # Said before the rows are reported, so that the driver never counts a row as both held and done.
        self._config.control.holds(self._actor, self._num_held)

    def _listen(self) -> None:
        """Hear what the driver says, in a thread of its own."""
        drained = False
        while True:
            try:
                if self._config.control.received(CLOSE):
                    break
                self._stopping = self._stopping or self._config.control.received(STOP)
                if self._stopping and not drained and not self._num_blocks:
                    self._config.control.drained(self._actor)
                    drained = True
            except (OSError, PipelineError):
                logger.exception("The storage does not answer; looking again")
            # The first word after the last row is what a run waits for.
            self._idle.clear()
            if self._num_blocks:
                self._idle.wait(POLL_S)
            else:
                time.sleep(IDLE_POLL_S)
        self._stopping = True
        while self._given_up is None and self._num_blocks:  # never under a row, whatever the driver has counted
            time.sleep(POLL_S / 10)
        self._closed.set()
        self._close()

    def _close(self) -> None:
        """End the engine, once; rows that come later are handed back."""
        with self._closing:
            if self._has_ended:
                return
            self._has_ended = True
            if self._engine is not None:
                self._engine.close()
                self._engine = None
            if self._fatal is None:
                self._journal.close()


def statuses(rows: Sequence[RowStatus | None]) -> pa.Table:
    """Return the status of each row of a block; None is a row that was not begun."""
    found = [
        {
            "done": row is not None,
            "failed": row is not None and row.failed,
            "num_output_tokens": row.num_output_tokens if row is not None else 0,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(found, schema=STATUS_SCHEMA)


def fatal_status(error: PipelineError) -> pa.Table:
    """Return the one status that ends the run with this error."""
    empty = {"done": False, "failed": False, "num_output_tokens": 0}
    fatal = {"fatal_kind": type(error).__name__, "fatal": str(error)}
    return pa.Table.from_pylist([{**empty, **fatal}], schema=STATUS_SCHEMA)
