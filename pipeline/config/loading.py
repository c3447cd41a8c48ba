"""Builds a `Config` from conf/*.yaml and `key=value` arguments.

In: command-line arguments. Out: one validated `Config`. A conf file may begin with `base:`, a list of files to build on
(names in conf/, or paths). A later base overrides an earlier one, the file overrides its bases, and command-line
overrides win over all files.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from pipeline.config import paths, plain_yaml
from pipeline.config.model_words import without_foreign_words
from pipeline.config.paths import HOME
from pipeline.config.schema import Config, TaskConfig
from pipeline.config.values import read_override, read_yaml
from pipeline.errors import ConfigError

COMMAND_LINE = "command line"

NO_CONFIGURATIONS = {"night"}
"""Files in conf/ that are no configurations: the example of a night's runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ConfFile(Config):
    """What a conf file may hold: the keys of a configuration, and the files that it builds on."""

    base: tuple[str, ...] = ()


def compose(arguments: Sequence[str]) -> Config:
    """Return the configuration that the arguments `conf=<name or path> key=value ...` resolve to.

    Raises:
        ConfigError: An argument, a file, a key or a value is invalid; the message is one line and names the fix.
    """
    layers = _layers_of(arguments)
    try:
        return _resolved(without_foreign_words([layer for _, layer in layers]))
    except ConfigError as error:
        raise ConfigError(f"{error}{_set_in(str(error), layers)}") from error


