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

from pipeline import rundir
from pipeline.cli import command
from pipeline.compose import compose
from pipeline.config import Config
from pipeline.directory import shown
from pipeline.errors import ConfigError, DataError, InvalidArchive
from pipeline.publish.check import Report, check
from pipeline.publish.findings import Finding, counted, listed
from pipeline.publish.rows import Expected
from pipeline.publish.submission import task_files
from pipeline.store import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = ("archive", "run")


def main(words: list[str]) -> None:
    """Print what there is to say of the archive that `archive=<zip>` names.

    Raises:
        ConfigError: The words do not name one archive and a configuration or a run.
        InvalidArchive: The server would refuse it.
        RunError, DataError: `run=` names no run, or one that is damaged.
    """
    given = {name: [word.partition("=")[2] for word in words if word.startswith(f"{name}=")] for name in OURS}
    rest = [word for word in words if not word.startswith(tuple(f"{name}=" for name in OURS))]
    if len(given["archive"]) != 1 or not given["archive"][0]:
        raise ConfigError(f"{' '.join(words)!r}: give one archive, for instance archive=x_submission.zip conf=mera")
    if len(given["run"]) > 1 or "" in given["run"] or not (given["run"] or rest):
        raise ConfigError(f"{' '.join(words)!r}: say which tasks it is for, with conf=<name> or run=<directory>")
    run, config = rundir.open_finished(given["run"][0]) if given["run"] else (None, None)
    config = compose(rest) if rest or config is None else config
    files = task_files(config)
    ids, unchecked = _ids_of_run(run, files) if run is not None else _ids_of_data_sets(config, files)
    expected = [Expected(task=task, file=file, ids=ids.get(task)) for task, file in files.items()]
    report = _check(given["archive"][0], expected)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for finding in [*report.findings, *unchecked]:
        console.print(str(finding))
    if report.num_refusals:
        reasons = "1 reason" if report.num_refusals == 1 else f"{report.num_refusals} reasons"
        raise InvalidArchive(
            f"{shown(given['archive'][0])} would be refused, for {reasons}: mend what the lines "
            "that begin with refused: name, and pack again"
        )
    what = f"{counted(report.num_tasks, 'task')}, {counted(report.num_answers, 'answer')}"
    console.print(f"would be accepted: {what}{', their ids not compared' if unchecked else ''}")


def _check(archive: str, expected: list[Expected]) -> Report:
    """Open the archive, on a disk or in object storage, and check it."""
    place = Folder.open(archive)  # a URI's query may hold keys, so only the path is printed
    try:
        with place.fs.open_input_file(place.root) as stream:
            return check(place.root.rpartition("/")[2], stream, expected)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"archive={place.root}: cannot be read: {reason}: give a zip file") from error


def _ids_of_run(run: Folder, files: Mapping[str, str]) -> tuple[dict[str, frozenset[int]], list[Finding]]:
    """Return the test ids that a run was asked; a task that it was not asked has none."""
    from pipeline.publish.answers import asked_ids  # DuckDB comes after what the user may have got wrong

    found = {task: frozenset(asked_ids(run, task)) for task in files}
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
    from pipeline.prepare.load import find_source
    from pipeline.prepare.read import read_rows
    from pipeline.prepare.tasks import read_question

    source = find_source(task, config.tasks[task], ["test"])
    for number, row in enumerate(read_rows(source, "test"), start=1):
        yield read_question(task, config.tasks[task], "test", number, row).id


def _not_compared(files: list[str], reason: str) -> list[Finding]:
    """Return one line for all files whose ids were not compared."""
    return [Finding("unchecked", listed(files), f"the ids were not compared: {reason}")] if files else []


if __name__ == "__main__":
    raise SystemExit(command(main))
