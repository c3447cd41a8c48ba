"""Names the key to change when a server refuses an entry of every request: the text of its error in, the key out."""

from __future__ import annotations

import re

from pipeline.config.schema import EndpointConfig

REFUSALS = (400, 404, 422, 501)
"""Status codes with which servers refuse an entry."""
UNACCEPTED = (400, 422)
"""Those of a request with an entry that the server does not know."""

_NOT_ACCEPTED = re.compile(
    r"(?i)unsupported (parameter|value)|not supported|unrecognized|unknown (parameter|field|argument|name)"
    r"|unexpected (keyword|field|parameter)|extra (inputs|fields)|not permitted"
)
"""How servers report that they do not accept an entry of a request."""

_REFUSES = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|not accept"
    r"|extra (?:input|field)|no such (?:parameter|argument)|invalid (?:parameter|argument|field)|additional propert",
    re.IGNORECASE,
)
"""Words that may also be about the text of one row."""

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_LEFT_OUT = ("seed", "stop", "temperature", "top_p", "top_k", "chat_template_kwargs", "stream")
_ENTRY = re.compile(rf"\b(?:{'|'.join((*_LIMITS, *_LEFT_OUT))})\b")
"""The entries of a request that a key renames or leaves out."""


def hint(message: str) -> str:
    """Return which key to set, after a semicolon; "" if the message does not state that an entry is not accepted."""
    name = _first_entry(message) if _REFUSES.search(message) else None
    return f"; set {_key(name)}" if name is not None else ""


def certain_fix(message: str, endpoint: EndpointConfig) -> str | None:
    """Return what to set if the server certainly does not accept an entry that every request has, else None."""
    unsent = _LIMITS[endpoint.token_limit]
    name = _first_entry(message, unsent) if _NOT_ACCEPTED.search(message) else None
    if name is None:
        return None
    return f"{'set' if name in _LIMITS else 'leave it out by'} {_key(name, endpoint.leave_out)}"


def _first_entry(message: str, unsent: str | None = None) -> str | None:
    """Return the first entry that a message names: others may be named as a replacement."""
    return next((match[0] for match in _ENTRY.finditer(message) if match[0] != unsent), None)


def _key(name: str, left_out: tuple[str, ...] = ()) -> str:
    if name in _LIMITS:
        return f"engine.endpoint.token_limit={_LIMITS[name]}"
    return f"engine.endpoint.leave_out=[{', '.join([*left_out, name])}]"
