"""Words between the driver and its workers, as small files beside the journals.

The driver says `stop` (begin no row, finish those under way) or `close` (all is done: end the engine). A worker says
`ready` (its engine is up), `drained` (nothing is under way here after `stop`), `gave_up` (this replica will not
generate again, and why) and how many rows it holds back. Files do for a disk and for object storage alike, and need no
process that could itself be lost. One folder a session: a driver never reads what an earlier one was told.
A worker is named by its Ray actor's id, which it keeps when it is made anew on another machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.storage.artifacts import ArtifactStore

POLL_S = 0.25
"""Seconds between two looks for a word."""

IDLE_POLL_S = POLL_S / 5
"""The same where an engine has nothing to do but wait for it."""

STOP, CLOSE = "stop", "close"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a replica gave up: kind and text of a `PipelineError`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Control:
    """One session's folder of words."""

    folder: ArtifactStore

    def send(self, message: str) -> None:
        """Say `stop` or `close` to all workers."""
        self.folder.write_text(message, "")

    def received(self, message: str) -> bool:
        """Return whether the driver has said the word."""
        return self.folder.exists(message)

    def begins(self, replica: str) -> None:
        """Say that the worker's process has begun: what an earlier one said of itself no longer holds."""
        self.folder.remove(f"{replica}.ready")
        self.holds(replica, 0)

    def ready(self, replica: str) -> None:
        """Say that the worker's engine is up."""
        self.folder.write_text(f"{replica}.ready", "")

    def drained(self, replica: str) -> None:
        """Say that the worker has nothing under way after `stop`."""
        self.folder.write_text(f"{replica}.drained", "")

    def all_drained(self) -> bool:
        """Return whether every worker with an engine has drained."""
        return self._senders(".ready") <= self._senders(".drained")

    def _senders(self, suffix: str) -> set[str]:
        return {name.removesuffix(suffix) for name in self.folder.files(suffix=suffix)}

    def holds(self, replica: str, num_rows: int) -> None:
        """Say how many rows the worker has been handed and does not report."""
        self.folder.write_text(f"{replica}.holds", str(num_rows))

    def num_held(self) -> int:
        """Return how many rows all workers hold."""
        return sum(int(self.folder.read_text(name)) for name in self.folder.files(suffix=".holds"))

    def gave_up(self, replica: str, given_up: GivenUp) -> None:
        """Say that the worker will not generate again."""
        self.folder.write_text(f"{replica}.gave_up", json.dumps({"kind": given_up.kind, "text": given_up.text}))

    def given_up(self) -> list[GivenUp]:
        """Return what the workers say that have given up."""
        return [GivenUp(**json.loads(self.folder.read_text(name))) for name in self.folder.files(suffix=".gave_up")]
