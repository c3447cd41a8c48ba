"""The key of an endpoint: read from the environment, checked before anything is written, never shown."""

from __future__ import annotations

import os

from pipeline.config.schema import EndpointConfig
from pipeline.errors import EndpointError


def api_key(endpoint: EndpointConfig) -> str | None:
    """Return the key from the environment variable that the configuration names; None without one.

    Raises:
        EndpointError: The variable is not set, or an HTTP header cannot hold its value.
    """
    name = endpoint.api_key_env
    if name is None:
        return None
    value = os.environ.get(name, "")
    if not value:
        # The name may be the key itself, given by mistake, so the message does not repeat it.
        raise EndpointError("engine.endpoint.api_key_env names a variable that is not set: export it with the key")
    if not (value.isascii() and value.isprintable() and value == value.strip()):
        # A pasted key often ends in a line break. The value is a secret, so the message does not repeat it.
        fix = "has a space at an end, a line break or a character that is not ASCII: export it again"
        raise EndpointError(f"engine.endpoint.api_key_env={name!r}: the key in it {fix}")
    return value
