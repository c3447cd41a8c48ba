"""Past runs: the complete runs in output_dir that a run can estimate from or be compared with.

In: a configuration. Out: runs with their configuration and manifest, newest first. Only manifest.json and config.yaml
of a run are read here; a run that cannot be read is reported and left out.
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
"""Maximum number of runs of one model to read; older ones do not improve an estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """A complete run: its directory, its recorded configuration, and its manifest."""

    run_id: str
    store: ArtifactStore
    config: Config
    manifest: Manifest

    def shares_tasks(self, config: Config) -> bool:
        """Return whether the run has a task of `config`."""
        return bool(set(self.config.active_tasks) & set(config.active_tasks))

    def covers(self, config: Config) -> bool:
        """Return whether the run has at least the tasks, splits and rows of `config`."""
        mine = self.config
        rows = mine.limit is None or (config.limit is not None and config.limit <= mine.limit)
        return rows and set(config.active_tasks) <= set(mine.active_tasks) and set(config.splits) <= set(mine.splits)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRun:
    """A complete run by its manifest alone."""

    run_id: str
    store: ArtifactStore
    manifest: Manifest

    @property
    def ended_at(self) -> str:
        """The time at which the run ended, in the manifest's format; empty if it is unknown."""
        return self.manifest.ended_at or ""

    @property
    def kept_gate(self) -> bool:
        """Whether no rule of the run's gate was broken; a run without a gate has broken none."""
        return self.manifest.gate is None or not self.manifest.gate.broken


def of_model(
    config: Config, unread: list[str], is_match: Callable[[PastRun], bool] = lambda _: True
) -> Iterator[PastRun]:
    """Yield the complete runs of the same model that match, newest first, at most `MOST_RUNS`.

    Args:
        config: The configuration to run; its own run is left out.
        unread: Receives a line for each run that cannot be read.
        is_match: Another condition for a run.

    Raises:
        RunError: output_dir cannot be reached.
    """
    num_found = 0
    for complete in _newest(config, unread):
        try:
            found = _open(complete.store, complete.run_id, complete.manifest)
        except UserError as error:
            unread.append(f"{complete.store.root} is left out: {error}")
            continue
        if _model(found.config) == _model(config) and is_match(found):
            yield found
            num_found += 1
            if num_found == MOST_RUNS:
                return


def earlier(config: Config, started_at: str, unread: list[str]) -> list[EarlierRun]:
    """Return the complete runs of output_dir that ended by `started_at`, newest first; `config`'s own is left out.

    Args:
        config: The configuration of the run.
        started_at: Its start, in the manifest's format.
        unread: Receives a line for each run that cannot be read.

    Raises:
        RunError: output_dir cannot be reached.
    """
    return [run for run in _newest(config, unread) if run.ended_at <= started_at]


def _newest(config: Config, unread: list[str]) -> list[EarlierRun]:
    """Return the complete runs of output_dir, newest first, without `config`'s own."""
    output = ArtifactStore.open(config.output_dir)
    found: list[EarlierRun] = []
    for name in output.directories():
        if not name.startswith("run=") or name == f"run={config.run_id}":
            continue
        try:
            manifest = read_manifest(output.child(name))
        except UserError as error:
            unread.append(f"{output.path(name)} is left out: {error}")
            continue
        if manifest is not None and manifest.is_complete:
            found.append(EarlierRun(run_id=name.removeprefix("run="), store=output.child(name), manifest=manifest))
    return sorted(found, key=lambda run: (run.ended_at, run.run_id), reverse=True)


def named(config: Config, key: str, run_id: str) -> PastRun:
    """Return the complete run `run_id` in output_dir, which the configuration key `key` names.

    Raises:
        ConfigError: There is no such run, it is not complete, or its configuration or manifest cannot be read.
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
    """Yield `read(run)` of each run; a run that cannot be read is left out, and `unread` receives a line for it."""
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
    """Return the first that is exact, else the first that is informative, else None."""
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
    """Return what identifies the model, without its revision: the next checkpoint's answers have similar lengths."""
    if config.engine.kind == "vllm":
        return "vllm", config.model.path
    return "endpoint", config.engine.endpoint.base_url, config.engine.endpoint.model
