"""Reads a run's config.yaml as plain values: a hundred times faster than OmegaConf, and bounded.

In: the text of a config.yaml, which may be that of somebody else's run. Out: a mapping. PyYAML's C parser overflows the
stack at some ten thousand nested lists, and an alias lets a short text stand for any number of values, so the text's
size and depth are limited, and aliases and tags refused, before it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.errors import ConfigError

MOST_BYTES = 1 << 18
"""Maximum size of a config.yaml. A run writes about 6 KB."""

MOST_DEPTH = 40
"""Maximum depth of nested lists and mappings."""


def check(text: str, where: str) -> None:
    """Check that a recorded configuration can be loaded safely.

    Args:
        text: The content of config.yaml.
        where: Names the text in error messages.

    Raises:
        ConfigError: It is not YAML, too large or too deeply nested, or has aliases or tags, which no run writes.
    """
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{where} is larger than {MOST_BYTES:,} characters: no run wrote it")
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                raise ConfigError(f"{where} has an alias or a tag: no run wrote it")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ConfigError(f"{where} is nested more than {MOST_DEPTH} deep: no run wrote it")
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error


def read(text: str, where: str) -> dict[str, Any]:
    """Return a recorded configuration as plain values, without checking its keys.

    Raises:
        ConfigError: As `check`, or it holds no mapping of names.
    """
    check(text, where)
    try:
        found = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date or a number that Python cannot hold
        raise ConfigError(f"{where} is not YAML: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{where} must hold keys and values, not a list or a single value")
    return found


def value(values: Mapping[str, Any], *names: str, default: Any = None) -> Any:
    """Return the value at a path of nested keys, or `default` if a key is missing."""
    found: Any = values
    for name in names:
        if not isinstance(found, Mapping) or name not in found:
            return default
        found = found[name]
    return found
