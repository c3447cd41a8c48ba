"""Refuses secrets in a configuration: it is written into the run's directory, which others read.

In: the values of keys. Out: nothing, or a `ConfigError` that never repeats the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pipeline.errors import PLAIN_PARAMETERS, ConfigError

SECRET_NAME = re.compile(r"(^|_)(token|api_?key|key|secret|password|passwd|passphrase|credentials?|authorization)$")
NO_SECRET_NAME = re.compile(r"(bos|eos|eot|eoi|boi|pad|unk|sep|cls|mask|image|audio|video|tool|think|start|end)_token")
"""Special tokens of a tokenizer."""

SECRET_VALUE = re.compile(r"(Bearer |sk-|hf_|ghp_|github_pat_|glpat-|xox[abp]-|AKIA|ASIA|AIza|eyJ)[\w.+/=-]{12,}")
"""How well-known services begin their keys."""


def require_no_credentials(name: str, url: str) -> None:
    """Reject a URL that holds credentials, or a query parameter that may be one: signatures have many names.

    Raises:
        ConfigError: The URL has a user, a password or an unknown query parameter, or cannot be parsed.
    """
    if "://" not in url:
        return
    try:
        parts = urlsplit(url)
        names = {each for each, _ in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError as error:
        raise ConfigError(f"{name} is no URL: {error}") from error
    if "@" in parts.netloc or names - PLAIN_PARAMETERS or "=" in parts.fragment:
        known = ", ".join(sorted(PLAIN_PARAMETERS))
        raise ConfigError(
            f"{name} holds credentials: take them out of the URL and set them in the environment. A URL may have these "
            f"query parameters alone: {known}"
        )


def require_no_secrets(name: str, value: Any) -> None:
    """Reject a secret at any depth of a value that is passed on to a library.

    Raises:
        ConfigError: A key has the name of a secret, or a text is a secret of a well-known form.
    """
    left = [(name, value)]
    while left:
        at, each = left.pop()
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", at.rpartition(".")[2]).replace("-", "_").lower()
        is_secret = SECRET_NAME.search(words) is not None and NO_SECRET_NAME.fullmatch(words) is None
        if (is_secret and not isinstance(each, bool) and each is not None) or _is_key(each):
            raise ConfigError(f"{at}: a secret would be written into the run; set it in the environment")
        if isinstance(each, str):
            require_no_credentials(at, each)
            if each.lstrip().startswith(("{", "[")):
                with suppress(ValueError, RecursionError):  # no JSON
                    left.append((f"{at}.", json.loads(each)))
        elif isinstance(each, Mapping):
            left += [(f"{at}.{key}", item) for key, item in each.items()]
        elif isinstance(each, (list, tuple)):
            left += [(f"{at}.", item) for item in each]


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and SECRET_VALUE.match(value) is not None
