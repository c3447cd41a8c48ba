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

import yaml

from pipeline.config.paths import expanded
from pipeline.config.schema import Config, TaskConfig
from pipeline.errors import DataError
from pipeline.storage.hub import fetch, with_fix
from pipeline.terminal.text import one_line

SUFFIXES = (".json", ".jsonl", ".parquet")
HUB_PATTERNS = ["README.md", *(f"*{suffix}" for suffix in SUFFIXES)]
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SPLIT_WORDS = ("train", "test", "validation", "valid", "val", "dev")
MAX_README_BYTES = 1 << 20
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
    path = expanded(task.dataset)
    commit: str | None = None
    if not path.exists() and not LOCAL.search(task.dataset):
        path = _hub_directory(at, name, task)
        commit = path.name
    by_name = _files_of_directory(at, path) if path.is_dir() else _files_of_pattern(at, path, task, splits)
    files = {split: _files_of_split(at, path, by_name, _own_name(task, split), split) for split in splits}
    try:
        return Source(name, files, commit or _digest(files))
    except OSError as error:
        raise DataError(f"{at}: {error.filename} cannot be read: {error.strerror}") from error


def require_unchanged(config: Config, revisions: Mapping[str, str]) -> list[str]:
    """Compare local data sets with those that a run's prompts were made from.

    Args:
        config: The run's configuration.
        revisions: What was recorded with the prompts, by task. The commit of a hub data set is not compared: the hub
            may have a newer one since.

    Returns:
        A line for each data set that cannot be read: its prompts are on disk, so that the run can continue.

    Raises:
        DataError: A data set holds other rows.
    """
    lines = []
    for name, task in config.active_tasks.items():
        then = revisions.get(name, "")
        if not then.startswith("sha256:"):
            continue
        try:
            now = find_source(name, task, config.splits).revision
        except DataError as error:
            lines.append(f"prompts are not compared with their data set: {error}")
            continue
        if now != then:
            raise DataError(
                f"tasks.{name}.dataset={task.dataset!r} holds other rows than the prompts of run_id={config.run_id!r} "
                "were made from: give those, choose another run_id, or run.restart=true"
            )
    return lines


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
        copy = f"put a copy of the data set (train.jsonl, test.jsonl) in a directory and set tasks.{name}.dataset=<dir>"
        raise DataError(f"{at}{revision}: {with_fix(error, copy)}") from error


