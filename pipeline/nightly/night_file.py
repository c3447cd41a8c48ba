"""Reads the file of a night: which runs, and who is notified.

In: YAML with `runs: {name: arguments of run}` and `notify`, and the arguments of the command line for all runs. Out:
the runs with their configurations. What is wrong with the file ends the night before it starts; a run whose arguments
are wrong is planned with its error, and the others are not affected.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.fields import LATEST, require
from pipeline.config.paths import HOME, expanded
from pipeline.config.plain_yaml import MOST_BYTES
from pipeline.config.schema import ENVIRONMENT_NAME, RUN_ID, Config
from pipeline.config.secrets import require_no_credentials
from pipeline.config.values import read_yaml
from pipeline.errors import ConfigError, PipelineError

NOTIFY_FIX = "{url_env: <name of a variable that holds the URL>} or {command: [<program>, <argument>]}"
NAME_FIX = "letters, digits, . _ and -, at most 128, beginning with a letter or digit"

Resolve = Callable[[Sequence[str]], tuple[Config, Any]]
"""Returns the configuration that the arguments of `run` describe; raises a `PipelineError` if they are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConfig:
    """Who receives the record of a night: the URL in the variable `url_env`, and the input of `command`."""

    url_env: str | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NightFile:
    """The runs of a night, by name the arguments of each, and the notification."""

    runs: dict[str, str]
    notify: NotifyConfig = NotifyConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run of a night: the arguments of its process and the configuration, or why there is none."""

    name: str
    run_id: str
    arguments: tuple[str, ...]
    config: Config | None = None
    error: str | None = None


def read(path: str) -> NightFile:
    """Return what a night's file holds. A relative path may also be one of the installed package.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or holds no runs, a wrong name or an unknown key.
    """
    try:
        values = read_yaml(_text(path), NightFile, f"runs={path}")
    except ConfigError as error:
        # The value may be the URL itself, given in the wrong place, so the message does not repeat it.
        if str(error).startswith(f"runs={path}: notify") and "must be" in str(error):
            raise ConfigError(f"runs={path}: notify must be {NOTIFY_FIX}") from None
        raise
    if not values.get("runs"):
        raise ConfigError(f"runs={path} names no runs: give it runs: {{name: conf=demo}}")
    for name in values["runs"]:
        if not re.fullmatch(RUN_ID, name):
            raise ConfigError(f"runs={path}: {name!r} is no name of a run: {NAME_FIX}")
    return NightFile(runs=values["runs"], notify=_notify(values.get("notify", {}), path))


def _text(path: str) -> str:
    places = [expanded(path), HOME / path]
    try:
        place = next((each for each in places if each.exists()), None)
        if place is None:
            raise ConfigError(f"runs={path}: there is no such file; conf/night.yaml is an example")
        if not place.is_file():  # a FIFO waits for its writer, and a device may have no end
            raise ConfigError(f"runs={path} is no regular file: write the runs into a file, such as conf/night.yaml")
        with place.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ConfigError(f"runs={path} is larger than {MOST_BYTES:,} bytes: it is no file of runs")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"runs={path} is not YAML: {error}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"runs={path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _notify(values: dict[str, Any], path: str) -> NotifyConfig:
    config = NotifyConfig(url_env=values.get("url_env"), command=tuple(values.get("command", ())))
    if config.url_env is not None and not ENVIRONMENT_NAME.fullmatch(config.url_env):
        # It may be the URL itself, given by mistake, so the message does not repeat it.
        raise ConfigError(f"runs={path}: notify.url_env is no name of an environment variable: export the URL in one")
    if len(config.command) == 1:
        try:
            config = replace(config, command=tuple(shlex.split(config.command[0])))
        except ValueError as error:
            raise ConfigError(f"runs={path}: notify.command: {error}") from error
    if "command" in values and not (config.command and config.command[0]):
        raise ConfigError(f"runs={path}: notify.command is empty: give a program and its arguments, or leave it out")
    return config


def plan(night: str, file: NightFile, for_all: Sequence[str], resolve: Resolve) -> list[PlannedRun]:
    """Return the runs of a night in their order, each with its configuration or its error.

    Args:
        night: The night's id, with which the run_ids begin.
        file: The night's file.
        for_all: Arguments that are added to those of each run, and override them.
        resolve: Returns the configuration of a run's arguments.

    Raises:
        ConfigError: The night's id is none, or an argument for all sets the run_id.
    """
    if not re.fullmatch(RUN_ID, night) or night == LATEST:
        raise ConfigError(f"night={night!r}: {NAME_FIX}, and not {LATEST}")
    if any(argument.startswith("run_id=") for argument in for_all):
        raise ConfigError("run_id= is made of the night's id and the run's name: leave it out")
    return [_planned(name, f"{night}-{name}", text, for_all, resolve) for name, text in file.runs.items()]


def _planned(name: str, run_id: str, text: str, for_all: Sequence[str], resolve: Resolve) -> PlannedRun:
    run = PlannedRun(name=name, run_id=run_id, arguments=())
    try:
        arguments = shlex.split(text)
        if any(argument.startswith("run_id=") for argument in arguments):
            raise ConfigError("run_id= is made of the night's id and the run's name: leave it out")
        run = replace(run, arguments=(*arguments, *for_all, f"run_id={run_id}"))
        config, _ = resolve(run.arguments)
        if config.run.restart:
            raise ConfigError("run.restart=true would choose another run_id: leave it out, and give another night=")
    except PipelineError as error:
        return replace(run, error=str(error))
    except (OSError, ValueError) as error:  # of a path that no file system can hold, and of an open quotation
        return replace(run, error=str(getattr(error, "strerror", None) or error))
    return replace(run, config=config)


def output_dir(runs: Sequence[PlannedRun], for_all: Sequence[str]) -> str:
    """Return the directory of all runs of a night, also if the arguments of none are right.

    Raises:
        ConfigError: Two runs have different ones, or that of all runs is empty or holds credentials.
    """
    given = [argument.partition("=")[2] for argument in for_all if argument.startswith("output_dir=")]
    if given:  # each run refuses it too, but the night writes there whatever becomes of its runs
        require(bool(given[-1]), "output_dir", given[-1], "give a path or a URI")
        require_no_credentials("output_dir", given[-1])
    found = dict.fromkeys(run.config.output_dir for run in runs if run.config is not None)
    if len(found) > 1:
        raise ConfigError(
            f"the runs of a night have one output_dir, and these have {', '.join(map(repr, found))}: give the command "
            "output_dir=, which then is that of all"
        )
    return next(iter(found), given[-1] if given else str(Config.__dataclass_fields__["output_dir"].default))
