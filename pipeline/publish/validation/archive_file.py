"""Opens an archive, local or in object storage, and checks it against the ids of a run or of the data sets.

In: the archive's path, and the test ids of each task. Out: a `Report`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from pipeline.errors import ConfigError
from pipeline.publish.leaderboard.answers import question_ids
from pipeline.publish.validation.findings import Finding, first_of
from pipeline.publish.validation.rules import Expected, Report, check
from pipeline.storage.artifacts import ArtifactStore


def check_file(path: str, files: Mapping[str, str], ids: Mapping[str, frozenset[int]]) -> Report:
    """Open an archive and check it.

    Args:
        path: Path or URI of the archive.
        files: The name of each task's file in it.
        ids: The test ids of each task; those of a task without an entry are not compared.

    Raises:
        ConfigError: The archive cannot be read.
    """
    expected = [Expected(task=task, file=file, ids=ids.get(task)) for task, file in files.items()]
    place = ArtifactStore.open(path)  # a URI's query may hold credentials, so only the path is printed
    try:
        if place.local is not None and place.local.exists() and not place.local.is_file():
            raise OSError("it is no regular file")  # a FIFO would be waited for without end
        with place.fs.open_input_file(place.root) as stream:
            return check(place.root.rpartition("/")[2], stream, expected)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"archive={place.shown()}: cannot be read: {reason}: give a zip file") from error


def ids_of_run(run: ArtifactStore, files: Mapping[str, str]) -> tuple[dict[str, frozenset[int]], list[Finding]]:
    """Return the test ids of a run by task, and a finding for the tasks without any."""
    found = {task: frozenset(question_ids(run, task)) for task in files}
    reason = "the run has no test rows of them: give a run that has them, or conf= in place of it"
    unknown = [file for task, file in files.items() if not found[task]]
    return {task: ids for task, ids in found.items() if ids}, not_compared(unknown, reason)


def not_compared(files: Sequence[str], reason: str) -> list[Finding]:
    """Return at most one finding, for all files whose ids were not compared."""
    return [Finding("unchecked", first_of(files), f"the ids were not compared: {reason}")] if files else []
