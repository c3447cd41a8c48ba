"""One replica: the actor that holds an engine, a journal and an attempt log.

In: blocks of a few work rows. Out, for each row: whether it is done, whether it failed, and its number of output
tokens; the completion itself is in the journal before that is reported (row_runner.py). Several blocks are in flight at
once, so that no row waits for a slower one of its block. This module is the replica's life cycle: it starts, holds its
last block back, gives up, ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.errors import PipelineError, RunError, StartError
from pipeline.generate.admission import AdmissionQueue
from pipeline.generate.attempt_log import AttemptLog, RowStatus
from pipeline.generate.control import CLOSE, IDLE_POLL_S, POLL_S, STOP, Control, GivenUp
from pipeline.generate.engines.base import Engine, EngineFactory, TransientStartError
from pipeline.generate.failures import FailureJudge
from pipeline.generate.journal import Journal, read_engine_info, write_engine_info
from pipeline.generate.reports import ENDED, HAS_GIVEN_UP, IMPORTING, ReplicaReports
from pipeline.generate.resumed_server import server_changes
from pipeline.generate.row_runner import RowRunner, WorkRow
from pipeline.generate.storage_proof import StorageProof
from pipeline.records import column
from pipeline.runs.logs import LogFile
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import private_directory
from pipeline.terminal.console import redirect_output

LONGEST_BACKOFF_S = 30.0
"""Longest pause before a crashed engine is restarted."""

START_PAUSES_S = (3.0, 15.0, 45.0, 120.0, 240.0)
"""Pauses before an engine is started another time that did not start for a reason that may pass by itself.

Together they are longer than the hub's window of 300 s for a number of requests.
"""

TRY_AGAIN_AFTER_S = (5.0, 60.0, 300.0)
"""Shortest times from giving up to another try, of as many as there are, once another replica's engine has started."""

LOOK_AGAIN_S = 5.0
"""Seconds between two checks for an engine that has started meanwhile."""

LONGEST_IDLE_S = 20.0
"""Seconds without a row after which a replica ends its engine."""

