"""Differences between two runs besides their scores: configurations and manifests in, lines out.

Each listed difference may have caused a change of the scores. Settings of where a run is stored are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.loading import flat
from pipeline.config.paths import portable
from pipeline.config.schema import Config
from pipeline.runs.identity import MECHANICS
from pipeline.runs.manifest import EngineInfo, Manifest, dump

RECORDED = {
    "model": ("model_fingerprint",),
    "template": ("template_fingerprint",),
    "versions": ("versions", "codebase"),
    "hardware": ("hardware",),
}
"""Keys of the manifest by kind of difference; data sets and engines are compared separately."""

PER_SESSION = (
    *("engine_start_s", "restarts", "pid", "gave_up", "tries_again", "session"),
    *("num_kv_blocks", "num_kv_tokens", "kv_concurrency", "num_preemptions", "num_preempted_rows"),
    *("peak_running", "peak_waiting", "peak_kv_cache_usage"),
)
"""Engine information about one session rather than the engine; the KV cache takes the memory that is free."""

KINDS = ("scoring", "model", "template", "data sets", "sampling", "configuration", "engine", "versions", "hardware")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A value that is `base` in one run and `new` in the other, as text; `kind` is one of `KINDS`."""

    kind: str
    name: str
    base: str
    new: str

    @property
    def order(self) -> tuple[int, str]:
        """Sort key: the kind, then the name."""
        return KINDS.index(self.kind), self.name

    @property
    def line(self) -> str:
        """The difference as one line."""
        return f"{self.kind} differs: {self.name}: base {self.base}, new {self.new}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A run's recorded configuration and manifest."""

    config: Config
    manifest: Manifest


def differences(base: RecordedRun, new: RecordedRun) -> list[Difference]:
    """Return the differences, in the order of `KINDS`."""
    stored = dump(base.manifest), dump(new.manifest)
    found = [
        *_configuration(base.config, new.config),
        *(
            each
            for kind, names in RECORDED.items()
            for each in _changed(kind, *(_flat_parts(one, names) for one in stored))
        ),
        *_changed("data sets", *(_revisions(run.manifest) for run in (base, new))),
        *_engines(base.manifest, new.manifest),
    ]
    return sorted(found, key=lambda each: each.order)


def _flat_parts(stored: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return flat({name: stored.get(name) for name in names})


def _configuration(base: Config, new: Config) -> list[Difference]:
    def keys(config: Config) -> dict[str, Any]:
        plain = {name: value for name, value in asdict(config).items() if name not in (*MECHANICS, "tasks")}
        return portable(flat(plain | {"tasks": {name: asdict(task) for name, task in config.active_tasks.items()}}))

    kinds = {"model": "model", "prompt": "template", "generation": "sampling", "seed": "sampling"}
    kinds |= {"tasks": "data sets", "engine": "engine"}
    return [
        Difference(kind=kinds.get(each.name.split(".")[0], each.kind), name=each.name, base=each.base, new=each.new)
        for each in _changed("configuration", keys(base), keys(new))
    ]


def _revisions(manifest: Manifest) -> dict[str, str]:
    return {f"dataset_revision.{task}": found for task, found in manifest.datasets.dataset_revisions.items()}


def _engines(base: Manifest, new: Manifest) -> list[Difference]:
    """Return the differences of what the engines report; a value that only one run reports is left out."""
    then, now = (engine_values(each.engine) | {"replicas": str(len(each.engine))} for each in (base, new))
    both = then.keys() & now.keys() if base.engine and new.engine else set()
    return _changed("engine", {name: then[name] for name in both}, {name: now[name] for name in both})


def engine_values(engines: Mapping[str, EngineInfo]) -> dict[str, str]:
    """Return the engine information of all replicas by name; different values are joined by commas."""
    infos = [info.to_flat() for info in engines.values()]
    names = sorted({name for info in infos for name in info} - set(PER_SESSION))
    return {name: ", ".join(sorted({str(info[name]) for info in infos if name in info})) for name in names}


def _changed(kind: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(kind=kind, name=name, base=as_text(then.get(name)), new=as_text(now.get(name)))
        for name in changed_names(then, now)
    ]


def changed_names(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names whose values differ, in the order of `then`, then of `now`."""
    return [name for name in {**then, **now} if then.get(name) != now.get(name)]


def as_text(value: Any) -> str:
    """Return a recorded value as text; None is "none"."""
    return "none" if value is None else str(value)