def _files_of_directory(at: str, directory: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files by the data set's own split names, as `datasets` infers them from README.md and the layout."""
    declares = _check_readme(at, directory)
    has_script = next(directory.glob("*.py"), None) is not None
    if not declares and (has_script or glob.has_magic(str(directory))):  # `datasets` refuses both
        return _files_of_names(at, directory)
    datasets = quiet_datasets()
    try:
        with tempfile.TemporaryDirectory() as cache:
            builder = datasets.load_dataset_builder(str(directory), cache_dir=cache)
            found = {str(s): tuple(map(Path, files)) for s, files in (builder.config.data_files or {}).items()}
    except Exception as error:  # `datasets` does not wrap the exceptions of its README.md and metadata readers
        by_name = {} if declares else _files_of_names(at, directory)  # such as files of several formats
        if by_name:
            return by_name
        raise DataError(
            f"{at}: `datasets` finds no splits in {directory} ({one_line(str(error), 300)}). Name the files "
            "<split>.jsonl or <split>.parquet, or give a glob"
        ) from error
    for file in (file for files in found.values() for file in files):
        # A hub's snapshot holds links to files elsewhere, so they are not resolved.
        if "://" in str(file) or not file.absolute().is_relative_to(directory.absolute()) or ".." in file.parts:
            raise DataError(f"{at}: README.md names {one_line(str(file), 200)}, which is not below {directory}")
    if not declares:
        for split, files in found.items():
            _require_one_name(at, split, files)
    return found


def _check_readme(at: str, directory: Path) -> bool:
    """Return whether README.md declares the files; check it first, because `datasets` would open what it names.

    Raises:
        DataError: It is too large, uses YAML's aliases, or names a file that is not below the directory.
    """
    file = directory / "README.md"
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(MAX_README_BYTES + 1)
    if len(head) > MAX_README_BYTES:
        raise DataError(f"{at}: {file} is larger than {MAX_README_BYTES:,} bytes: shorten it")
    match = re.match(rb"(?:\xef\xbb\xbf)?---\r?\n(.*?)\n---", head, re.DOTALL)
    if match is None:
        return False
    try:
        events = list(yaml.parse(match[1].decode("utf-8"), Loader=yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{at}: the head of {file} is not YAML: {one_line(str(error), 200)}") from error
    if any(isinstance(event, yaml.AliasEvent) for event in events):
        raise DataError(f"{at}: the head of {file} has YAML aliases: write the values out")
    texts = [event.value for event in events if isinstance(event, yaml.ScalarEvent)]
    if "data_files" not in texts and "data_dir" not in texts:
        return False
    for text in texts[texts.index("configs") if "configs" in texts else 0 :]:
        if "://" in text or text.startswith(("/", "~")) or ".." in Path(text).parts:
            raise DataError(f"{at}: {file} names {one_line(text, 200)}: name files below {directory}")
    return True


def _files_of_names(at: str, directory: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files below a directory by the first split's name that is a word of their path."""
    found: dict[str, list[Path]] = {}
    for file in sorted(file for file in directory.rglob("*") if file.is_file() and file.suffix in SUFFIXES):
        words = re.split(r"[^a-z0-9]+", str(file.relative_to(directory).with_suffix("")).lower())
        split = next((word for word in words if word in SPLIT_WORDS), None)
        if split is not None:
            found.setdefault(split, []).append(file)
    for split, files in found.items():
        _require_one_name(at, split, files)
    return {split: tuple(files) for split, files in found.items()}


def _require_one_name(at: str, split: str, files: Sequence[Path]) -> None:
    """Check that the files of a split differ in numbers only: test_old.jsonl is no part of test.jsonl.

    Raises:
        DataError: They have different names.
    """
    named = [file for file in files if file.suffix in SUFFIXES and split in re.split(r"[^a-z0-9]+", file.stem.lower())]
    names = {re.sub(r"\d+", "#", file.stem.lower()): file.name for file in named}
    if len(names) > 1:
        both = " and ".join(sorted(names.values())[:2])
        raise DataError(f"{at}: {both} both name the split {split!r}: move one away, or give a glob of one of them")


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
            f"{at}: no file's name has its split ({examples}): name it after {' or '.join(sorted(names))}, "
            "for instance test.jsonl"
        )
    by_name = {name: tuple(file for file in files if name in words[file]) for name in names}
    for name, of_split in by_name.items():
        _require_one_name(at, name, of_split)
    return by_name


def _files_of_split(
    at: str, path: Path, by_name: Mapping[str, tuple[Path, ...]], own_name: str, split: str
) -> tuple[Path, ...]:
    # `datasets` assigns a file called dev.jsonl to its split "validation".
    aliases = (own_name, "validation") if own_name in ("dev", "valid", "val") else (own_name,)
    files = next((by_name[alias] for alias in aliases if by_name.get(alias)), ())
    if not files:
        there = ", ".join(sorted(name for name, found in by_name.items() if found))
        passed_over = _passed_over(path, own_name)
        raise DataError(
            f"{at}: there is no split {own_name!r}, only {there}{passed_over}: add it, or take {split} out of splits"
        )
    readable = tuple(file for file in files if file.suffix in SUFFIXES)
    if not readable:
        raise DataError(f"{at}: {files[0]} is none of {', '.join(SUFFIXES)}")
    return readable


def _passed_over(path: Path, name: str) -> str:
    """Return which file of a directory seems to hold a split and why it is not read, or ""."""
    for file in sorted(path.glob("*")) if path.is_dir() else ():
        if name.lower() in re.split(r"[^a-z0-9]+", file.name.lower()):
            if file.is_symlink() and not file.exists():
                return f" ({file.name} is a link to nothing)"
            if file.suffix not in SUFFIXES:
                return f" ({file.name} is none of {', '.join(SUFFIXES)})"
            if not file.is_file():
                return f" ({file.name} is no regular file)"
    return ""


def _digest(files: Mapping[str, tuple[Path, ...]]) -> str:
    """Return the SHA-256 of the splits' bytes; it does not depend on where the files are."""
    whole = hashlib.sha256()
    for split in sorted(files):
        for path in files[split]:
            with path.open("rb") as file:
                whole.update(f"{split} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"
