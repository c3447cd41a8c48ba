"""A part of a session's rows: those of the run, or those of its second pass.

Each part has a directory with prompts, a work list, journals and completions of its own; the second pass's is laid out
like a run's. All parts of a session are generated in the same engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.generate import compaction, journal, work_list
from pipeline.generate.length_estimates import Lengths
from pipeline.generate.work_list import Work
from pipeline.records import PROMPT_SCHEMA
from pipeline.runs.manifest import CompletionMetadata, Schedule, dump
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.storage.repeats import Repeats, count_rows


@dataclass(slots=True, kw_only=True)
class Part:
    """The rows of one directory that are not finished; made with its work list.

    `repeats` is the number of completions a question. The rows are ordered by `lengths`, or `is_shuffled`. `on_done` is
    called when the last row has finished, at once if none is left.
    """

    run: ArtifactStore
    repeats: Repeats
    lengths: Lengths | None = None
    is_shuffled: bool = False
    on_done: Callable[[], None] = lambda: None
    prompts: Artifact = field(init=False)
    journals: ArtifactStore = field(init=False)
    work: Work = field(init=False)
    num_left: int = field(init=False)
    _schedule: Schedule = field(init=False)
    _previous_journals: frozenset[str] = field(init=False)
    _is_done: bool = False

    def __post_init__(self) -> None:
        self.prompts = self.run.require_artifact("prompts", PROMPT_SCHEMA)
        self.journals = self.run.child(journal.DIRECTORY)
        # Rows that failed in a previous session are retried once: the cause may be gone.
        self._previous_journals = frozenset(self.journals.files(suffix=journal.SUFFIX))
        self.list_work()
        self._schedule = self.work.schedule

    @property
    def num_rows(self) -> int:
        """Rows of the part, finished or not."""
        return count_rows(self.prompts, self.repeats)

    def list_work(self) -> None:
        """Write the work list of the rows that are not in the journals."""
        finished = journal.read(self.journals, without_errors_of=self._previous_journals)
        self.work = work_list.write_work(
            self.run, self.prompts, finished, self.repeats, self.lengths, shuffled=self.is_shuffled
        )
        self._set_left(self.work.num_rows)

    def count(self, num_done: int) -> None:
        """Count rows that have finished."""
        self._set_left(self.num_left - num_done)

    def _set_left(self, num_rows: int) -> None:
        self.num_left = num_rows
        if not num_rows and not self._is_done:
            self._is_done = True
            self.on_done()

    def commit(self) -> CompletionMetadata:
        """Publish the completions; return what is recorded with them. The journals stay.

        Raises:
            RunError: The run's directory or the temporary one is full.
            RuntimeError: A row is missing.
        """
        metadata = CompletionMetadata(schedule=self._schedule, engine=journal.read_engine_info(self.journals))
        compaction.commit(self.run, self.prompts, self.repeats, dump(metadata))
        return metadata
