"""Where the files are that a configuration names: its own directory, the working directory, or the installed package.

In: `model.path`, `prompt.chat_template` and `tasks.<t>.dataset` as a conf file has them. Out: the same text where it is
right from the working directory, else the path of what is next to the conf file. A text that names nothing is left
as it is: it may be an id of the hub.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]

HOME = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
"""Holds conf/ and data/demo/: the package where it was installed from a wheel, else the project's directory."""

IS_PATH = re.compile(r"model\.path|prompt\.chat_template|tasks\.[^.]+\.dataset")
"""Matches the keys whose value may be a path."""

LOCAL = re.compile(r"^(\.{0,2}/|data/)|[*?\[]|\.(jsonl?|parquet|jinja)$")
"""Matches a relative text that can only be a path, not an id of the hub."""


def expanded(text: str) -> Path:
    """Return a path with `~` replaced; one of a user who does not exist stays as it is, and so names nothing."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  # Path.expanduser raises for an unknown user


def locate(layer: Mapping[str, Any], directory: Path) -> None:
    """Replace the relative paths in the values of one conf file that name something in its directory.

    Args:
        layer: The values of the file, nested; changed in place.
        directory: The directory of the file.
    """
    for section, name in (("model", "path"), ("prompt", "chat_template")):
        _replace(layer.get(section), name, directory)
    tasks = layer.get("tasks")
    for task in tasks.values() if isinstance(tasks, Mapping) else ():
        _replace(task, "dataset", directory)


def _replace(section: Any, name: str, directory: Path) -> None:
    text = section.get(name) if isinstance(section, MutableMapping) else None
    if not isinstance(text, str) or not text or text.startswith(("/", "~")):
        return
    place = os.path.normpath(directory.absolute() / text)
    if place != os.path.normpath(Path.cwd() / text) and _exists(place):
        section[name] = _shown(Path(place))


def _shown(place: Path) -> str:
    """Return a path relative to the working directory if it is there, which is the same on every host of a cluster.

    What is in `HOME` has one text in each directory, so that `portable` knows it.
    """
    here = Path.cwd()
    is_below = place.is_relative_to(here) and (here == HOME or not place.is_relative_to(HOME))
    return str(place.relative_to(here)) if is_below else str(place)


def portable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys with their values, in which a path in `HOME` is relative to it.

    Two runs of conf=demo are of the same settings wherever they are started and wherever the package is installed.
    """
    return {name: portable_path(value) if IS_PATH.fullmatch(name) else value for name, value in values.items()}


def portable_path(text: Any) -> Any:
    """Return a path relative to `HOME` if it is there; anything else is returned as it is."""
    if isinstance(text, str) and text.startswith("/") and Path(text).is_relative_to(HOME):
        return str(Path(text).relative_to(HOME))
    return text


def require_found(config: Config, directory_of: Callable[[str], Path | None]) -> None:
    """Check the relative paths of a configuration that can only be files.

    Args:
        config: The configuration.
        directory_of: Returns the directory of the conf file that sets a key; None if no file does.

    Raises:
        ConfigError: A path that a conf file sets names nothing; the message names both places that were searched.
    """
    for name, text in _paths(config):
        if text.startswith(("/", "~")) or not LOCAL.search(text) or _exists(text):
            continue
        directory = directory_of(name)
        if directory is not None:
            raise ConfigError(
                f"{name}={text!r}: there is no such file or directory, neither {os.path.normpath(directory / text)} "
                f"(next to the conf file) nor {os.path.normpath(Path.cwd() / text)} (in the working directory)"
            )


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    if config.engine.kind == "vllm" and config.model.path:
        yield "model.path", config.model.path
    if config.prompt.chat_template:
        yield "prompt.chat_template", config.prompt.chat_template
    for name, task in config.active_tasks.items():
        yield f"tasks.{name}.dataset", task.dataset


def _exists(text: str) -> bool:
    """Return whether a path exists, or a pattern matches a file."""
    return os.path.exists(text) or (glob.has_magic(text) and bool(glob.glob(text, recursive=True)))  # noqa: PTH110, PTH207
