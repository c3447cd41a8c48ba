"""Messages between the driver and its replicas, as small files next to the journals.

The driver sends `stop` (start no row, finish those in flight) or `close` (all work is done: end the engine). A replica
sends `ready` (its engine is up), `drained` (nothing is in flight here after `stop`), `gave_up` (its engine does not
start, and why), how many rows it holds back, what has happened to it (events), and what it is doing (its state). Files
work on a disk and in object storage alike, and need no process that could itself be lost. Each session has a directory
of its own: a driver never reads messages of a previous session. A replica is named by its Ray actor's id, which it
keeps when Ray restarts it on another machine.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from pipeline.records import ReplicaEvent, ReplicaState
from pipeline.storage.artifacts import ArtifactStore

POLL_S = 0.25
"""Seconds between two polls for a message."""

IDLE_POLL_S = POLL_S / 5
"""The same where an engine waits for nothing but the message."""

STOP, CLOSE = "stop", "close"

STATE_S = 3.0
"""Seconds between two reports of a replica's state, and between two readings of them."""

_EVENT, _STATE, _START = ".event", ".state", ".start"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a replica gave up: class name and text of a `PipelineError`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Control:
    """One session's directory of messages."""

    store: ArtifactStore

    def send(self, message: str) -> None:
        """Send `stop` or `close` to all replicas."""
        self.store.write_text(message, "")

    def received(self, message: str) -> bool:
        """Return whether the driver has sent the message."""
        return self.store.exists(message)

    def begins(self, replica: str) -> None:
        """Report that the replica's process has started: what a previous process reported no longer holds."""
        self.store.remove(f"{replica}.ready")
        self.store.remove(f"{replica}.gave_up")
        self.holds(replica, 0)

    def num_begun(self) -> int:
        """Return how many replicas have begun."""
        return len(self._senders(".holds"))

    def ready(self, replica: str) -> None:
        """Report that the replica's engine is up."""
        self.store.write_text(f"{replica}.ready", "")
        self.store.write_text(f"{replica}-{time.time_ns()}{_START}", "")

    def starts(self, except_of: str = "") -> set[str]:
        """Return a name for each start of an engine in this session, except of those of one replica."""
        return {name for name in self.store.files(suffix=_START) if name.partition("-")[0] != except_of}

    def report(self, replica: str, event: ReplicaEvent) -> None:
        """Report what has happened to the replica."""
        self.store.write_text(f"{replica}-{time.time_ns()}{_EVENT}", json.dumps(asdict(event)))

    def new_events(self, seen: set[str]) -> list[ReplicaEvent]:
        """Return the events that are not in `seen`, oldest first, and add them to it."""
        names = sorted(set(self.store.files(suffix=_EVENT)) - seen, key=lambda name: name.rpartition("-")[2])
        events = [ReplicaEvent(**json.loads(self.store.read_text(name))) for name in names]
        seen.update(names)
        return events

    def update(self, replica: str, state: ReplicaState) -> None:
        """Report what the replica is doing now."""
        self.store.write_text(f"{replica}{_STATE}", json.dumps(asdict(state)))

    def states(self) -> list[ReplicaState]:
        """Return what each replica reported last."""
        return [ReplicaState(**json.loads(self.store.read_text(name))) for name in self.store.files(suffix=_STATE)]

    def drained(self, replica: str) -> None:
        """Report that the replica has nothing in flight after `stop`."""
        self.store.write_text(f"{replica}.drained", "")

    def all_drained(self) -> bool:
        """Return whether every replica with an engine has drained."""
        return self._senders(".ready") <= self._senders(".drained")

    def _senders(self, suffix: str) -> set[str]:
        return {name.removesuffix(suffix) for name in self.store.files(suffix=suffix)}

    def holds(self, replica: str, num_rows: int) -> None:
        """Report how many rows the replica has received and holds back."""
        self.store.write_text(f"{replica}.holds", str(num_rows))

    def num_held(self) -> int:
        """Return how many rows all replicas hold back."""
        return sum(int(self.store.read_text(name)) for name in self.store.files(suffix=".holds"))

    def gave_up(self, replica: str, given_up: GivenUp) -> None:
        """Report that the replica does not generate, unless it is tried again."""
        self.store.write_text(f"{replica}.gave_up", json.dumps({"kind": given_up.kind, "text": given_up.text}))

    def given_up(self) -> list[GivenUp]:
        """Return the reasons of the replicas that have given up."""
        return [GivenUp(**json.loads(self.store.read_text(name))) for name in self.store.files(suffix=".gave_up")]
