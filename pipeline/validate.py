"""Check an archive as the leaderboard's server would, before one of the day's ten submissions is spent on it.

python -m pipeline.validate archive=outputs/run=2026-11-21/2026-11-21_submission.zip conf=mera

The archive may be anybody's: this pipeline's, the harness's packer's, or one written by hand. The ids are compared
with the data sets of `conf=`, or with those that a run was asked when `run=<directory>` is given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.cli import command
from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, InvalidArchive
from pipeline.publish.leaderboard.archive import task_files
from pipeline.publish.validation.findings import Finding, first_of
from pipeline.publish.validation.rows import Expected
from pipeline.publish.validation.rules import Report, check
from pipeline.runs import directory as run_directory
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import without_credentials
from pipeline.terminal.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_ARGUMENTS = ("archive", "run")


def main(arguments: list[str]) -> None:
    """Print what there is to say of the archive that `archive=<zip>` names.

    Raises:
        ConfigError: The words do not name one archive and a configuration or a run.
        InvalidArchive: The server would refuse it.
        RunError, DataError: `run=` names no run, or one that is damaged.
    """
    named = {
        name: [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
        for name in OWN_ARGUMENTS
    }
    rest = [argument for argument in arguments if not argument.startswith(tuple(f"{name}=" for name in OWN_ARGUMENTS))]
    if len(named["archive"]) != 1 or not named["archive"][0]:
        raise ConfigError(f"{' '.join(arguments)!r}: give one archive, for instance archive=x_submission.zip conf=mera")
    if len(named["run"]) > 1 or "" in named["run"] or not (named["run"] or rest):
        raise ConfigError(f"{' '.join(arguments)!r}: say which tasks it is for, with conf=<name> or run=<directory>")
    run, config = run_directory.open_finished(named["run"][0]) if named["run"] else (None, None)
    config = compose(rest) if rest or config is None else config
    files = task_files(config)
    ids, unchecked = _ids_of_run(run, files) if run is not None else _ids_of_data_sets(config, files)
    expected = [Expected(task=task, file=file, ids=ids.get(task)) for task, file in files.items()]
    report = _check(named["archive"][0], expected)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for finding in [*report.findings, *unchecked]:
        console.print(str(finding))
    if report.num_refusals:
        raise InvalidArchive(
            f"{without_credentials(named['archive'][0])} would be refused, for "
            f"{counted(report.num_refusals, 'reason')}: mend what the lines that begin with refused: name, and pack "
            "again"
        )
    what = f"{counted(report.num_tasks, 'task')}, {counted(report.num_answers, 'answer')}"
    console.print(f"would be accepted: {what}{', their ids not compared' if unchecked else ''}")


def _check(archive: str, expected: list[Expected]) -> Report:
    """Open the archive, on a disk or in object storage, and check it."""
    place = ArtifactStore.open(archive)  # a URI's query may hold keys, so only the path is printed
    try:
        with place.fs.open_input_file(place.root) as stream:
            return check(place.root.rpartition("/")[2], stream, expected)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"archive={place.root}: cannot be read: {reason}: give a zip file") from error


def _ids_of_run(run: ArtifactStore, files: Mapping[str, str]) -> tuple[dict[str, frozenset[int]], list[Finding]]:
    """Return the test ids that a run was asked; a task that it was not asked has none."""
    from pipeline.publish.leaderboard.answers import question_ids

    found = {task: frozenset(question_ids(run, task)) for task in files}
    unknown = [file for task, file in files.items() if not found[task]]
    return {task: ids for task, ids in found.items() if ids}, _not_compared(
        unknown,
        "the run has no test rows of them: give a run that asked them, or conf= in place of it",
    )


def _ids_of_data_sets(config: Config, files: Mapping[str, str]) -> tuple[dict[str, frozenset[int]], list[Finding]]:
    """Return the data sets' test ids, without those that cannot be had."""
    found: dict[str, frozenset[int]] = {}
    reasons: dict[str, str] = {}
    for task, file in files.items():
        try:
            found[task] = frozenset(_ids_of_data_set(config, task))
        except DataError as error:
            reasons[file] = str(error)
    return found, _not_compared(list(reasons), next(iter(reasons.values()), ""))


def _ids_of_data_set(config: Config, task: str) -> Iterator[int]:
    from pipeline.prepare.dataset import find_source
    from pipeline.prepare.dataset_rows import read_rows
    from pipeline.prepare.question import read_question

    source = find_source(task, config.tasks[task], ["test"])
    for number, row in enumerate(read_rows(source, "test"), start=1):
        yield read_question(task, config.tasks[task], "test", number, row).id


def _not_compared(files: list[str], reason: str) -> list[Finding]:
    """Return one line for all files whose ids were not compared."""
    return [Finding("unchecked", first_of(files), f"the ids were not compared: {reason}")] if files else []


if __name__ == "__main__":
    raise SystemExit(command(main))
