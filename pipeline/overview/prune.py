"""Removes the large files of old runs: prompts, completions, samples, journals, logs and reports.

In: a directory of runs, and how many days a run is kept whole. Out: first a plan, then what the plan lists is removed
and nothing else. Manifest, configuration, metrics.parquet, the index entry, the archive and the card stay, so that
lists, trends and the order of `latest` still work. A run keeps everything if

- it is not complete, or a process holds its lock,
- it is the newest complete run of its model, or the newest one without `limit`,
- a run of the directory names it in `gate.baseline` or `schedule.history`,
- it is in the pooled baseline of the last gate of its model and settings.

Runs may be those of other people: a directory of another user or with links is left alone, and what is removed is
opened through the descriptor of the run's own directory, in which no link is followed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from pipeline.config import plain_yaml
from pipeline.config.fields import LATEST
from pipeline.config.plain_yaml import value
from pipeline.errors import RunError, UserError
from pipeline.runs import index
from pipeline.runs.directory import CONFIG_FILE
from pipeline.runs.index import left_out, model_key, name_of
from pipeline.runs.lock import is_held, locked
from pipeline.runs.manifest import TIME_FORMAT, Manifest, parse_time, read_manifest
from pipeline.storage.artifacts import PRUNED_FILE, ArtifactStore
from pipeline.storage.filesystem import named

PARTS = ("completions", "journal", "logs", "noise", "prompts", "samples", "work")
REPORT = re.compile(r"report(\.\w+)?\.html|report_samples(\.\w+)?")
"""What is removed of a run: the directories of these names, and the report, of which there may be one a language."""

NAMING_KEYS = (("gate", "baseline"), ("schedule", "history"))
"""Keys whose value may be the run_id of another run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file or directory in a run: its name, and the number and size of its files."""

    name: str
    num_files: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRun:
    """A run of which parts are removed."""

    run_id: str
    model: str
    manifest: Manifest
    parts: tuple[Part, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all parts."""
        return sum(part.num_bytes for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is removed, the old runs that keep everything with the reason, and a line for what cannot be read."""

    runs: Sequence[OldRun]
    kept: Mapping[str, str]
    unread: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run, with the values of its configuration."""

    run_id: str
    store: ArtifactStore
    manifest: Manifest
    values: Mapping[str, Any]

    @property
    def model(self) -> index.ModelKey:
        return model_key(self.values)

    @property
    def order(self) -> tuple[str, str]:
        return self.manifest.ended_at or "", self.run_id

    @property
    def last_used(self) -> datetime | None:
        """When the run ended or was scored again, whichever is later; None if that cannot be read."""
        try:
            times = [each for each in (self.manifest.ended_at, self.manifest.rescored_at) if each is not None]
            return max(map(parse_time, times), default=None)
        except ValueError:
            return None


def plan(output: ArtifactStore, keep_days: int, now: datetime | None = None) -> Plan:
    """Return what is removed of the complete runs that ended more than `keep_days` days ago. Nothing is written.

    Raises:
        RunError: The directory cannot be reached.
    """
    unread: list[str] = []
    with ThreadPoolExecutor(index.NUM_AT_ONCE) as pool:
        found = pool.map(lambda run_id: _read(output, run_id, unread), sorted(index.run_ids(output)))
        runs = [run for run in found if run is not None]
    complete = sorted((run for run in runs if run.manifest.is_complete), key=lambda run: run.order, reverse=True)
    needed = _needed(runs, complete)
    before = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    planned: list[OldRun] = []
    kept: dict[str, str] = {}
    for run in reversed(complete):
        if run.last_used is None:
            kept[run.run_id] = "its end is unknown"
        elif run.last_used < before:
            try:
                parts = tuple(_parts(run.store))
                reason = needed.get(run.run_id) or _refusal(run.store)
            except UserError as error:
                kept[run.run_id] = str(error)
                continue
            if parts and reason is not None:
                kept[run.run_id] = reason
            elif parts:
                model = name_of(run.model) or "?"
                planned.append(OldRun(run_id=run.run_id, model=model, manifest=run.manifest, parts=parts))
    return Plan(runs=planned, kept=kept, unread=unread)


def apply(output: ArtifactStore, planned: OldRun, now: datetime | None = None) -> str | None:
    """Remove the parts of a run that a plan names, and mark the run as pruned.

    Returns:
        Why its index entry was not written, which changes nothing about what was removed; None if it was.

    Raises:
        RunError: The run is locked, has changed since the plan was made, or cannot be written.
        DataError: Its manifest is damaged.
    """
    run = output.child(f"{index.RUN_PREFIX}{planned.run_id}")
    with locked(run):
        manifest = read_manifest(run)
        if manifest != planned.manifest or tuple(_parts(run)) != planned.parts:
            raise RunError(f"{run.shown()} has changed since it was listed: it keeps everything, list again")
        at = run.pruned_at() or f"{now or datetime.now(UTC):{TIME_FORMAT}}"
        mark = {"at": at, "removed": [asdict(part) for part in planned.parts]}
        run.write_text(PRUNED_FILE, json.dumps(mark, indent=1) + "\n")  # first: what is half removed is marked
        with run.writing():
            _remove(run, [part.name for part in planned.parts])
        try:
            index.record(run, planned.manifest)
        except UserError as error:
            return f"index: {error}"
    return None


def _read(output: ArtifactStore, run_id: str, unread: list[str]) -> _Run | None:
    """Return a run that has a manifest; `unread` receives a line for one that cannot be read."""
    run = output.child(f"{index.RUN_PREFIX}{run_id}")
    try:
        manifest = read_manifest(run, finite=True)
        if manifest is None:
            return None
        values = manifest.config or plain_yaml.read(
            run.read_text(CONFIG_FILE, plain_yaml.MOST_BYTES), run.path(CONFIG_FILE)
        )
        found = _Run(run_id=run_id, store=run, manifest=manifest, values=values)
        hash(found.model)  # a list in place of a name
    except UserError as error:
        unread.append(left_out(run.root, error))
        return None
    except (TypeError, AttributeError, ValueError) as error:
        unread.append(f"{run.root} is left out: its configuration names no model ({error})"[:400])
        return None
    return found


def _needed(runs: Sequence[_Run], complete: Sequence[_Run]) -> dict[str, str]:
    """Return the run_ids of the runs that keep everything, with the reason; `complete` is newest first."""
    found: dict[str, str] = {}
    settings: set[tuple[Any, ...]] = set()
    models: set[tuple[index.ModelKey, str]] = set()
    for run in complete:
        # A trial with limit= does not replace the newest whole run.
        is_whole = value(run.values, "limit") is None
        for kind in ("", " without a limit") if is_whole else ("",):
            if (run.model, kind) not in models:
                models.add((run.model, kind))
                found.setdefault(run.run_id, f"it is the newest run of its model{kind}")
        gate, made_with = run.manifest.gate, (run.model, run.manifest.settings_hash)
        if gate is not None and made_with not in settings:
            settings.add(made_with)
            for name in {gate.baseline, *gate.baselines} - {None}:
                found[str(name)] = f"it is in the baseline of run {run.run_id}"
    for run in runs:
        for section, field in NAMING_KEYS:
            named = value(run.values, section, field)
            if isinstance(named, str) and named != LATEST:
                found[named] = f"run {run.run_id} names it in {section}.{field}"
    return found


def _refusal(run: ArtifactStore) -> str | None:
    """Return why a run keeps everything, although it is old and no run needs it.

    Raises:
        RunError: It belongs to another user or holds a link, or the storage does not respond.
    """
    run.require_own()
    return "a process holds its lock" if is_held(run) else None


def _is_part(name: str) -> bool:
    return name in PARTS or REPORT.fullmatch(name) is not None


def _parts(run: ArtifactStore) -> Iterator[Part]:
    """Yield the parts of a run, by name; nothing but regular files and directories.

    Raises:
        RunError: The storage does not respond, or directories are nested too deep.
    """
    with run.reaching():
        if run.local is None:
            infos = run.fs.get_file_info(pafs.FileSelector(run.root, recursive=True, allow_not_found=True))
            files = [
                (path[len(run.root) + 1 :], info.size) for path, info in named(infos) if info.type == pafs.FileType.File
            ]
        else:
            try:
                files = list(_local_files(str(run.local)))
            except RecursionError as error:
                raise RunError(f"{run.shown()} has directories that are nested too deep") from error
    sizes: dict[str, list[int]] = {}
    for name, num_bytes in files:
        top = name.partition("/")[0]
        if _is_part(top):
            sizes.setdefault(top, []).append(num_bytes)
    for top, each in sorted(sizes.items()):
        yield Part(name=top, num_files=len(each), num_bytes=sum(each))


def _local_files(root: str) -> Iterator[tuple[str, int]]:
    """Yield path and size of what is in the parts of a run on a disk; a link is a small file, and is not followed."""
    with os.scandir(root) as entries:
        tops = [entry for entry in entries if _is_part(entry.name)]
    for top in tops:
        found = top.stat(follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            yield top.name, found.st_size
        elif stat.S_ISDIR(found.st_mode):
            for directory, _, names in os.walk(top.path):
                for path in (Path(directory, name) for name in names):
                    yield str(path.relative_to(root)), path.lstat().st_size


def _remove(run: ArtifactStore, names: Sequence[str]) -> None:
    """Remove files and directories of a run.

    Raises:
        OSError: One cannot be removed.
    """
    if run.local is None:
        for name in names:
            run.remove(name)
        return
    # Names are resolved in the opened directory: who replaces the run's directory by a link gains nothing.
    directory = os.open(run.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in names:
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                try:
                    shutil.rmtree(name, dir_fd=directory)
                except RecursionError as error:
                    raise OSError(errno.ELOOP, f"{name} is nested too deep") from error
            else:
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
