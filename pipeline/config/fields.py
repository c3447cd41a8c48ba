"""How a key of the configuration is declared and checked.

In: a default, a meaning, a value. Out: a dataclass field, or a `ConfigError` that names the key. The keys themselves
are in `config.py`, `engines.py`, `submission.py` and `gating.py`.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import TypeVar, cast
from urllib.parse import urlsplit

from pipeline.errors import ConfigError

T = TypeVar("T")

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

LATEST = "latest"
"""What stands for the newest suitable run where a key names a run; no run has this name."""


def key(default: T, meaning: str) -> T:
    """Declare a key with its default and the line that `--help` and the README print for it."""
    if isinstance(default, dict):
        values = dict(default)
        return cast("T", field(default_factory=lambda: dict(values), metadata={"meaning": meaning}))
    made: T = field(default=default, metadata={"meaning": meaning})
    return made


def require(ok: bool, name: str, value: object, fix: str) -> None:
    """Raise `ConfigError` naming the key, its value and the mend, unless `ok`."""
    if not ok:
        raise ConfigError(f"{name}={value!r}: {fix}")


def require_no_credentials(name: str, url: str) -> None:
    """Refuse a URL with a user or password: the resolved configuration is written into the run."""
    if "://" not in url:
        return
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{name}={url!r} is no URL: {error}") from error
    if parts.username or parts.password or re.search(r"(access_key|secret_key|token)=", parts.query):
        raise ConfigError(f"{name} holds credentials: take them out of the URL and set them in the environment")
