"""Reproduce a run: `python -m pipeline.run from=<run's directory or manifest.json> key=value ...`.

In: a complete run's config.yaml and manifest.json. Out: its configuration, with the commits that it resolved and the
overrides of the command line, and the differences: overridden values, environment, data sets and template, engines, and
finally completions. A model, data set or template file that has changed under its recorded name is refused; one that an
override names is reported. The recorded run is never written.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import yaml

from pipeline.config.loading import flat, load, plain
from pipeline.config.paths import expanded
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, ModelError, PipelineError, RunError
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs.directory import CONFIG_FILE, TEMPLATE_FILE, open_finished, status
from pipeline.runs.environment_diff import as_text, changed_names, engine_values
from pipeline.runs.manifest import FILE, EngineInfo, Manifest, PromptMetadata, dump, read_manifest
from pipeline.runs.model_files import model_fingerprint, read_template, require_directory
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import without_credentials

ENVIRONMENT = ("versions", "codebase", "hardware")
"""Keys of the manifest that describe the environment of a run."""

UNCOMPARED = ("conf", "run_id", "output_dir", "run", "cluster")
"""Keys of where and how a run is executed and stored; they are not compared."""

PLAIN_ARGUMENTS = ("attention_backend", "generation_config", "kv_cache_dtype", "quantization")
"""Engine arguments whose texts name no code, no host and no other model. Numbers and switches never do."""

SAME_SQL = """
    SELECT count(*), count(*) FILTER (a.prompt_sha256 = b.prompt_sha256),
           count(*) FILTER (a.completion = b.completion)
    FROM before a JOIN now b USING (task, split, id, repeat)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """The run to reproduce: its directory, manifest and configuration, and a line for each overridden value."""

    source: ArtifactStore
    manifest: Manifest
    recorded: Config
    overridden: tuple[str, ...]

    def environment(self, new: Manifest) -> list[str]:
        """Return the differences in environment and model of the new run's manifest, a line each."""
        then, now = (
            flat({name: dump(each).get(name) for name in (*ENVIRONMENT, "model_fingerprint")})
            for each in (self.manifest, new)
        )
        for recorded_values in (then, now):
            recorded_values.pop("hardware.gpus", None)  # the engines report them once they have started
        lines = _differences(then, now)
        if self.manifest.codebase is not None and self.manifest.codebase.modified:
            lines.append("codebase: the recorded commit had been modified, so it does not identify all of the code")
        return lines

    def prepared(self, config: Config, prompts: PromptMetadata) -> list[str]:
        """Return the differences in the data sets and the template, a line each.

        Args:
            config: The new run's configuration.
            prompts: The metadata of its prompts.

        Raises:
            DataError: A data set has changed without an override of the command line.
        """
        before = self.manifest.datasets
        for name in config.active_tasks:
            then, now = before.dataset_revisions.get(name), prompts.dataset_revisions.get(name)
            if then != now and then is not None and not self._reads_other_rows(config, name):
                raise DataError(
                    f"tasks.{name}.dataset={config.tasks[name].dataset!r} holds other rows than when "
                    f"{self.source.shown()} was made ({now}, recorded {then}): give a copy of those, "
                    f"tasks.{name}.dataset=<dir>, or make a new run with conf={self.recorded.conf}"
                )
        compared = [*(f"dataset_revision.{name}" for name in config.active_tasks), "model_revision"]
        names = [*compared, "template_fingerprint"]
        return _differences(*({name: each.to_flat().get(name) for name in names} for each in (before, prompts)))

    def _reads_other_rows(self, config: Config, name: str) -> bool:
        """Return whether an override changes which files of a data set are read."""
        task, then = config.tasks[name], self.recorded.tasks.get(name)
        if then is None or set(config.splits) != set(self.recorded.splits):
            return True
        return (task.dataset, task.revision, task.train_split) != (then.dataset, then.revision, then.train_split)

    def engines(self, engines: Mapping[str, EngineInfo]) -> list[str]:
        """Return the differences in what the engines report, a line each."""
        return _differences(*(_engine_values(each) for each in (self.manifest.engine, engines)))

    def agreement(self, run: ArtifactStore) -> str:
        """Return a line: how many questions of both runs have the same prompt, and how many the same completion."""
        from pipeline.storage import query

        try:
            before = self.source.require_artifact("samples", SAMPLE_SCHEMA)
            with query.connection() as database:
                database.register("before", before.dataset())
                database.register("now", run.require_artifact("samples", SAMPLE_SCHEMA).dataset())
                num_both, num_prompts, num_completions = database.sql(SAME_SQL).fetchall()[0]
        except PipelineError as error:  # the new run is complete, whatever happened to the old one
            return f"nothing is compared: {error}"
        return f"{num_both} questions of both runs: {num_prompts} same prompts, {num_completions} same completions"


