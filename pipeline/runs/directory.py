"""A run's directory: create it, resume the run in it, or refuse.

In: a configuration. Out: the run's directory with its config.yaml. A run is resumed only if everything that determines
its completions is unchanged; where it runs, the number of engines and monitoring may change.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.config import loading
from pipeline.config.paths import expanded
from pipeline.config.plain_yaml import MOST_BYTES
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, PipelineError, RunError
from pipeline.runs.evaluated import evaluated_model
from pipeline.runs.identity import identity
from pipeline.runs.lock import is_held
from pipeline.runs.manifest import FILE, Manifest, PromptMetadata, prompt_metadata, read_manifest
from pipeline.runs.model_files import model_fingerprint, read_template
from pipeline.storage.artifacts import ArtifactStore

CONFIG_FILE = "config.yaml"

TEMPLATE_FILE = "prompts/chat_template.jinja"
"""The chat template of the prompts, stored by prepare/stage.py."""

RAY_CACHE = "runtime_resources"
"""Directory of a Ray session with working directories of jobs, which it removes when others need the space."""

MADE = ("prompts", "journal", "completions", "noise", "samples")
"""What a run makes once its configuration is recorded: without that, anyone may have put it there."""

NEW_ID = "choose another run_id, or run.restart=true"


def require_lasting(output_dir: str) -> None:
    """Check that a Ray job does not write its run where Ray keeps the job's files, which it deletes.

    Raises:
        ConfigError: The directory is relative, or inside of Ray's copies of working directories.
    """
    directory = expanded(output_dir.removeprefix("file://")).resolve()
    is_local = "://" not in output_dir or output_dir.startswith("file://")
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or RAY_CACHE in Path.cwd().parts
    is_relative = is_local and not output_dir.startswith(("/", "~", "file://"))
    if (in_job and is_relative) or (is_local and RAY_CACHE in directory.parts):
        raise ConfigError(
            f"output_dir={output_dir!r}: this is a Ray job, and {directory} is on one host alone, among files that Ray "
            "deletes: give the path of a directory that all hosts share, or object storage (s3://...)"
        )


@dataclass(frozen=True, slots=True)
class NewDirectories:
    """What a run makes on a disk before it has prepared anything: of these directories, none was there before."""

    parents: tuple[Path, ...]

    @classmethod
    def before(cls, config: Config) -> NewDirectories:
        """Return the directories of output_dir and above it that do not exist yet, the innermost first."""
        local = ArtifactStore.open(config.output_dir).local
        places = (local, *local.parents) if local is not None else ()
        return cls(tuple(place for place in places if not place.exists()))

    def discard(self, run: ArtifactStore) -> None:
        """Remove the directory of a run that found nothing to prepare, and the new ones above it that are empty.

        A run that found its data sets and its model is kept, with the reason of its failure in the manifest.
        """
        with suppress(PipelineError, OSError):  # the error that ended the run is the one to report
            manifest = read_manifest(run)
            if manifest is not None and manifest.datasets != PromptMetadata():
                return
            run.remove()
            for parent in self.parents:
                parent.rmdir()


def is_empty(run: ArtifactStore) -> bool:
    """Return whether a directory holds nothing, as that of a new run."""
    return not run.directories() and not run.files(recursive=False)


def place(config: Config) -> tuple[ArtifactStore, Config]:
    """Create the run's directory, or open the existing one.

    Returns:
        The directory, and the configuration with its `run_id`.

    Raises:
        RunError: The directory cannot be written.
    """
    output = ArtifactStore.open(config.output_dir)
    run_id = config.run_id or f"{config.conf}-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    if config.run.restart:
        names = (run_id if number == 1 else f"{run_id}.{number}" for number in count(1))
        run_id = next(name for name in names if not output.exists(f"run={name}"))
    run = output.child(f"run={run_id}")
    run.create()
    return run, replace(config, run_id=run_id)


def with_recorded_context(config: Config) -> Config:
    """Return the configuration with the context that its run was begun with, where it has none of its own.

    Runs of older versions have a default that was not the model's own.

    Raises:
        DataError: What the run recorded is damaged.
        ConfigError: It is not of this version.
    """
    if config.engine.kind != "vllm" or config.model.context_size is not None:
        return config
    if not config.run_id or config.run.restart:
        return config
    run = ArtifactStore.open(config.output_dir).child(f"run={config.run_id}")
    if not run.exists(CONFIG_FILE):
        return config
    return replace(config, model=replace(config.model, context_size=recorded(run).model.context_size))


def finished(config: Config) -> tuple[ArtifactStore, Config, Manifest] | None:
    """Return the complete run that the configuration names, with what it recorded, or None if there is work to do.

    There is work to do if the run is new or not complete, or has failed rows that `run.retry_failed` retries. Nothing
    is written, and the run's lock is not needed.

    Raises:
        RunError: The run is complete, and was begun with another configuration, model or template file.
        ModelError: The template file cannot be read.
        DataError: The run's manifest or configuration is damaged.
    """
    if not config.run_id or config.run.restart:
        return None
    run = ArtifactStore.open(config.output_dir).child(f"run={config.run_id}")
    manifest = read_manifest(run)
    if manifest is None or not manifest.is_complete or (manifest.num_failed and config.run.retry_failed):
        return None
    _require_unchanged(run, config, manifest)
    return run, recorded(run), manifest


def begin(run: ArtifactStore, config: Config) -> None:
    """Record the configuration in a run's directory, or check that it matches the recorded one.

    The caller holds the run's lock.

    Raises:
        RunError: The run is complete; it was started with another configuration, model or template file; or the files
            that record these are missing.
        ModelError: The template file cannot be read.
        DataError: The run's manifest is damaged.
    """
    manifest = read_manifest(run)
    if manifest is not None and manifest.is_complete:
        run.require_unpruned()
        if not manifest.num_failed:
            raise RunError(
                f"run_id={config.run_id!r} is complete in {run.shown()}: choose another run_id, or rescore it"
            )
        if not config.run.retry_failed:
            raise RunError(
                f"run_id={config.run_id!r} is complete in {run.shown()}, and {manifest.num_failed} rows failed: "
                "run.retry_failed=true tries these again, or choose another run_id"
            )
    _require_unchanged(run, config, manifest)
    if run.exists("completions/_stage.json") and not run.exists("prompts/_stage.json"):
        raise RunError(
            f"{run.path('prompts')} is gone and {run.path('completions')} was made from it: put it back, or {NEW_ID}"
        )
    _remove_leftovers(run)
    record(run, config)


def record(run: ArtifactStore, config: Config) -> None:
    """Write the configuration of a run into its directory; the caller holds its lock.

    Raises:
        RunError: The directory cannot be written.
    """
    run.write_text(CONFIG_FILE, loading.dump(config))


def keep_config(run: ArtifactStore, config: Config) -> None:
    """Record the configuration of a run that ends, if its file was deleted meanwhile.

    Raises:
        RunError: The directory cannot be written.
    """
    if not run.exists(CONFIG_FILE):
        record(run, config)


def _require_unchanged(run: ArtifactStore, config: Config, manifest: Manifest | None) -> None:
    """Check that a run was begun with this configuration, model and template file, as far as it has begun.

    Raises:
        RunError: One of them differs, or the run's configuration is missing.
        ModelError: The template file cannot be read.
        DataError: What the run recorded is damaged.
    """
    if run.exists(CONFIG_FILE):
        difference = _difference(identity(recorded(run)), identity(config))
        if difference is not None:
            name, was, comes = difference
            raise RunError(f"run_id={config.run_id!r} was begun with {name}={was!r}, not {comes!r}: {NEW_ID}")
    elif any(run.exists(name) for name in MADE):
        raise RunError(f"{run.shown(CONFIG_FILE)} is missing, so the origin of its files is unknown: {NEW_ID}")
    stored = run.metadata("prompts")
    made_with = prompt_metadata(run.child("prompts"), stored) if stored else manifest
    fingerprint = made_with.model_fingerprint if made_with is not None else None
    is_vllm = config.engine.kind == "vllm"  # older runs of an endpoint recorded the fingerprint of an unused model.path
    if is_vllm and fingerprint is not None and fingerprint != model_fingerprint(config.model):
        raise RunError(
            f"model.path={config.model.path!r} holds another model than when run_id={config.run_id!r} was begun: "
            f"{NEW_ID}"
        )
    template = read_template(config.prompt)
    if template is not None and run.exists(TEMPLATE_FILE) and run.read_text(TEMPLATE_FILE) != template:
        raise RunError(
            f"prompt.chat_template={config.prompt.chat_template!r} holds another template than when "
            f"run_id={config.run_id!r} was begun: give back that one, kept in {run.shown(TEMPLATE_FILE)}, "
            "choose another run_id, or run.restart=true"
        )


LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}")
"""Name of a temporary file whose process crashed: see `Directory.partial_files`."""


def _remove_leftovers(run: ArtifactStore) -> None:
    """Delete the temporary files and directories of a crashed process; nothing reads them."""
    for name in run.directories():
        if name.startswith("."):
            run.remove(name)
    for name in run.files(recursive=False):
        if LEFTOVER.fullmatch(name):
            run.remove(name)


def open_finished(
    directory: str, arguments: Sequence[str] = (), argument: str = "run", *, to_write: bool = False
) -> tuple[ArtifactStore, Config]:
    """Open the directory of an existing run, with its recorded configuration.

    Args:
        directory: A path or a URI.
        arguments: `key=value` overrides of the recorded configuration.
        argument: Name of the argument that gave the directory, for the messages.
        to_write: The run will be written: a link is refused, which another user may have put in the run's place.

    Raises:
        RunError: There is no such run, or its directory is refused.
        ConfigError: Its config.yaml is not of this version, or an override is wrong.
    """
    run = ArtifactStore.open(directory)
    if to_write and "://" not in directory and expanded(directory.rstrip("/")).is_symlink():
        raise RunError(f"{argument}={directory} is a symbolic link: give the directory itself, {run.shown()}")
    if not run.exists():
        raise RunError(f"{argument}={directory}: there is no such directory")
    if not run.exists(CONFIG_FILE):
        raise RunError(f"{argument}={directory}: the directory holds no {CONFIG_FILE}, so it is not a run's")
    return run, recorded(run, arguments, _evaluated(run) if arguments else None)


def _evaluated(run: ArtifactStore) -> str | None:
    """Return the model that a run evaluated, None if it has no manifest."""
    manifest = read_manifest(run)
    return evaluated_model(recorded(run), manifest) if manifest is not None else None


def require_complete(run: ArtifactStore) -> Manifest:
    """Return the manifest of a complete run.

    Raises:
        RunError: The run is not complete.
        DataError: Its manifest is damaged.
    """
    manifest = read_manifest(run)
    if manifest is None or not manifest.is_complete:
        state = f"without a {FILE}" if manifest is None else status(run, manifest)
        raise RunError(f"{run.shown()} is {state}, not complete: its own run_id resumes it")
    return manifest


def status(run: ArtifactStore, manifest: Manifest) -> str:
    """Return a run's status to show: that of its manifest, or `crashed` if it is `running` and no process holds it.

    Raises:
        RunError: The storage does not respond.
    """
    return "crashed" if manifest.status == "running" and not is_held(run) else manifest.status


def recorded(run: ArtifactStore, arguments: Sequence[str] = (), model: str | None = None) -> Config:
    """Return a run's recorded configuration, with `arguments` as overrides.

    With `model`, the evaluated model, words about another one are left out.

    Raises:
        DataError: Its config.yaml cannot be read.
        ConfigError: Its config.yaml is not of this version, or an override is wrong.
    """
    return loading.load(run.read_text(CONFIG_FILE, MOST_BYTES), run.shown(CONFIG_FILE), arguments, model)


def _difference(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any] | None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            return name, before.get(name), now.get(name)
    return None