def _set_in(message: str, layers: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the conf file that sets the key with which an error message begins, to add to it; empty without one."""
    key = re.match(r"[A-Za-z_][\w.-]*", message)
    names = key[0].split(".") if key else []
    origins = [origin for origin, layer in layers if names and _has(layer, names)]
    return f" (in {origins[-1]})" if origins and origins[-1] != COMMAND_LINE else ""


def _has(layer: Mapping[str, Any], names: Sequence[str]) -> bool:
    found: Any = layer
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return False
        found = found[name]
    return True


def _resolved(layers: Sequence[Mapping[str, Any]]) -> Config:
    """Return the configuration that the layers make: a later one wins, mappings are merged, lists replaced."""
    merged = OmegaConf.merge(_defaults(), *map(_literal, layers))
    return cast("Config", OmegaConf.to_object(merged))


@functools.cache
def _defaults() -> DictConfig:
    """Return the schema with its defaults; `merge` copies it."""
    defaults: DictConfig = OmegaConf.structured(Config)
    return defaults


def _literal(value: Any) -> Any:
    """Return the values with each `${` escaped: OmegaConf would replace `${x}` by the value of a key x."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


def origins(arguments: Sequence[str]) -> dict[str, str]:
    """Return the source of each key that the arguments and their files set: a conf file, or COMMAND_LINE.

    Keys are dotted, as `flat` returns them. A key that is missing has the schema's default.

    Raises:
        ConfigError: As `compose` does.
    """
    found: dict[str, str] = {}
    for origin, layer in _layers_of(arguments):
        found |= dict.fromkeys(flat(layer), origin)
    return found


def given(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the name or path after `conf=`, and the values of all `key=value` arguments, nested.

    Raises:
        ConfigError: As `compose` does.
    """
    layers = [layer for origin, layer in _layers_of(arguments) if origin == COMMAND_LINE]
    values = OmegaConf.merge(*map(_literal, layers[:-1])) if layers[:-1] else OmegaConf.create()
    plain_values = cast("dict[str, Any]", OmegaConf.to_container(values, resolve=True))
    return next(argument.removeprefix("conf=") for argument in arguments if argument.startswith("conf=")), plain_values


def directory_of(arguments: Sequence[str], name: str) -> Path | None:
    """Return the directory of the conf file that sets a dotted key; None if the command line or no file sets it.

    Raises:
        ConfigError: As `compose` does.
    """
    confs = [argument.removeprefix("conf=") for argument in arguments if argument.startswith("conf=")]
    if len(confs) != 1 or any(argument.startswith(f"{name}=") for argument in arguments):
        return None
    found = [file for file, layer in _layers(find_conf(confs[0]), ()) if name in flat(layer)]
    return found[-1].parent.absolute() if found else None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted keys. An empty inner mapping counts as a value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def _layers_of(arguments: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return (source, layer) pairs in order of precedence: a later layer overrides an earlier one."""
    confs = [argument.removeprefix("conf=") for argument in arguments if argument.startswith("conf=")]
    overrides = _overrides([argument for argument in arguments if not argument.startswith("conf=")])
    if len(confs) != 1:
        raise ConfigError(f"conf= must be given once; there are: {', '.join(conf_names())}")
    path = find_conf(confs[0])
    layers = [(_display_path(file), layer) for file, layer in _layers(path, ())]
    from_arguments = [*overrides, {"conf": path.stem}]
    return [*layers, *((COMMAND_LINE, layer) for layer in from_arguments)]


def _overrides(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Return the values of `key=value` arguments, a layer each."""
    found: list[dict[str, Any]] = []
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator or not name:
            raise ConfigError(f"{argument!r} is not key=value: write for instance limit=10")
        if not value:
            raise ConfigError(f"{name}= has no value: give one, or null for none")
        found.append(read_override(name, value, Config))
    return found


def _display_path(path: Path) -> str:
    """Return the path of a conf file for display, relative to the directory of the project's conf/ if it is in that."""
    whole = path.resolve()
    return str(whole.relative_to(HOME)) if whole.is_relative_to(HOME) else str(path)


def load(text: str, where: str, arguments: Sequence[str] = (), model: str | None = None) -> Config:
    """Return the configuration that a run recorded in its config.yaml, with `key=value` overrides applied.

    Args:
        text: The content of config.yaml.
        where: Names the text in error messages.
        arguments: Overrides.
        model: The model that the run evaluated, where it is known: what is recorded about another one is left out.

    Raises:
        ConfigError: The text is not a resolved configuration, or an override is invalid.
    """
    overrides = _overrides(arguments)
    plain_yaml.check(text, where)
    recorded = read_yaml(text, Config, where)
    try:
        config = _resolved([recorded])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return _resolved(without_foreign_words([recorded, *overrides], model)) if overrides else config


def dump(config: Config) -> str:
    """Return the resolved configuration as YAML, as a run records it."""
    return str(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))


def plain(config: Config) -> dict[str, Any]:
    """Return the resolved configuration as plain values that JSON and YAML can hold."""
    values: dict[str, Any] = _plain(asdict(config))
    return values


def conf_names() -> list[str]:
    """Return the names that `conf=` accepts, from ./conf and from the project's own conf/."""
    directories = {Path("conf").resolve(), HOME / "conf"}
    return sorted({file.stem for directory in directories for file in directory.glob("*.yaml")} - NO_CONFIGURATIONS)


def find_conf(name: str, base_of: Path | None = None) -> Path:
    """Return the file that `name`, a name in conf/ or a path, refers to.

    With `base_of`, the file whose base it is, files next to that one are found too, and never the file itself.

    Raises:
        ConfigError: There is no such file.
    """
    nearby = [] if base_of is None else [base_of.parent / name]
    if name.endswith((".yaml", ".yml")):
        places = [*nearby, Path(name), Path("conf", name), HOME / "conf" / name]
    else:
        nearby = [Path(f"{place}.yaml") for place in nearby]
        places = [Path("conf", f"{name}.yaml"), *nearby, HOME / "conf" / f"{name}.yaml"]
    for place in places:
        if place.is_file() and not (base_of is not None and place.samefile(base_of) and place != places[-1]):
            return place
    near = difflib.get_close_matches(name, conf_names(), n=1)
    hint = f"Did you mean: {near[0]!r}?" if near else f"there are: {', '.join(conf_names())}"
    raise ConfigError(f"conf={name!r}: no such configuration. {hint}")


def _layers(path: Path, above: tuple[Path, ...]) -> list[tuple[Path, dict[str, Any]]]:
    """Return the file's bases, deepest first, then the file itself, each with its path."""
    if path in above:
        raise ConfigError(f"{path}: base: goes round in a circle: {' -> '.join(map(str, (*above, path)))}")
    try:
        own = read_yaml(path.read_text(encoding="utf-8"), _ConfFile, _display_path(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    bases = own.pop("base", [])
    paths.locate(own, path.parent)
    layers = [layer for base in bases for layer in _layers(find_conf(base, path), (*above, path))]
    return [*layers, (path, own)]


def describe() -> list[tuple[str, str, str, str]]:
    """Return (key, type, default, meaning) of every key, in the schema's order."""
    return _describe(Config, "")


def _describe(cls: type[Any], prefix: str) -> list[tuple[str, str, str, str]]:
    rows: list[tuple[str, str, str, str]] = []
    hints = get_type_hints(cls)
    for item in fields(cls):
        name, hint = f"{prefix}{item.name}", hints[item.name]
        if is_dataclass(hint):
            rows += _describe(cast("type[Any]", hint), f"{name}.")
        elif cls is Config and item.name == "tasks":
            rows += _describe(TaskConfig, "tasks.<name>.")
        else:
            default = item.default if item.default is not MISSING else {}
            default_text = (
                yaml.safe_dump(_plain(default), default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
            )
            rows.append((name, _type_name(hint), default_text, item.metadata["meaning"]))
    return rows


def _type_name(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", ()) else str(hint)
    return text.replace("typing.", "").replace("NoneType", "null").replace("None", "null")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
