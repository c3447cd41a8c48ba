"""The leaderboard's archive, `<run_id>_submission.zip`: a run's test answers in, one zip in the server's layout out.

    ruTXTAgroBench.json      {"data": {"test": [{"outputs": "B", "meta": {"id": 1}}, ...]}}, one file per task
    logs_public.zip          results_<stamp>.json and samples_<task>_<stamp>.jsonl, see harness_logs.py

`submission.mode` selects what is submitted: `reference` submits the unchanged response, like the reference submission;
`extracted` submits the letters extracted from it, in `<run_id>_extracted_submission.zip`. If no letters could be
extracted, `extracted` submits the response too: an empty text would match the gold `A` without being an answer of the
model. Nothing is written unless every test id of every task has a response. The same run gives the same bytes. Usage:
`python -m pipeline.pack run=outputs/run=<run_id>`
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import get_args
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from pipeline.config.harness_arguments import harness_arguments
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, RunError, UserError
from pipeline.publish.leaderboard.answers import (
    Answer,
    Artifacts,
    KeyCounts,
    Mode,
    answers,
    count_test_ids,
    num_questions,
)
from pipeline.publish.leaderboard.harness_logs import TaskLog, results, stamp, started_at
from pipeline.runs.manifest import ArchiveRecord, Manifest
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import listed

LOGS = "logs_public.zip"

_REGULAR_FILE = 0o100644 << 16
_UNIX = 3


def archive_name(config: Config) -> str:
    """Return the file name of the archive in the run's directory; each mode has its own."""
    mode = "" if config.submission.mode == "reference" else f"_{config.submission.mode}"
    return f"{config.run_id}{mode}_submission.zip"


def archive_names(config: Config) -> list[str]:
    """Return the file names of the archives of all modes."""
    modes = get_args(Mode)
    return [archive_name(replace(config, submission=replace(config.submission, mode=mode))) for mode in modes]


def task_files(config: Config) -> dict[str, str]:
    """Return the file name in the archive of each task.

    Raises:
        ConfigError: A task has no submission_name, or two have the same.
    """
    names = {task: settings.submission_name for task, settings in config.active_tasks.items()}
    for task, name in names.items():
        at = f"tasks.{task}.submission_name={name!r}"
        if not name:
            raise ConfigError(f"{at}: give the name of the task's file in the leaderboard's archive, without .json")
        if Counter(names.values())[name] > 1:
            raise ConfigError(f"{at}: another task has the same: give each task the name of its own file")
    return {task: f"{name}.json" for task, name in names.items()}


def reason_not_packable(run: ArtifactStore, config: Config) -> UserError | None:
    """Return the reason why no archive can be made that the server accepts, or None if one can.

    Raises:
        DataError: The run has no samples, or they are damaged.
    """
    try:
        task_files(config)
    except ConfigError as error:
        return error
    if config.limit is not None:
        return RunError(
            f"limit={config.limit} cuts the test split, and the server refuses a task with a missing id: "
            "run without a limit"
        )
    if "test" not in config.splits:
        return RunError(f"splits=[{', '.join(config.splits)}] has no test split: there is nothing to submit")
    left_out = [task for task, settings in config.tasks.items() if task not in config.active_tasks]
    left_out = [task for task in left_out if not config.tasks[task].announced]
    if left_out:
        return RunError(
            f"only=[{', '.join(config.only)}] leaves out {', '.join(left_out)}, and the server refuses an archive "
            "without them: run all tasks"
        )
    with query.connection() as database:
        found = {counts.task: counts for counts in count_test_ids(database, Artifacts.open(run))}
    lacking = [_missing_answers(task, found.get(task)) for task in config.active_tasks]
    if not any(lacking):
        return None
    return RunError(
        f"the server refuses a task with a missing id: {'; '.join(filter(None, lacking))}. "
        f"The reasons are in the column error of {run.shown('samples')}"
    )


