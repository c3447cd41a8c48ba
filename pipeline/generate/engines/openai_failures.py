"""What a failed request of an endpoint means: try it again, the row's error, the server's, or the end of the run.

In: an exception of the client, or an answer that holds an error. Out: `Failure`. Whether a row is the cause where a
server fails it is decided by what happens to other requests: see `pipeline/generate/failures.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from pipeline.config.schema import EndpointConfig
from pipeline.errors import EndpointError
from pipeline.generate.engines.api_key import Secrets
from pipeline.generate.engines.base import RowError, ServerUnavailable
from pipeline.generate.engines.http_client import UnacceptableBody
from pipeline.generate.engines.refused_arguments import REFUSALS, UNACCEPTED, certain_fix, hint
from pipeline.terminal.text import escape_control, one_line, replace_surrogates

PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Status codes after which the same request may succeed."""
UNAVAILABLE = (408, 502, 503, 504)
"""Those of a proxy or server that does not answer: the row may be the cause, or none."""
EXHAUSTED = (402, 429, 529)
"""Those of a quota, a rate limit or an overload that the retries have not outlasted: other rows would meet them too."""
REFUSED = (401, 403)
"""Those of a wrong key; but a firewall also answers so when it dislikes the text of one row."""

LONGEST_TEXT = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed request: whether to send it again, and what to raise when that is not possible any more."""

    is_passing: bool
    error: RowError | EndpointError


@dataclass(frozen=True, slots=True)
class Classifier:
    """Classifies failures of one endpoint, whose secrets no message may hold."""

    endpoint: EndpointConfig
    secrets: Secrets

    def of_exception(self, error: Exception) -> Failure:
        """Return what an exception of the client means."""
        if isinstance(error, openai.APIStatusError):
            return self.of_status(error.status_code, self._message(error), error.response.headers.get("location"))
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, UnacceptableBody):
                return Failure(False, RowError(self.hide(str(cause))))
        if isinstance(error, openai.APIConnectionError):
            return self._of_connection(causes)
        if isinstance(error, (openai.OpenAIError, ValueError, RecursionError)):
            return Failure(False, RowError(f"the server's answer cannot be read: {self._described(error)}"))
        raise error

    def of_status(self, status: int, message: str, location: str | None = None) -> Failure:
        """Return what a status code means; `location` is where a redirect leads."""
        text = f"HTTP {status}: {self.hide(message)}" if message else f"HTTP {status}"
        if status in UNACCEPTED and (what := certain_fix(message, self.endpoint)) is not None:
            return Failure(False, self._end(f"{text.rstrip('.')}: {what}"))
        if status in REFUSALS:
            text += hint(message)
        if 300 <= status < 400:
            target = self.hide(location or "nowhere")
            return Failure(False, self._unless_others(f"redirects to {target}: give the address that answers itself"))
        if status in REFUSED:
            return Failure(False, self._unless_others(f"the request is refused ({text}): {self._key_fix}"))
        if status == 404:
            fix = "check the address and engine.endpoint.model"
            return Failure(False, self._unless_others(f"not found ({text}): {fix}"))
        if status in EXHAUSTED:
            fix = "wait, raise the quota or lower engine.endpoint.concurrency, and run the same run_id again"
            return Failure(status != 402, self._end(f"{text}: {fix}"))
        if status in UNAVAILABLE:
            return Failure(True, ServerUnavailable(text))
        return Failure(status in PASSING, RowError(text))

    def of_error_body(self, error: Any) -> Failure:
        """Return what an `error` object in an answer with status 200 means."""
        code, message = None, error
        if isinstance(error, dict):
            code, message = error.get("code") or error.get("status"), error.get("message") or error
        status = int(code) if isinstance(code, (int, str)) and str(code).isdecimal() and len(str(code)) == 3 else 0
        text = self.hide(str(message))
        if status in EXHAUSTED or status in UNAVAILABLE:
            return self.of_status(status, text)
        return Failure(status in PASSING, RowError(f"HTTP 200 with an error: {text}{hint(text)}"))

    def _of_connection(self, causes: list[BaseException]) -> Failure:
        cause = causes[-1]
        text = self._described(cause)
        if isinstance(cause, (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, UnicodeError)):
            return Failure(False, self._end(f"the request cannot be sent ({text}): {self._key_fix}"))
        if "SSL" in text:  # the client turns ssl.SSLError into a ConnectError with its text
            fix = "if the server has no TLS, write http://; if its certificate is your own, set SSL_CERT_FILE"
            return Failure(False, self._end(f"no TLS connection ({text}): {fix}"))
        return Failure(True, ServerUnavailable(f"{self._place}: cannot be reached ({text}){self._proxy}"))

    @property
    def _place(self) -> str:
        return f"engine.endpoint.base_url={self.endpoint.base_url!r}"

    @property
    def _key_fix(self) -> str:
        name = self.endpoint.api_key_env
        return f"export {name} with a valid key" if name else "name the key's variable in engine.endpoint.api_key_env"

    @property
    def _proxy(self) -> str:
        """Name the environment variable of the proxy that requests go through, if there is one."""
        parts = urlsplit(self.endpoint.base_url or "")
        if parts.scheme not in getproxies() or proxy_bypass(parts.hostname or ""):
            return ""
        names = [name for name in os.environ if name.lower() == f"{parts.scheme}_proxy"]
        return f" through the proxy of {names[0]}; NO_PROXY excludes a host" if names else ""

    def _unless_others(self, what: str) -> ServerUnavailable:
        """Return what ends the run, unless the server answers other rows."""
        return ServerUnavailable(f"{self._place}: {what}")

    def _end(self, what: str) -> EndpointError:
        return EndpointError(f"{self._place}: {what}")

    def _message(self, error: openai.APIStatusError) -> str:
        body = error.body
        if isinstance(body, dict):
            inner = body.get("error", body)
            body = inner.get("message", inner) if isinstance(inner, dict) else inner
        return str(body) if body else error.message

    def _described(self, error: BaseException) -> str:
        return self.hide(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def hide(self, text: str) -> str:
        """Return a foreign text on one line, bounded, without control characters and without secrets."""
        return escape_control(one_line(replace_surrogates(self.secrets.hide(text)) or "", LONGEST_TEXT))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, the root last."""
    current: BaseException | None = error
    for _ in range(20):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
