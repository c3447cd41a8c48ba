"""Names the key to change when a server refuses an entry of every request: the text of its error in, a hint out."""

from __future__ import annotations

import re

REFUSALS = (400, 404, 422, 501)
"""Status codes with which servers refuse an entry."""

_REFUSES = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|not accept"
    r"|extra (?:input|field)|no such (?:parameter|argument)|invalid (?:parameter|argument|field)|additional propert",
    re.IGNORECASE,
)
_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_LEFT_OUT = ("seed", "stop", "temperature", "top_p", "top_k", "chat_template_kwargs", "stream")


def hint(message: str) -> str:
    """Return which key to set, after a semicolon; "" if the message does not state that an entry is not accepted.

    The first entry that the message names is the refused one: others may be named as a replacement.
    """
    if not _REFUSES.search(message):
        return ""
    names = re.findall(rf"\b(?:{'|'.join((*_LIMITS, *_LEFT_OUT))})\b", message)
    if not names:
        return ""
    if names[0] in _LIMITS:
        return f"; set engine.endpoint.token_limit={_LIMITS[names[0]]}"
    return f"; set engine.endpoint.leave_out=[{names[0]}]"
