"""What a replica reports about itself: to the driver events and its state, into the run its engine's counters.

In: the calls of the replica at each step of its life, what its engine logs while it starts, and the engine's counters.
Out: messages (control.py), read by the driver for the terminal and logs/events.jsonl, and fields of `EngineInfo`. The
state is repeated by a thread of its own, so that it changes while a start blocks everything else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from pipeline.errors import PipelineError
from pipeline.generate import journal
from pipeline.generate.control import STATE_S, Control
from pipeline.generate.engines.base import Engine, EngineStats
from pipeline.generate.engines.vllm_start import start_phase
from pipeline.records import ReplicaEvent, ReplicaEventKind, ReplicaState
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.console import LogPosition

IMPORTING = "importing the engine"
"""What a start is at until the engine's log shows more: its libraries take seconds to import."""

ENDED, HAS_GIVEN_UP = "done", "gave up"
"""Phases of a replica that will not generate again."""

RECORD_S = 30.0
"""Seconds between two records of the engine's counters: so much is lost of them when the process is killed."""

logger = logging.getLogger(__name__)


class ReplicaReports:
    """Reports what one process of a replica does. An error of the storage is logged and ends nothing."""

    def __init__(
        self,
        control: Control,
        journals: ArtifactStore,
        actor: str,
        name: str,
        num_in_flight: Callable[[], int] = lambda: 0,
    ) -> None:
        self._control, self._journals, self._actor, self._name = control, journals, actor, name
        self._num_in_flight = num_in_flight
        self._engine: Engine | None = None
        self._phase: str | None = IMPORTING
        self._log = LogPosition.now()
        self._since = self._recorded_at = time.monotonic()
        self._counted_before = journal.engine_info_of(journals, name)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._repeat, name="reports", daemon=True)
        self._thread.start()

    def event(
        self,
        kind: ReplicaEventKind,
        line: str,
        **details: str | float | None,
    ) -> None:
        """Report what has happened; `line` is for the terminal."""
        event = ReplicaEvent(kind=kind, replica=self._name, line=f"replica {self._name}: {line}", details=details)
        try:
            self._control.report(self._actor, event)
        except (OSError, PipelineError):
            logger.exception("An event cannot be reported: %s", line)

    def begins(self, phase: str) -> None:
        """Report what the start is at from now on, until the engine's log shows more."""
        self._phase, self._since, self._log = phase, time.monotonic(), LogPosition.now()
        self._send()

    def ready(self, engine: Engine) -> None:
        """Report that the engine is up, and its counters from now on."""
        self._phase, self._engine = None, engine
        self._send()

    def ends(self, phase: str) -> None:
        """Report that the replica will not generate again, and record its engine's last counters."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self._record()
        self._phase, self._engine = phase, None
        self._send()

    def _repeat(self) -> None:
        while not self._over.wait(STATE_S):
            self._send()
            if time.monotonic() - self._recorded_at > RECORD_S:
                self._record()

    def _send(self) -> None:
        with self._lock:
            try:
                if not self._control.store.exists():  # the run is complete, and must not get a new journal/
                    self._over.set()
                    return
                self._control.update(self._actor, self._state())
            except (OSError, PipelineError):
                logger.exception("The replica's state cannot be reported")

    def _state(self) -> ReplicaState:
        if self._engine is not None:
            stats = self._engine.stats
            return ReplicaState(
                replica=self._name,
                num_in_flight=self._num_in_flight(),
                num_running=stats.num_running,
                num_waiting=stats.num_waiting,
                num_output_tokens=stats.num_output_tokens,
                num_preemptions=stats.num_preemptions,
                kv_cache_usage=stats.kv_cache_usage,
                phase_s=round(time.monotonic() - self._since, 1),  # without it an idle engine's state would not change
            )
        found = start_phase(self._log.text()) if not self._over.is_set() else None
        if found is not None and found.name != self._phase:
            self._phase, self._since = found.name, time.monotonic()
        return ReplicaState(
            replica=self._name,
            phase=self._phase,
            percent=found.percent if found is not None else None,
            phase_s=round(time.monotonic() - self._since, 1),
            is_final=self._over.is_set(),
        )

    def _record(self) -> None:
        """Record the engine's counters, with those of the replica's earlier processes."""
        self._recorded_at = time.monotonic()
        if self._engine is None:
            return
        info = counted(self._counted_before, self._engine.stats)
        try:
            journal.write_engine_info(self._journals, self._name, info)
        except (OSError, PipelineError):
            logger.exception("The engine's counters cannot be recorded")


def counted(before: EngineInfo, stats: EngineStats) -> EngineInfo:
    """Return the counters to record of a replica: sums and peaks over its earlier processes and this one's engine.

    A counter that this engine does not report is unknown.
    """

    def total(earlier: int | None, now: int | None) -> int | None:
        return None if now is None else (earlier or 0) + now

    def peak(earlier: int | None, now: int | None) -> int | None:
        return None if now is None else max(earlier or 0, now)

    usage = stats.peak_kv_cache_usage
    names = {*filter(None, (before.answered_by or "").split(", ")), *stats.answered_by}
    return EngineInfo(
        answered_by=", ".join(sorted(names)) or None,
        num_preemptions=total(before.num_preemptions, stats.num_preemptions),
        num_preempted_rows=total(before.num_preempted_rows, stats.num_preempted_rows),
        peak_running=peak(before.peak_running, stats.peak_running),
        peak_waiting=peak(before.peak_waiting, stats.peak_waiting),
        peak_kv_cache_usage=None if usage is None else round(max(before.peak_kv_cache_usage or 0.0, usage), 4),
    )
