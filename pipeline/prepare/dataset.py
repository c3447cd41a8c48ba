"""Locates a task's data set: resolves `tasks.<t>.dataset` to the files of each split and the data set's revision.

`find_source` takes a `TaskConfig` and returns a `Source`, which prepare/dataset_rows.py reads. A hub data set is first
downloaded as a snapshot of one commit, then treated like a local directory. Code that comes with a data set is neither
downloaded nor executed.
"""

from __future__ import annotations

import glob
import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from pipeline.config.schema import TaskConfig
from pipeline.errors import DataError
from pipeline.storage.hub import fetch

SUFFIXES = (".json", ".jsonl", ".parquet")
HUB_PATTERNS = ["README.md", *(f"*{suffix}" for suffix in SUFFIXES)]
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
LOCAL = re.compile(r"^(~|\.{0,2}/|data/)|[*?\[]|\.(jsonl?|parquet)$")


@dataclass(frozen=True, slots=True)
class Source:
    """A task's files by split (`train`, `test`) and the revision of their content.

    `revision` is the commit of a hub data set, or `sha256:` and the hash of the local files' bytes.
    """

    task: str
    files: Mapping[str, tuple[Path, ...]]
    revision: str


def find_source(name: str, task: TaskConfig, splits: Sequence[str]) -> Source:
    """Return the files that hold the rows of `splits` of the task called `name`.

    Raises:
        DataError: There is no such data set or split, or it cannot be downloaded from the hub; the message names
            `tasks.<name>.dataset`.
    """
    at = f"tasks.{name}.dataset={task.dataset!r}"
    path = Path(task.dataset).expanduser()
    commit: str | None = None
    if not path.exists() and not LOCAL.search(task.dataset):
        path = _hub_directory(at, name, task)
        commit = path.name
    by_name = _files_of_directory(at, path) if path.is_dir() else _files_of_pattern(at, path, task, splits)
    files = {split: _files_of_split(at, by_name, _own_name(task, split), split) for split in splits}
    try:
        return Source(name, files, commit or _digest(files))
    except OSError as error:
        raise DataError(f"{at}: {error.filename} cannot be read: {error.strerror}") from error


def quiet_datasets() -> ModuleType:
    """Import and return `datasets` with its progress bars and its log off; every error that it logs, it also raises."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return cast("ModuleType", datasets)


def _own_name(task: TaskConfig, split: str) -> str:
    return task.train_split if split == "train" else split


def _hub_directory(at: str, name: str, task: TaskConfig) -> Path:
    if not HUB_ID.fullmatch(task.dataset):
        raise DataError(f"{at}: neither a local path that exists nor a hub id like org/name")
    try:
        return fetch(task.dataset, "dataset", task.revision, HUB_PATTERNS)
    except ConnectionError as error:
        revision = f" revision={task.revision!r}" if task.revision else ""
        raise DataError(
            f"{at}{revision}: {error}. Set HF_TOKEN to a token with access, or put a copy of the data set in a "
            f"directory and set tasks.{name}.dataset=<dir>"
        ) from error


def _files_of_directory(at: str, directory: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files by the data set's own split names, as `datasets` infers them from README.md and the layout."""
    datasets = quiet_datasets()
    try:
        with tempfile.TemporaryDirectory() as cache:
            builder = datasets.load_dataset_builder(str(directory), cache_dir=cache)
            return {str(s): tuple(map(Path, files)) for s, files in (builder.config.data_files or {}).items()}
    except Exception as error:  # `datasets` does not wrap the exceptions of its README.md and metadata readers
        raise DataError(
            f"{at}: `datasets` finds no splits in {directory} ({error}). Name the files <split>.jsonl or "
            "<split>.parquet, or give a glob"
        ) from error


def _files_of_pattern(at: str, path: Path, task: TaskConfig, splits: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """Return the files of a path or glob by the split that their names contain as a word, as in agro_test-1.json."""
    found = [path] if path.is_file() else sorted(Path(f) for f in glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [file for file in found if file.is_file()]
    if not files:
        raise DataError(f"{at}: there is no such file or directory (seen from {Path.cwd()})")
    names = {_own_name(task, split).lower() for split in splits}
    words = {file: set(re.split(r"[^a-z0-9]+", file.stem.lower())) for file in files}
    if not any(names & found for found in words.values()):
        examples = ", ".join(file.name for file in files[:5])
        raise DataError(
            f"{at}: no file's name says its split ({examples}): name it after {' or '.join(sorted(names))}, "
            "for instance test.jsonl"
        )
    return {name: tuple(file for file in files if name in words[file]) for name in names}


def _files_of_split(at: str, by_name: Mapping[str, tuple[Path, ...]], own_name: str, split: str) -> tuple[Path, ...]:
    # `datasets` assigns a file called dev.jsonl to its split "validation".
    aliases = (own_name, "validation") if own_name in ("dev", "valid", "val") else (own_name,)
    files = next((by_name[alias] for alias in aliases if by_name.get(alias)), ())
    if not files:
        there = ", ".join(sorted(name for name, found in by_name.items() if found))
        raise DataError(f"{at}: there is no split {own_name!r}, only {there}: add it, or take {split} out of splits")
    for file in files:
        if file.suffix not in SUFFIXES:
            raise DataError(f"{at}: {file} is none of {', '.join(SUFFIXES)}")
    return files


def _digest(files: Mapping[str, tuple[Path, ...]]) -> str:
    """Return the SHA-256 of the splits' bytes; it does not depend on where the files are."""
    whole = hashlib.sha256()
    for split in sorted(files):
        for path in files[split]:
            with path.open("rb") as file:
                whole.update(f"{split} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"
