"""Selects the runs that a run is compared with: its manifest and the earlier runs in, a pooled baseline out.

The baseline is the newest runs that are complete, kept their gate and were made alike: the same model, settings that
completions depend on, data, template and prompts. It begins with the newest accepted run (`gate.accept`), whose own
broken gate then does not matter. A run that breaks its gate never joins the baseline, so a regression breaks the gate
until it is gone or accepted.
"""

from __future__ import annotations

import getpass
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pipeline.comparison.pairing import ComparedRun, prompts_digest, rules_version
from pipeline.config.loading import plain
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, UserError
from pipeline.records import PROMPT_SCHEMA, SAMPLE_SCHEMA
from pipeline.runs import environment, past_runs
from pipeline.runs.directory import recorded
from pipeline.runs.identity import settings_hash
from pipeline.runs.manifest import Acceptance, Manifest
from pipeline.runs.past_runs import PastRun
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.terminal.text import counted

ACCEPT = "gate.accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The earlier runs that were made as a run was, newest first, from the newest accepted one on.

    `accepted_run` is that run's id (None: no run was accepted), `accepted` what this run itself accepts, `passed_over`
    the number of the other complete runs by reason, and `notes` are lines for the user.
    """

    runs: Sequence[PastRun]
    accepted_run: str | None
    accepted: Acceptance | None
    passed_over: Counter[str]
    notes: list[str] = field(default_factory=list)


def check_accept(config: Config) -> None:
    """Check before generation that the run named by `gate.accept` is complete and has this run's settings.

    Raises:
        ConfigError: It is not; the message names the key.
        RunError: output_dir cannot be reached.
    """
    name = config.gate.accept
    if name is None:
        return
    if name == config.run_id:
        raise ConfigError(f"{ACCEPT}={name!r} is the run itself: it is accepted by a later run")
    run = past_runs.named(config, ACCEPT, name)
    if settings_hash(run.config()) != settings_hash(config):
        raise ConfigError(f"{ACCEPT}={name!r} was made with other settings, so it is no baseline of this run")


def history(config: Config, run: ArtifactStore, manifest: Manifest) -> History:
    """Return the earlier runs that were made as this run was.

    Args:
        config: The run's configuration.
        run: Its directory.
        manifest: Its manifest, with started_at.

    Raises:
        RunError: output_dir cannot be reached.
        UserError: The run's own configuration cannot be read.
    """
    notes: list[str] = []
    earlier = past_runs.of_model(config, notes, before=manifest.started_at or "", limit=past_runs.MOST_EARLIER)
    mine = _Making.of(run, manifest)
    alike: list[PastRun] = []
    passed_over: Counter[str] = Counter()
    accepted_ids = {config.gate.accept}
    for each in earlier:
        if each.manifest.gate is not None and each.manifest.gate.accepted is not None:
            accepted_ids.add(each.manifest.gate.accepted.run)
        try:
            reason = mine.difference(_Making.of(each.store, each.manifest))
        except UserError as error:
            notes.append(f"{each.store.shown()} is left out: {error}")
            continue
        if reason is None:
            alike.append(each)
        else:
            passed_over[reason] += 1
    first = next((number for number, each in enumerate(alike) if each.run_id in accepted_ids), None)
    if first is not None:
        passed_over[f"from before the accepted run {alike[first].run_id}"] += len(alike) - first - 1
        del alike[first + 1 :]
    is_known = config.gate.accept in {each.run_id for each in alike}
    if config.gate.accept is not None and not is_known:
        notes.append(
            f"{ACCEPT}={config.gate.accept!r} has no effect: the run was made otherwise, or a later one is accepted"
        )
    return History(
        runs=alike,
        accepted_run=alike[first].run_id if first is not None else None,
        accepted=_acceptance(config.gate.accept, manifest) if is_known else None,
        passed_over=passed_over,
        notes=notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledRun:
    """A run of the baseline."""

    run_id: str
    store: ArtifactStore
    manifest: Manifest
    samples: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The runs of the baseline, newest first, and the number of other complete runs by the reason for passing them."""

    runs: Sequence[PooledRun]
    passed_over: Counter[str]

    @property
    def line(self) -> str:
        """A line for the user on the runs and on those passed over."""
        if self.runs:
            text = f"the baseline is {counted(len(self.runs), 'run')}, the newest {self.runs[0].run_id}"
        else:
            text = "there is no earlier run that was made as this one and kept its gate: nothing to compare with"
        reasons = ", ".join(f"{num} {reason}" for reason, num in self.passed_over.items() if num)
        return f"{text}; passed over: {reasons}" if reasons else text

    def newest(self, most: int) -> Pool:
        """Return the pool of the newest `most` runs."""
        return replace(self, runs=self.runs[:most])

    def compared(self) -> ComparedRun:
        """Return the newest run with the samples of the others pooled.

        Raises:
            DataError: Its prompts, samples or configuration are damaged.
            ConfigError: Its configuration is not of this version.
        """
        newest, *others = self.runs
        run = ComparedRun.of(newest.store, recorded(newest.store), newest.manifest)
        return replace(run, pooled=tuple(each.samples for each in others))