STATUS_SCHEMA = pa.schema(
    [
        column("done", pa.bool_(), "Whether the row is finished.", nullable=False),
        column("failed", pa.bool_(), "Whether it failed.", nullable=False),
        column("truncated", pa.bool_(), "Whether it was cut at the token limit.", nullable=False),
        column("replica", pa.string(), "Name of the replica.", nullable=False),
        column("num_output_tokens", pa.int64(), "Number of generated tokens.", nullable=False),
        column("expected_tokens", pa.float32(), "`expected_tokens` of the work row."),
        column("part", pa.int64(), "The part of the work: 0 the run, 1 the second pass.", nullable=False),
        column("fatal_kind", pa.string(), "Class of the error that ends the run; null if none does."),
        column("fatal", pa.string(), "Its message."),
    ]
)
"""One row a work row; or a single row with `fatal`, the message of the `PipelineError` that ends the run.

An exception would do, but Ray passes on only its text, and the driver needs its class.
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """Configuration shared by all replicas of a session. Sent to Ray actors, so it must be picklable.

    `journals` are the directories of the parts' journals; `slots` is how many rows are in flight in an engine.
    `earlier` is what engines reported whose rows are published already.
    `ends_when_alike` is whether a replica gives up when its engine crashes alike with different rows. `logs` is the
    run's logs/; `session` identifies this driver's attempt at the run.
    """

    factory: EngineFactory
    journals: Sequence[ArtifactStore]
    earlier: Sequence[EngineInfo] = ()
    control: Control
    proof: StorageProof
    session: str
    flush_s: float
    slots: int
    seed: int
    max_restarts: int
    max_alike_failures: int | None
    ends_when_alike: bool
    logs: ArtifactStore


class Replica:
    """A callable actor class for `map_batches`."""

    def __init__(self, config: ReplicaConfig) -> None:
        import ray

        actor = ray.get_runtime_context().get_actor_id() or uuid.uuid4().hex
        self._config, self._actor = config, actor
        self._name = f"{os.uname().nodename}-{actor[:8]}"
        self._engine: Engine | None = None
        self._given_up: PipelineError | None = None
        self._try_again_at: float | None = None
        self._fatal: PipelineError | None = None
        self._log: LogFile | None = None
        self._num_in_flight = self._num_received = 0  # blocks
        self._num_held = 0  # rows
        self._stopping = self._has_ended = False
        self._idle = threading.Event()
        self._closed = threading.Event()
        self._closing, self._ending = threading.Lock(), threading.Lock()
        try:
            config.proof.require_shared(os.uname().nodename)  # on a host that has joined since
            private = f"pipeline-{config.session}"
            self._log = LogFile(config.logs, f"{self._name}.log", private)
            redirect_output(self._log.path, self._log.name)
            self._attempt_log = AttemptLog(private_directory(private) / actor)
            name = f"{self._name}-{uuid.uuid4().hex[:8]}"
            self._journals = [Journal(store, name, config.flush_s) for store in config.journals]
            self._runner = RowRunner(
                admission=AdmissionQueue(
                    config.slots,
                    unproven=self._attempt_log.is_unproven,
                    is_last_try=self._attempt_log.is_last_try,
                ),
                attempt_log=self._attempt_log,
                journals=self._journals,
                replica=self._name,
                seed=config.seed,
                is_ending=self._is_ending,
                judge=FailureJudge(config.max_alike_failures, self._is_ending),
                end_process=self._end_process,
            )
            config.control.begins(actor)
            # A first try needs any other engine that has started, the next one another since the last try.
            self._known_starts = config.control.starts() if self._attempt_log.num_tries_again else set()
            admission = self._runner.admission
            self._reports = ReplicaReports(
                config.control, config.journals[0], actor, self._name, lambda: admission.num_running
            )
            self._start()
        except PipelineError as error:
            self._fatal = error  # raised here, Ray would report only that the actor ended; the first block reports it
        except OSError as error:
            self._fatal = self._unwritable(error)
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def _is_ending(self) -> bool:
        return self._stopping or self._closed.is_set()

    def _start(self) -> None:
        """Start the engine, or give this replica up: the other replicas continue, and the driver is sent the reason."""
        if self._config.control.received(CLOSE):  # restarted when the pass was at its end: no work is left
            self._closed.set()
            return
        num_crashes = self._attempt_log.num_crashes
        cause = self._attempt_log.last_cause or "its process ended without a message"
        reason = self._reason_to_give_up()
        if reason is not None:
            log = self._log.name if self._log is not None else ""
            self._give_up(RunError(f"{reason}: {cause} ({log}). Fix the cause and run the same run_id again"))
            return
        if num_crashes:
            # It grows with crashes in a row, and starts again once the engine has finished a row.
            backoff_s = min(2.0 ** (max(1, self._attempt_log.num_recent_crashes) - 1), LONGEST_BACKOFF_S)
            logger.warning("Start %d of this replica, after a pause of %.0f s", num_crashes + 1, backoff_s)
            restart = f"restart {num_crashes} of {self._config.max_restarts} in {backoff_s:.0f} s"
            line = f"the engine crashed: {cause}; {restart}"
            self._reports.event("restart", line, cause=cause, restart=num_crashes, pause_s=backoff_s)
            self._reports.begins("waiting before a restart")
            time.sleep(backoff_s)
        else:
            self._reports.event("engine_starting", "the engine is starting")
        started_at = time.monotonic()
        try:
            self._engine = self._started_engine()
            self._compare(self._engine.info)
        except (PipelineError, TransientStartError) as error:
            logger.exception("The engine does not start")
            self._give_up(error.error if isinstance(error, TransientStartError) else error)
            if isinstance(error, (StartError, TransientStartError)):
                self._try_again_later()
            return
        start_s = round(time.monotonic() - started_at, 3)
        info = replace(
            self._engine.info,
            engine_start_s=start_s,
            restarts=num_crashes,
            tries_again=self._attempt_log.num_tries_again or None,
            session=self._config.session,
        )
        self._record(info)
        self._config.control.ready(self._actor)
        self._reports.ready(self._engine)
        self._reports.event(
            "replica_ready", f"ready after {start_s:.0f} s", engine_start_s=start_s, restart=num_crashes
        )

    def _compare(self, info: EngineInfo) -> None:
        """Report what has changed of the server since rows of this run were answered.

        Raises:
            RunError: It serves another model.
        """
        in_journals = (each for store in self._config.journals for each in read_engine_info(store).values())
        for change in server_changes([*self._config.earlier, *in_journals], info, self._config.session):
            self._reports.event("server_changed", change.line, name=change.name, before=change.before, now=change.now)

    def _reason_to_give_up(self) -> str | None:
        """Return why the engine is not started another time, or None."""
        if self._attempt_log.crashes_alike and self._config.ends_when_alike:
            return (
                f"the engine was started {self._attempt_log.num_crashes} times and crashed alike, whichever rows it had"
            )
        if self._attempt_log.num_crashes > self._config.max_restarts:
            return f"engine.max_restarts={self._config.max_restarts}: replica {self._name} crashed again"
        return None

    def _started_engine(self) -> Engine:
        """Start the engine; wait for what may pass by itself, in several pauses.

        Raises:
            PipelineError: It does not start.
            TransientStartError: Neither does it now, after all pauses.
        """
        for number, pause_s in enumerate(START_PAUSES_S, 1):
            self._reports.begins(IMPORTING)
            try:
                return self._config.factory()
            except TransientStartError as error:
                logger.warning("The engine does not start now", exc_info=True)
                retry = f"retry {number} of {len(START_PAUSES_S)} in {pause_s:.0f} s"
                line = f"the engine does not start now: {error}; {retry}"
                self._reports.event("start_failed", line, cause=str(error), retry=number, pause_s=pause_s)
            self._reports.begins("waiting before a retry")
            time.sleep(pause_s)
        self._reports.begins(IMPORTING)
        return self._config.factory()

    def _record(self, info: EngineInfo) -> None:
        for store in self._config.journals:
            write_engine_info(store, self._name, info)

    def _give_up(self, reason: PipelineError) -> None:
        self._given_up = reason
        log = self._attempt_log
        self._record(EngineInfo(gave_up=str(reason), restarts=log.num_crashes, tries_again=log.num_tries_again or None))
        self._reports.ends(HAS_GIVEN_UP)
        self._reports.event("gave_up", f"gave up: {reason}", reason=str(reason))
        self._store_log()
        self._config.control.gave_up(self._actor, GivenUp(type(reason).__name__, str(reason)))

    def _store_log(self, *, last: bool = False) -> None:
        """Copy the log to object storage, where the run is there."""
        if self._log is None:
            return
        try:
            if last:
                self._log.close()
            else:
                self._log.copy()
        except PipelineError:
            logger.exception("%s cannot be stored", self._log.name)

    def _end_process(self) -> None:
        """End this process abnormally, so that Ray starts it again; what has finished and its log are kept."""
        with self._ending:  # every row in flight sees the crash; the first of them ends the process
            for journal in self._journals:  # persists the rows that have finished and wait to be written
                journal.close()
            self._reports.ends("restarting")
            self._store_log()
            logging.shutdown()
            os._exit(1)

    def _try_again_later(self) -> None:
        """Let `_try_again` end this process after a pause, unless that has been done often enough."""
        for pause_s in TRY_AGAIN_AFTER_S[self._attempt_log.num_tries_again :][:1]:
            self._try_again_at = time.monotonic() + pause_s

    def _try_again(self) -> None:
        """End a process that has given up, once another replica's engine has started.

        Ray restarts the actor, which starts its engine, and resubmits the blocks that were held back here.
        """
        if self._try_again_at is None or time.monotonic() < self._try_again_at or self._stopping:
            return
        if not self._config.control.starts(except_of=self._actor) - self._known_starts:
            self._try_again_at = time.monotonic() + LOOK_AGAIN_S
            return
        number = self._attempt_log.num_tries_again + 1
        line = f"its engine is started again, as others have started: try {number} of {len(TRY_AGAIN_AFTER_S)}"
        self._reports.event("tries_again", line, number=number)
        self._attempt_log.try_again()
        self._config.control.holds(self._actor, 0)  # so that the driver waits for the blocks
        self._store_log()
        logging.shutdown()
        os._exit(1)

    async def __call__(self, blocks: pa.Table) -> pa.Table:
        """Generate every row of the block, of which there is one; return their statuses when all are journaled.

        Args:
            blocks: One row, whose column `rows` is the block (`blocks.blocks`).

        Returns:
            A table of `STATUS_SCHEMA`.
        """
        if self._fatal is not None:
            return fatal_status(self._fatal)
        try:
            rows = [WorkRow(**row) for block in blocks.column("rows").to_pylist() for row in block]
            return statuses(rows, await self._block(rows), self._name)
        except PipelineError as error:
            fatal = error
        except OSError as error:
            fatal = self._unwritable(error)
        for journal in self._journals:  # this status ends the run, and other rows may have finished just now
            await journal.flush()
        await asyncio.to_thread(self._store_log)
        return fatal_status(fatal)

    async def _block(self, rows: list[WorkRow]) -> list[RowStatus | None]:
        received_at = time.monotonic()
        if self._given_up is not None:
            await self._hold(len(rows))
            return [None] * len(rows)
        if self._closed.is_set() and not self._config.control.received(CLOSE):
            # Closed while idle, and there is work after all: Ray restarts the actor and resubmits the block.
            self._attempt_log.leave()
            await asyncio.to_thread(self._end_process)
        self._num_in_flight += 1
        self._num_received += 1
        try:
            finished = await asyncio.gather(*(self._runner.generate(row, received_at, self._engine) for row in rows))
        finally:
            self._num_in_flight -= 1
        if not self._num_in_flight:
            await self._hold(len(rows))
        return finished

    def _unwritable(self, error: OSError) -> RunError:
        where = error.filename or self._config.journals[0].shown()
        reason = error.strerror or str(error)
        return RunError(f"{where} cannot be written: {reason}. Free some space and run the same run_id again")

    async def _hold(self, num_rows: int) -> None:
        """Hold a block back: the last one of this replica, or every block of a replica that has given up.

        After the last block Ray Data would release the actor, and Ray would kill the engine before it could shut down
        cleanly; a replica that has given up would swallow the queue of the others. An idle replica lets go after a
        while all the same: rows of a lost machine may be waiting for its GPUs.
        """
        until = time.monotonic() + LONGEST_IDLE_S
        num_received = self._num_received
        self._num_held += num_rows
        self._config.control.holds(self._actor, self._num_held)
        self._idle.set()
        while not (self._closed.is_set() or self._stopping):
            # Blocks received since may be finished as well: if each were held too, soon no block could arrive.
            if self._given_up is None and (self._num_received > num_received or time.monotonic() > until):
                break
            await asyncio.sleep(POLL_S / 10)
        if not self._num_in_flight and self._num_received == num_received:
            self._closed.set()  # on the event loop of the rows, so that none starts on an engine that ends
            await asyncio.to_thread(self._close)
        self._num_held -= num_rows
        # Sent before the rows are reported, so that the driver never counts a row as both held and done.
        self._config.control.holds(self._actor, self._num_held)

    def _listen(self) -> None:
        """Receive what the driver sends, in a thread of its own."""
        drained = False
        while True:
            try:
                if self._config.control.received(CLOSE):
                    break
                self._stopping = self._stopping or self._config.control.received(STOP)
                self._try_again()
                if self._stopping and not drained and not self._num_in_flight:
                    self._store_log()  # the driver ends this process as soon as all have drained
                    self._config.control.drained(self._actor)
                    drained = True
            except (OSError, PipelineError):
                logger.exception("The storage does not answer; looking again")
            # A run waits for the first message after the last row.
            self._idle.clear()
            if self._num_in_flight:
                self._idle.wait(POLL_S)
            else:
                time.sleep(IDLE_POLL_S)
        self._stopping = True
        while self._given_up is None and self._num_in_flight:  # never under a row, whatever the driver has counted
            time.sleep(POLL_S / 10)
        self._closed.set()
        self._close()

    def _close(self) -> None:
        """End the engine, once; rows that arrive later are returned unstarted."""
        with self._closing:
            if self._has_ended:
                return
            self._has_ended = True
            if self._fatal is None:
                self._reports.ends(ENDED)
            if self._engine is not None:
                self._engine.close()
                self._engine = None
            if self._fatal is None:
                for journal in self._journals:
                    journal.close()
                self._store_log(last=True)


def statuses(rows: Sequence[WorkRow], finished: Sequence[RowStatus | None], replica: str) -> pa.Table:
    """Return the status of each row of a block from this replica; None is a row that was not started."""
    columns = [
        {
            "done": status is not None,
            "failed": status is not None and status.failed,
            "truncated": status is not None and status.truncated,
            "replica": replica,
            "num_output_tokens": status.num_output_tokens if status is not None else 0,
            "expected_tokens": row.expected_tokens if status is not None else 0.0,
            "part": row.part,
        }
        for row, status in zip(rows, finished, strict=True)
    ]
    return pa.Table.from_pylist(columns, schema=STATUS_SCHEMA)


def fatal_status(error: PipelineError) -> pa.Table:
    """Return the single status that ends the run with this error."""
    empty = {"done": False, "failed": False, "truncated": False, "replica": "", "num_output_tokens": 0, "part": 0}
    fatal = {"fatal_kind": type(error).__name__, "fatal": str(error)}
    return pa.Table.from_pylist([{**empty, **fatal}], schema=STATUS_SCHEMA)
