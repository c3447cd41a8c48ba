"""Declares configuration keys and checks their values.

`key` makes a dataclass field from a default, a meaning and bounds. `check_bounds` raises `ConfigError` for a value that
is outside them. The keys themselves are in `schema.py`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields, is_dataclass
from typing import Any, TypedDict, TypeVar, Unpack, cast

from pipeline.errors import ConfigError

T = TypeVar("T")

MAX_INT = 2**63 - 1

LATEST = "latest"
"""Value that selects the newest suitable run where a key names a run. No run can have this name."""


class Bounds(TypedDict, total=False):
    """Bounds on the value of a key, or on every item of a tuple or mapping. null satisfies all bounds."""

    at_least: float
    above: float
    at_most: float
    below: float
    pattern: str
    """A regular expression that must match the whole text. `key` then needs a `fix`."""


SATISFIES: Mapping[str, Callable[[Any, Any], bool]] = {
    "at_least": operator.ge,
    "above": operator.gt,
    "at_most": operator.le,
    "below": operator.lt,
    "pattern": lambda text, pattern: re.fullmatch(pattern, text) is not None,
}


def key(default: T, meaning: str, *, fix: str = "", **bounds: Unpack[Bounds]) -> T:
    """Declare a key: its default, the meaning that `--help` and docs/configuration.md print, and its bounds.

    `fix` ends the error message for a value outside the bounds; without it the message states the bounds.
    """
    metadata = {"meaning": meaning, "bounds": bounds, "fix": fix or _fix(bounds)}
    if isinstance(default, dict):
        return cast("T", field(default_factory=default.copy, metadata=metadata))
    made: T = field(default=default, metadata=metadata)
    return made


def _fix(bounds: Mapping[str, Any]) -> str:
    match bounds:
        case {"at_least": low, "at_most": high}:
            return f"must be from {low} to {high}"
        case {"at_least": 0}:
            return "must be 0 or more"
        case _:
            return "must be " + " and ".join(f"{name.replace('_', ' ')} {limit}" for name, limit in bounds.items())


def check_bounds(section: Any, prefix: str = "") -> None:
    """Check the values of a configuration, or of a section whose keys begin with `prefix`, against their bounds.

    Raises:
        ConfigError: A value is outside its bounds; the message names the full key, the value and the fix.
    """
    for item in fields(section):
        for name, value in _items(prefix + item.name, getattr(section, item.name)):
            if is_dataclass(value):
                check_bounds(value, f"{name}.")
            elif value is not None:
                require(_is_inside(value, item.metadata["bounds"]), name, value, item.metadata["fix"])
                require_sizes(name, value)


def require_sizes(name: str, value: Any) -> None:
    """Check that numbers at any depth of a value are finite, and that whole ones fit in 64 bits.

    JSON and Parquet hold no others, and `nan` is not equal to itself, so that a run with it could not be resumed.

    Raises:
        ConfigError: One is not; the message names the key, the value and the fix.
    """
    if isinstance(value, Mapping):
        for inner, item in value.items():
            require_sizes(f"{name}.{inner}", item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            require_sizes(name, item)
    elif isinstance(value, int):
        require(abs(value) <= MAX_INT, name, value, f"must be at most {MAX_INT}")
    elif isinstance(value, float):
        require(math.isfinite(value), name, value, "must be a finite number")


def _is_inside(value: Any, bounds: Mapping[str, Any]) -> bool:
    try:
        return all(SATISFIES[bound](value, limit) for bound, limit in bounds.items())
    except TypeError:  # OmegaConf accepts a mapping as an item of dict[str, float]
        return False


def _items(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Return (name, value) of a key, or of each item of its tuple or mapping; error messages use the name."""
    if isinstance(value, Mapping):
        return [(f"{name}.{inner}", item) for inner, item in value.items()]
    return [(name, item) for item in value] if isinstance(value, tuple) else [(name, value)]


def require(ok: bool, name: str, value: object, fix: str) -> None:
    """Raise `ConfigError` naming the key, its value and the fix, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name}={value!r}: {fix}")
