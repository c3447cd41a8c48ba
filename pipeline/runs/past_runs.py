"""Past runs: the complete runs in output_dir that a run can estimate from or be compared with.

In: a configuration. Out: runs with their configuration and manifest, newest first. Only manifest.json and config.yaml
of a run are read here; a run that cannot be read is reported and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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

    def same_tasks(self, revisions: Mapping[str, str]) -> list[str]:
        """Return the run's tasks whose data sets have these revisions: their questions have the same ids."""
        mine = self.manifest.datasets.dataset_revisions
        return [task for task in self.config.active_tasks if task in mine and mine[task] == revisions.get(task)]

    @property
    def model_name(self) -> str:
        """The model as the configuration or the server names it."""
        if self.config.engine.kind == "vllm":
            return str(self.config.model.path)
        served = (info.served_model for info in self.manifest.engine.values() if info.served_model)
        endpoint = self.config.engine.endpoint
        return endpoint.model or next(served, None) or str(endpoint.base_url)

    def is_of_model(self, config: Config) -> bool:
        """Return whether the run's model is that of `config`, whatever its revision."""
        return _model(self.config) == _model(config)

    def covers(self, config: Config) -> bool:
        """Return whether the run has at least the tasks, splits and rows of `config`."""
        mine = self.config
        rows = mine.limit is None or (config.limit is not None and config.limit <= mine.limit)
        return rows and set(config.active_tasks) <= set(mine.active_tasks) and set(config.splits) <= set(mine.splits)


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
    return _complete(config, unread, lambda run: run.is_of_model(config) and is_match(run))


def of_other_models(
    config: Config, unread: list[str], is_match: Callable[[PastRun], bool] = lambda _: True
) -> Iterator[PastRun]:
    """Yield the complete runs of other models that match, as `of_model` does those of the same model."""
    return _complete(config, unread, lambda run: not run.is_of_model(config) and is_match(run))


def _complete(config: Config, unread: list[str], is_match: Callable[[PastRun], bool]) -> Iterator[PastRun]:
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
        if is_match(found):
            yield found
            num_found += 1
            if num_found == MOST_RUNS:
                return


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
