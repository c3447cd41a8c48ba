"""Past runs: the complete runs in output_dir that a run can estimate from or be compared with.

In: a configuration. Out: runs with their index entry and manifest, newest first. The entries are searched
(pipeline/runs/index.py), and only the manifests of those that are yielded are read; a run that cannot be read is
reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline.config.schema import Config
from pipeline.errors import ConfigError, UserError
from pipeline.runs import index
from pipeline.runs.directory import recorded, require_complete
from pipeline.runs.index import IndexEntry, left_out, model_key
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore

Found = TypeVar("Found")

MOST_RUNS = index.MOST_RUNS
MOST_EARLIER = index.MOST_READ
"""Maximum number of runs of one model that a gate looks back at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A complete run: its index entry, its directory, and its manifest."""

    entry: IndexEntry
    store: ArtifactStore
    manifest: Manifest

    @property
    def run_id(self) -> str:
        """The run's id: the name of its directory."""
        return self.entry.run_id

    @property
    def ended_at(self) -> str:
        """The time at which the run ended, in the manifest's format; empty if it is unknown."""
        return self.manifest.ended_at or ""

    @property
    def kept_gate(self) -> bool:
        """Whether no rule of the run's gate was broken; a run without a gate has broken none."""
        return self.manifest.gate is None or not self.manifest.gate.broken

    def config(self) -> Config:
        """Return the recorded configuration, which takes a tenth of a second to load; `entry` has what is often needed.

        Raises:
            DataError: Its config.yaml cannot be read.
            ConfigError: Its config.yaml is not of this version.
        """
        return recorded(self.store)


def of_model(
    config: Config,
    unread: list[str],
    is_match: Callable[[IndexEntry], bool] = lambda _: True,
    *,
    before: str | None = None,
    limit: int = MOST_RUNS,
) -> Iterator[PastRun]:
    """Yield the complete runs of the same model that match, newest first, at most `limit`.

    Args:
        config: The configuration to run; its own run is left out.
        unread: Receives a line for each run that cannot be read.
        is_match: Another condition for a run.
        before: Only runs that ended at this time or earlier, in the manifest's format.
        limit: Maximum number of runs to yield.

    Raises:
        RunError: output_dir cannot be reached.
    """
    output, key = ArtifactStore.open(config.output_dir), model_key(config)
    found = index.newest(
        output, model=key, before=before, without=config.run_id, is_match=is_match, limit=limit, unread=unread
    )
    yield from opened(output, found, unread, lambda entry: entry.model == key and is_match(entry))


def of_other_models(
    config: Config, unread: list[str], is_match: Callable[[IndexEntry], bool] = lambda _: True
) -> Iterator[PastRun]:
    """Yield the complete runs of other models that match, newest first, at most `MOST_RUNS`; see `of_model`."""
    output, key = ArtifactStore.open(config.output_dir), model_key(config)
    found = index.newest(output, other_than=key, without=config.run_id, is_match=is_match, unread=unread)
    yield from opened(output, found, unread, lambda entry: entry.model != key and is_match(entry))


def opened(
    output: ArtifactStore,
    entries: Iterable[IndexEntry],
    unread: list[str],
    is_match: Callable[[IndexEntry], bool] = lambda _: True,
) -> Iterator[PastRun]:
    """Yield the runs of these entries that are still complete; `unread` receives a line for one that is damaged.

    A run that has changed since its entry was written gets a new one, which must satisfy `is_match`.
    """
    for entry in entries:
        store = output.child(f"{index.RUN_PREFIX}{entry.run_id}")
        try:
            manifest = read_manifest(store, finite=True)
        except UserError as error:
            unread.append(left_out(store.shown(), error))
            continue
        if manifest is None or not manifest.is_complete:
            continue  # reopened since
        current = entry if entry.is_of(manifest) else index.make(output, entry.run_id, unread)
        if current is not None and (current is entry or is_match(current)):
            yield PastRun(entry=current, store=store, manifest=manifest)


def named(config: Config, key: str, run_id: str) -> PastRun:
    """Return the complete run `run_id` in output_dir, which the configuration key `key` names.

    Raises:
        ConfigError: There is no such run, it is not complete, or its configuration or manifest cannot be read.
        RunError: output_dir cannot be reached.
    """
    store = ArtifactStore.open(config.output_dir).child(f"run={run_id}")
    if not store.exists():
        raise ConfigError(f"{key}={run_id!r}: there is no run {store.shown()}: name a complete one of output_dir")
    try:
        manifest = require_complete(store)
        recorded(store)
        return PastRun(entry=index.entry_of(store, run_id, manifest), store=store, manifest=manifest)
    except UserError as error:
        raise ConfigError(f"{key}={run_id!r}: {error}") from error


def each(runs: Iterable[PastRun], read: Callable[[PastRun], Found], unread: list[str]) -> Iterator[Found]:
    """Yield `read(run)` of each run; a run that cannot be read is left out, and `unread` receives a line for it.

    A pruned run has no samples, and is left out without a line.
    """
    for run in runs:
        if run.entry.pruned_at is not None:
            continue
        try:
            found = read(run)
        except UserError as error:
            unread.append(left_out(run.store.shown(), error))
            continue
        yield found


def best_of(
    found: Iterable[Found], is_exact: Callable[[Found], bool], is_informative: Callable[[Found], bool]
) -> Found | None:
    """Return the first that is exact, else the first that is informative, else None."""
    second_best: Found | None = None
    for one in found:
        if is_exact(one):
            return one
        if second_best is None and is_informative(one):
            second_best = one
    return second_best
