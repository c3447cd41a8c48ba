"""Earlier runs: the complete ones in output_dir that this run may learn from or be compared with.

In: a configuration. Out: runs with what they recorded, newest first. Of a run only manifest.json and config.yaml are
read here; a run that cannot be read is told and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline.config.schema import Config
from pipeline.errors import ConfigError, UserError
from pipeline.runs.directory import recorded, require_complete
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore

Found = TypeVar("Found")

MOST_RUNS = 20
"""Runs of one model that are looked into; older ones are no better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A complete run: its directory, the configuration that it recorded, and its manifest."""

    run_id: str
    store: ArtifactStore
    config: Config
    manifest: Manifest

    def shares_tasks(self, config: Config) -> bool:
        """Return whether it asked a task that `config` asks."""
        return bool(set(self.config.active_tasks) & set(config.active_tasks))

    def covers(self, config: Config) -> bool:
        """Return whether it asked at least what `config` asks: tasks, splits and rows."""
        mine = self.config
        rows = mine.limit is None or (config.limit is not None and config.limit <= mine.limit)
        return rows and set(config.active_tasks) <= set(mine.active_tasks) and set(config.splits) <= set(mine.splits)


def of_model(config: Config, unread: list[str], suits: Callable[[PastRun], bool] = lambda _: True) -> Iterator[PastRun]:
    """Yield the complete runs of the same model that suit, newest first, at most `MOST_RUNS`.

    Args:
        config: What is to be run; itself it is not among them.
        unread: Gets a line for each run that cannot be read.
        suits: What else is asked of a run.

    Raises:
        RunError: output_dir cannot be reached.
    """
    output = ArtifactStore.open(config.output_dir)
    complete: list[tuple[str, str, Manifest]] = []
    for name in output.directories():
        if not name.startswith("run=") or name == f"run={config.run_id}":
            continue
        try:
            manifest = read_manifest(output.child(name))
        except UserError as error:
            unread.append(f"{output.path(name)} is left out: {error}")
            continue
        if manifest is not None and manifest.is_complete:
            complete.append((manifest.ended_at or "", name, manifest))
    num_found = 0
    for _, name, manifest in sorted(complete, key=lambda each: each[:2], reverse=True):
        try:
            found = _open(output.child(name), name.removeprefix("run="), manifest)
        except UserError as error:
            unread.append(f"{output.path(name)} is left out: {error}")
            continue
        if _model(found.config) == _model(config) and suits(found):
            yield found
            num_found += 1
            if num_found == MOST_RUNS:
                return


def named(config: Config, key: str, run_id: str) -> PastRun:
    """Return the complete run in output_dir that the key `key` names.

    Raises:
        ConfigError: There is no such run, it is not complete, or what it recorded cannot be read.
        RunError: output_dir cannot be reached.
    """
    store = ArtifactStore.open(config.output_dir).child(f"run={run_id}")
    if not store.exists():
        raise ConfigError(f"{key}={run_id!r}: there is no run {store.root}: name a complete one of output_dir")
    try:
        return _open(store, run_id, require_complete(store))
    except UserError as error:
        raise ConfigError(f"{key}={run_id!r}: {error}") from error


def each(runs: Iterable[PastRun], read: Callable[[PastRun], Found], unread: list[str]) -> Iterator[Found]:
    """Yield what is read of each run; one that cannot be read is left out, and `unread` gets a line for it."""
    for run in runs:
        try:
            found = read(run)
        except UserError as error:
            unread.append(f"{run.store.root} is left out: {error}")
            continue
        yield found


def best_of(
    found: Iterable[Found], is_exact: Callable[[Found], bool], is_informative: Callable[[Found], bool]
) -> Found | None:
    """Return the first that answers what is asked, else the first that tells something at all, else None."""
    second_best: Found | None = None
    for one in found:
        if is_exact(one):
            return one
        if second_best is None and is_informative(one):
            second_best = one
    return second_best


def _open(store: ArtifactStore, run_id: str, manifest: Manifest) -> PastRun:
    return PastRun(run_id=run_id, store=store, config=recorded(store), manifest=manifest)


def _model(config: Config) -> tuple[str | None, ...]:
    """Return what names the model, whatever its revision: the next checkpoint answers at about the same length."""
    if config.engine.kind == "vllm":
        return "vllm", config.model.path
    return "endpoint", config.engine.endpoint.base_url, config.engine.endpoint.model
