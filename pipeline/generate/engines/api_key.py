"""The secrets of an endpoint, its key and headers: read from the environment, checked before anything is written.

They are never shown: `Secrets.hide` replaces them in the text of a server that repeats them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pipeline.config.schema import EndpointConfig
from pipeline.errors import EndpointError

SHORTEST_HIDDEN = 4
"""Characters of the shortest value that is hidden: a shorter one is no secret, and would tear texts apart."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The key of an endpoint, None without one, and the values of its headers by name."""

    key: str | None = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def hide(self, text: str) -> str:
        """Return a text without the key and the headers' values; of `Bearer <token>`, the token is hidden alone too."""
        if self.key:
            text = text.replace(self.key, "<the key>")
        for value in self.headers.values():
            for part in (value, value.rpartition(" ")[2]):
                if len(part) >= SHORTEST_HIDDEN:
                    text = text.replace(part, "<a header>")
        return text


def secrets_of(endpoint: EndpointConfig) -> Secrets:
    """Return the key and the headers from the environment variables that the configuration names.

    Raises:
        EndpointError: A variable is not set, or an HTTP header cannot hold its value.
    """
    names = {f"engine.endpoint.headers.{header}": (header, name) for header, name in endpoint.headers.items()}
    headers = {header: _value(key, name, "the value") for key, (header, name) in names.items()}
    return Secrets(api_key(endpoint), headers)


def api_key(endpoint: EndpointConfig) -> str | None:
    """Return the key from the environment variable that the configuration names; None without one.

    Raises:
        EndpointError: The variable is not set, or an HTTP header cannot hold its value.
    """
    if endpoint.api_key_env is None:
        return None
    return _value("engine.endpoint.api_key_env", endpoint.api_key_env, "the key")


def _value(key: str, name: str, what: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        # The name may be the secret itself, given by mistake, so the message does not repeat it.
        raise EndpointError(f"{key} names a variable that is not set: export it with {what}")
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        # A pasted key often ends in a line break. The value is a secret, so the message does not repeat it.
        fix = "has a space at an end, a line break or a character that is not ASCII: export it again"
        raise EndpointError(f"{key}={name!r}: {what} in it {fix}")
    return value
