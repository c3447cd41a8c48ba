"""Words between the driver and its workers, as small files beside the journals.

The driver says `stop` (begin no row, finish those under way) and `release` (hand back what you hold). A worker says
`drained` (nothing is under way here any more) and `gave_up` (this replica will not generate again, and why). Files do
for a disk and for object storage alike, and need no process that could itself be lost. One folder a session: a driver
never reads what an earlier one was told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.store import Folder

POLL_S = 0.5
"""Seconds between two looks for a word."""

STOP, RELEASE = "stop", "release"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a replica gave up, as kind and text of a `PipelineError`, and how many rows it was handed and holds."""

    kind: str
    text: str
    num_held: int


@dataclass(frozen=True, slots=True)
class Control:
    """One session's folder of words."""

    folder: Folder

    def say(self, word: str) -> None:
        """Say `stop` or `release` to all workers."""
        self.folder.write_text(word, "")

    def said(self, word: str) -> bool:
        """Return whether the driver has said the word."""
        return self.folder.exists(word)

    def drained(self, worker: str) -> None:
        """Say that the worker has nothing under way after `stop`."""
        self.folder.write_text(f"{worker}.drained", "")

    def num_drained(self) -> int:
        """Return how many workers have drained."""
        return len(self.folder.files(suffix=".drained"))

    def ready(self, worker: str) -> None:
        """Say that the worker's engine is up."""
        self.folder.write_text(f"{worker}.ready", "")

    def num_ready(self) -> int:
        """Return how many workers have an engine."""
        return len(self.folder.files(suffix=".ready"))

    def gave_up(self, worker: str, given_up: GivenUp) -> None:
        """Say that the worker will not generate again."""
        word = {"kind": given_up.kind, "text": given_up.text, "num_held": given_up.num_held}
        self.folder.write_text(f"{worker}.gave_up", json.dumps(word))

    def given_up(self) -> list[GivenUp]:
        """Return what the workers say that have given up."""
        words = (json.loads(self.folder.read_text(name)) for name in self.folder.files(suffix=".gave_up"))
        return [GivenUp(word["kind"], word["text"], word["num_held"]) for word in words]