def pack(run: ArtifactStore, config: Config, manifest: Manifest) -> ArchiveRecord:
    """Write the archive into the run's directory, atomically.

    Args:
        run: The directory of a scored run.
        config: Its configuration; `submission.mode` selects what is submitted.
        manifest: Its manifest; its start time and versions go into the logs.

    Raises:
        UserError: The archive would be incomplete; see `reason_not_packable`.
        RunError: The directory cannot be written.
    """
    reason = reason_not_packable(run, config)
    if reason is not None:
        raise reason
    artifacts, logs = Artifacts.open(run), dict[str, TaskLog]()
    with run.replacing(archive_name(config)) as path, query.connection() as database:
        inner = path.with_name(LOGS)
        with ZipFile(path, "w") as archive:
            with ZipFile(inner, "w") as log_archive:
                for task, name in task_files(config).items():
                    log = logs[task] = TaskLog(config.submission.mode, harness_arguments(config.generation))
                    submitted, logged = path.with_name("submitted.json"), path.with_name("logged.jsonl")
                    _write_task(answers(database, artifacts, task), log, submitted, logged)
                    _require_all(task, log.num_answers, num_questions(artifacts, task))
                    _add(archive, submitted, name, manifest)
                    _add(log_archive, logged, f"samples_{task}_{stamp(manifest)}.jsonl", manifest)
                summary = path.with_name("results.json")
                summary.write_text(results(config, manifest, logs), encoding="utf-8")
                _add(log_archive, summary, f"results_{stamp(manifest)}.json", manifest)
            _add(archive, inner, LOGS, manifest, method=ZIP_STORED)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ArchiveRecord(
        file=archive_name(config),
        mode=config.submission.mode,
        num_tasks=len(logs),
        num_answers=sum(log.num_answers for log in logs.values()),
        num_extracted=sum(log.num_extracted for log in logs.values()),
        sha256=digest,
    )


def _write_task(rows: Iterable[Answer], log: TaskLog, submitted: Path, logged: Path) -> None:
    """Write a task's submission and its log, row by row; the submission equals the output of `json.dump(indent=4)`."""
    with (
        submitted.open("w", encoding="utf-8", newline="\n") as answers_file,
        logged.open("w", encoding="utf-8", newline="\n") as log_file,
    ):
        answers_file.write('{\n    "data": {\n        "test": [')
        before = "\n"
        for row in rows:
            item = {"outputs": row.outputs(log.mode), "meta": {"id": row.id}}
            text = json.dumps(item, ensure_ascii=False, indent=4)  # a line break in a value is written \\n
            answers_file.write(f"{before}{text}".replace("\n", f"\n{' ' * 12}"))
            log_file.write(log.line(row))
            before = ",\n"
        answers_file.write("\n        ]\n    }\n}")


def _require_all(task: str, num_answers: int, num_questions: int) -> None:
    """Raise RuntimeError if the join has lost rows."""
    if num_answers != num_questions:
        raise RuntimeError(f"{task}: {num_answers} answers were packed for {num_questions} questions")


def _add(archive: ZipFile, path: Path, name: str, manifest: Manifest, *, method: int = ZIP_DEFLATED) -> None:
    """Move a file into a zip, with metadata that is the same each time the archive is made."""
    member = ZipInfo(name, date_time=_zip_time(started_at(manifest)))
    member.compress_type, member.external_attr, member.create_system = method, _REGULAR_FILE, _UNIX
    member.file_size = path.stat().st_size  # zipfile decides by it whether the member needs Zip64
    with path.open("rb") as source, archive.open(member, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    path.unlink()


def _missing_answers(task: str, counts: KeyCounts | None) -> str | None:
    """Return a line about the missing and failed ids of a task, or None if every id has a response."""
    if counts is None:
        return f"{task} has no test rows in this run"
    if counts.is_whole:
        return None
    parts = [
        f"{num:,} of {counts.num_questions:,} test ids {what} ({listed(ids or [], num)})"
        for num, ids, what in (
            (counts.num_missing, counts.missing, "are missing"),
            (counts.num_failed, counts.failed, "failed"),
        )
        if num
    ]
    return f"{task}: {' and '.join(parts)}"


def _zip_time(time: datetime) -> tuple[int, int, int, int, int, int]:
    """Return a time as a zip can hold it, from 1980 to 2107: a host's clock may be wrong."""
    if not 1980 <= time.year <= 2107:
        return (1980, 1, 1, 0, 0, 0)
    return (time.year, time.month, time.day, time.hour, time.minute, time.second)