def resolve(directory: str, overrides: Sequence[str]) -> tuple[Config, Reproduction]:
    """Return the configuration that a run recorded, with overrides, and the run itself to compare with.

    Args:
        directory: The run's directory or its manifest.json, a path or a URI.
        overrides: `key=value`, of any key of the configuration.

    Raises:
        ConfigError: An override is wrong, or a value needs the consent of this command: see `_needing_consent`.
        RunError: There is no such run, it is not complete, or the new run would be written into it.
        ModelError: The model's directory does not exist, or it or the template file has changed without an override.
        DataError: The run's manifest is damaged.
    """
    if any(override.startswith("conf=") for override in overrides):
        raise ConfigError("from= takes the configuration that the run recorded: leave conf= out")
    source, recorded = open_finished(_directory(directory), argument="from")
    manifest = read_manifest(source)
    if manifest is None or not manifest.is_complete:
        state = "has no manifest.json" if manifest is None else f"is {status(source, manifest)}"
        raise RunError(f"from={directory}: the run {state}: from= takes complete runs; its own run_id resumes it")
    # `restart` would start a new run each time that the reproduction is to be resumed.
    base = replace(recorded, run_id=_new_id(recorded.run_id), run=replace(recorded.run, restart=False))
    needing = _needing_consent(recorded, directory)
    config = load(_without_consent(base, needing, directory, overrides), source.shown(CONFIG_FILE), overrides)
    overridden = _overridden(base, config)
    config = _pinned(config, base, manifest.datasets)
    reproduction = Reproduction(
        source=source, manifest=manifest, recorded=_pinned(base, base, manifest.datasets), overridden=overridden
    )
    _refuse_same_directory(reproduction, config)
    _refuse_another_model(reproduction, config)
    _require_model_directory(config)
    _refuse_another_template(reproduction, config)
    return config, reproduction


def _without_consent(base: Config, needing: Mapping[str, Any], directory: str, overrides: Sequence[str]) -> str:
    """Return the configuration to reproduce as YAML, in which the command line replaces what needs its consent.

    Args:
        base: The configuration.
        needing: Its values that need consent: see `_needing_consent`.
        directory: The run's directory, as the command line gives it.
        overrides: The command line's overrides.

    Raises:
        ConfigError: The command line does not give all of these values.
    """
    given = {override.partition("=")[0] for override in overrides}
    missing = {name: value for name, value in needing.items() if name not in given}
    if missing:
        words = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in missing.items())
        raise ConfigError(
            f"from={without_credentials(directory)}: what a run recorded may be another user's, so "
            f"{', '.join(missing)} count only when this command gives them again: if they are right, add "
            f"{shlex.join(words)}"
        )
    values = plain(base)
    extra = values["engine"]["extra"]  # a mapping of the command line would be merged into the recorded one
    values["engine"]["extra"] = {name: each for name, each in extra.items() if f"engine.extra.{name}" not in needing}
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _needing_consent(recorded: Config, directory: str) -> dict[str, Any]:
    """Return the recorded values that run code, contact hosts, send keys or write elsewhere, by their dotted keys.

    Args:
        recorded: The configuration.
        directory: The run's directory, as the command line gives it: a run may be written next to it.
    """
    engine, output_dir, address = recorded.engine, recorded.output_dir, recorded.cluster.address
    is_known = output_dir == "outputs" or _lies_in(output_dir, _directory(directory), recorded.run_id)
    found = {
        "output_dir": None if is_known else output_dir,
        "model.trust_remote_code": recorded.model.trust_remote_code or None,
        "cluster.address": None if address == "local" else address,
        "engine.endpoint.base_url": engine.endpoint.base_url,
        "engine.endpoint.api_key_env": engine.endpoint.api_key_env,
    }
    for name, value in engine.extra.items():
        is_plain = name in PLAIN_ARGUMENTS or not isinstance(value, str | dict | list)
        found[f"engine.extra.{name}"] = None if is_plain else value
    return {name: value for name, value in found.items() if value is not None}


