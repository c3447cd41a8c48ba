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
from typing import Any

from pipeline.comparison.pairing import ComparedRun, prompts_digest
from pipeline.config.loading import plain
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, UserError
from pipeline.runs import environment, past_runs
from pipeline.runs.directory import recorded
from pipeline.runs.identity import settings_hash
from pipeline.runs.manifest import Acceptance, Manifest
from pipeline.runs.past_runs import PastRun
from pipeline.storage.artifacts import ArtifactStore
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
        passed_over[f"ended before the accepted run {alike[first].run_id}"] += len(alike) - first - 1
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
class Pool:
    """The runs of the baseline, newest first, and the number of other complete runs by the reason for passing them."""

    runs: Sequence[ComparedRun]
    passed_over: Counter[str]

    def line(self, most: int) -> str:
        """Return a line for the user on the newest `most` runs, and on those passed over."""
        if self.runs:
            num = counted(min(most, len(self.runs)), "run")
            text = f"the baseline is {num}, the newest {self.runs[0].config.run_id}"
        else:
            text = "there is no earlier run that was made as this one and kept its gate: nothing to compare with"
        reasons = ", ".join(f"{num} {reason}" for reason, num in self.passed_over.items() if num)
        return f"{text}; passed over: {reasons}" if reasons else text


def eligible(found: History, new: ComparedRun, most: int) -> Pool:
    """Return the newest runs of the baseline, at most `most`; `found.notes` receives a line for one that is damaged."""
    digest = prompts_digest(new.prompts)
    chosen: list[ComparedRun] = []
    passed_over = Counter(found.passed_over)
    for each in found.runs:
        if not each.kept_gate and each.run_id != found.accepted_run:
            passed_over["broke their gate"] += 1
        elif len(chosen) < most:
            try:
                run = ComparedRun.of(each.store, recorded(each.store), each.manifest)
                if prompts_digest(run.prompts) == digest:
                    chosen.append(run)
                else:
                    passed_over["asked other questions or prompts"] += 1
            except UserError as error:
                found.notes.append(f"{each.store.shown()} is left out: {error}")
    return Pool(runs=chosen, passed_over=passed_over)


def pooled(runs: Sequence[ComparedRun]) -> ComparedRun:
    """Return the first run with the samples of the others pooled."""
    return replace(runs[0], pooled=tuple(run.samples for run in runs[1:]))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """What a run's completions depend on. `store` and `manifest` are where its settings are recorded."""

    model: tuple[Any, ...]
    data: Mapping[str, str]
    template: str | None
    store: ArtifactStore
    manifest: Manifest

    @classmethod
    def of(cls, store: ArtifactStore, manifest: Manifest) -> _Making:
        values = manifest.config or plain(recorded(store))
        prompts = manifest.datasets
        served = tuple(sorted({each.served_model or "" for each in manifest.engine.values()}))
        return cls(
            model=(*_model(values), manifest.model_fingerprint, prompts.model_revision, served),
            data=prompts.dataset_revisions,
            template=manifest.template_fingerprint,
            store=store,
            manifest=manifest,
        )

    def difference(self, other: _Making) -> str | None:
        """Return why another run is no baseline of this one, None if it is; the cheap conditions first."""
        if other.model != self.model:
            return "with another model"
        if other.data != self.data:
            return "with other data"
        if other.template != self.template:
            return "with another chat template"
        known = self.manifest.settings_hash, other.manifest.settings_hash
        if None not in known and known[0] == known[1]:
            return None
        # A key that was added to the schema since changes the recorded hash, but not the settings.
        same = settings_hash(recorded(self.store)) == settings_hash(recorded(other.store))
        return None if same else "with other settings"


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