def eligible(found: History, new: ComparedRun, most: int) -> Pool:
    """Return the newest runs of the baseline, at most `most`; `found.notes` receives a line for one that is damaged."""
    chosen: list[PooledRun] = []
    passed_over = Counter(found.passed_over)
    with query.connection() as database:
        digest = prompts_digest(database, new.prompts)
        for each in found.runs:
            if not each.kept_gate and each.run_id != found.accepted_run:
                passed_over["with a broken gate"] += 1
            elif each.entry.pruned_at is not None:
                passed_over["pruned"] += 1
            elif len(chosen) < most:
                try:
                    prompts = each.store.require_artifact("prompts", PROMPT_SCHEMA)
                    samples = each.store.require_artifact("samples", SAMPLE_SCHEMA)
                    is_same = prompts_digest(database, prompts) == digest
                except UserError as error:
                    found.notes.append(f"{each.store.shown()} is left out: {error}")
                    continue
                if rules_version(samples) != new.rules_version:
                    passed_over["whose letters were read by other rules (rescore them)"] += 1
                elif is_same:
                    run = PooledRun(run_id=each.run_id, store=each.store, manifest=each.manifest, samples=samples)
                    chosen.append(run)
                else:
                    passed_over["with other questions or prompts"] += 1
    return Pool(runs=chosen, passed_over=passed_over)


def _acceptance(name: str | None, manifest: Manifest) -> Acceptance | None:
    """Return the record of an acceptance; a run that is judged again keeps who accepted, and when."""
    if name is None:
        return None
    before = manifest.gate.accepted if manifest.gate is not None else None
    if before is not None and before.run == name:
        return before
    return Acceptance(run=name, by=_user(), at=environment.now())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return f"uid {os.getuid()}"


@dataclass(frozen=True, kw_only=True)
class _Making:
    """What a run's completions depend on. `commit` is this project's, None if it is unknown or has changes."""

    model: tuple[Any, ...]
    data: Mapping[str, str]
    template: str | None
    settings: str | None
    commit: str | None
    store: ArtifactStore

    @classmethod
    def of(cls, store: ArtifactStore, manifest: Manifest) -> _Making:
        values, code = manifest.config or plain(recorded(store)), manifest.codebase
        prompts = manifest.datasets
        served = tuple(sorted({each.served_model or "" for each in manifest.engine.values()}))
        return cls(
            model=(*_model(values), _fingerprint(values, manifest), prompts.model_revision, served),
            data=prompts.dataset_revisions,
            template=manifest.template_fingerprint,
            settings=manifest.settings_hash,
            commit=code.commit if code is not None and not code.modified else None,
            store=store,
        )

    def difference(self, other: _Making) -> str | None:
        """Return why another run is no baseline of this one, None if it is; the cheap conditions first."""
        if other.model != self.model:
            return "with another model"
        if other.data != self.data:
            return "with other data"
        if other.template != self.template:
            return "with another chat template"
        return None if self._has_settings_of(other) else "with other settings"

    def _has_settings_of(self, other: _Making) -> bool:
        """Return whether the settings are the same, although their hashes may be of two versions of the schema."""
        if None not in (self.settings, other.settings):
            if self.settings == other.settings:
                return True
            if self.commit is not None and self.commit == other.commit:
                return False
        return self._settings_now == settings_hash(recorded(other.store))

    @cached_property
    def _settings_now(self) -> str:
        return settings_hash(recorded(self.store))


def _fingerprint(values: Mapping[str, Any], manifest: Manifest) -> str | None:
    """Return the fingerprint of the model; older runs of an endpoint recorded that of a model.path that it ignores."""
    return manifest.model_fingerprint if _model(values)[0] == "vllm" else None


def _model(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what names the model in a plain configuration."""
    if _value(values, "engine", "kind") in ("vllm", None):
        return "vllm", _value(values, "model", "path")
    endpoint = _value(values, "engine", "endpoint")
    return "endpoint", _value(endpoint, "base_url"), _value(endpoint, "model")


def _value(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values