def _lies_in(output_dir: str, directory: str, run_id: str) -> bool:
    """Return whether a run's directory is the one that its configuration names."""
    if "://" not in output_dir:
        return (
            "://" not in directory
            and (expanded(output_dir) / f"run={run_id}").resolve() == expanded(directory).resolve()
        )
    (place, *query), (there, *its_query) = output_dir.split("?", 1), directory.split("?", 1)
    return f"{place.rstrip('/')}/run={run_id}" == there.rstrip("/") and query == its_query


def _directory(place: str) -> str:
    """Return the run's directory, also if the path or URI is that of its manifest.json."""
    path, query, rest = place.partition("?")
    return path.removesuffix(FILE).rstrip("/") + query + rest if path.endswith(FILE) else place


def _new_id(run_id: str) -> str:
    suffix = f"-again-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    return re.sub(r"-again-[0-9T-]{19}$", "", run_id)[: 128 - len(suffix)] + suffix


def _pinned(config: Config, recorded: Config, prompts: PromptMetadata) -> Config:
    """Return the configuration with the commits that the recorded run resolved, unless an override names others."""
    commits = {name: found for name, found in prompts.dataset_revisions.items() if not found.startswith("sha256:")}

    tasks = dict(config.tasks)
    for name, task in recorded.tasks.items():
        found, now = commits.get(name), tasks.get(name)
        if found is not None and now is not None and (now.dataset, now.revision) == (task.dataset, task.revision):
            tasks[name] = replace(now, revision=found)
    found, then, model = prompts.model_revision, recorded.model, config.model
    if found is not None and (model.path, model.revision) == (then.path, then.revision):
        model = replace(model, revision=found)
    return replace(config, tasks=tasks, model=model)


def _overridden(recorded: Config, config: Config) -> tuple[str, ...]:
    then, now = (flat(asdict(each)) for each in (recorded, config))
    names = [name for name in {**then, **now} if name.split(".")[0] not in UNCOMPARED]
    return tuple(_differences({name: then.get(name) for name in names}, {name: now.get(name) for name in names}))


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {as_text(now.get(name))}, recorded {as_text(then.get(name))}" for name in changed_names(then, now)
    ]


def _engine_values(engines: Mapping[str, EngineInfo]) -> dict[str, str]:
    return {f"engine {name}": value for name, value in engine_values(engines).items()}


def _refuse_same_directory(reproduction: Reproduction, config: Config) -> None:
    place = ArtifactStore.open(config.output_dir).child(f"run={config.run_id}")
    if place.root == reproduction.source.root and not config.run.restart:
        raise RunError(
            f"run_id={config.run_id!r} is the run that is made again, in {place.shown()}: choose another run_id"
        )


def _refuse_another_model(reproduction: Reproduction, config: Config) -> None:
    then, path = reproduction.manifest.model_fingerprint, config.model.path
    if then is None or path != reproduction.recorded.model.path:
        return
    now = model_fingerprint(config.model)
    if now != then:
        what = "is no directory" if now is None else f"holds another model ({now}, recorded {then})"
        raise ModelError(
            f"model.path={path!r} {what}: give the directory of the model that {reproduction.source.shown()} was made "
            f"with, model.path=<dir>, or make a new run with conf={reproduction.recorded.conf}"
        )


def _require_model_directory(config: Config) -> None:
    """Check that the model's directory exists, also if an override names it or the manifest has no fingerprint."""
    if config.engine.kind != "vllm":
        return
    try:
        require_directory(config.model)
    except ModelError as error:
        raise ModelError(f"{error}: give the directory of the model, model.path=<dir>") from error


def _refuse_another_template(reproduction: Reproduction, config: Config) -> None:
    """Compare a template file with the copy in the recorded run."""
    path, kept = config.prompt.chat_template, reproduction.source.shown(TEMPLATE_FILE)
    if (
        path is None
        or path != reproduction.recorded.prompt.chat_template
        or not reproduction.source.exists(TEMPLATE_FILE)
    ):
        return
    fix = f"give the one that the run kept, prompt.chat_template={kept}"
    if reproduction.source.local is None:
        fix += " copied to this machine"
    try:
        now = read_template(config.prompt)
    except ModelError as error:
        raise ModelError(f"{error}: {fix}") from error
    if now != reproduction.source.read_text(TEMPLATE_FILE):
        raise ModelError(f"prompt.chat_template={path!r} is not what it was in {reproduction.source.shown()}: {fix}")
