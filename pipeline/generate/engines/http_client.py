"""The HTTP clients of an endpoint: no redirects, no unbounded answers, no credentials but the configured ones.

The server is not trusted. A redirect could send the messages and the key to another host; an endless or compressed
body could fill the memory. Proxies of the environment are used, as by other HTTP clients.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar, cast

import httpx2
import openai

from pipeline.config.schema import EndpointConfig
from pipeline.generate.engines.api_key import Secrets

NO_KEY = "none"
"""What the client sends without a key, since it requires a value; servers without a key ignore it."""

MAX_BODY_BYTES = 64 << 20
"""Maximum size of an answer, decompressed: a million tokens of text with log probabilities take less."""

CONNECT_S = 30.0
"""Longest wait for a connection, in seconds."""

Client = TypeVar("Client", openai.OpenAI, openai.AsyncOpenAI)

ENCODINGS = ("", "identity", "gzip", "deflate")


class UnacceptableBody(httpx2.HTTPError):
    """The body of an answer is larger than `MAX_BODY_BYTES`, or compressed in a way that was not requested."""


class _Bounded(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The decompressed body of a response; raises `UnacceptableBody` when it is too large."""

    def __init__(self, response: httpx2.Response) -> None:
        encoding = response.headers.pop("content-encoding", "").strip().lower()
        if encoding not in ENCODINGS:
            raise UnacceptableBody(f"the answer is compressed as {encoding[:40]!r}, which was not requested")
        self._stream = response.stream
        self._decoder = zlib.decompressobj(wbits=47) if encoding in ENCODINGS[2:] else None  # 47: gzip or zlib
        self._num_bytes = 0

    def _decoded(self, chunk: bytes) -> bytes:
        allowed = MAX_BODY_BYTES - self._num_bytes + 1
        try:
            data = self._decoder.decompress(chunk, allowed) if self._decoder else chunk
        except zlib.error as error:
            raise UnacceptableBody(f"the compressed answer is damaged: {error}") from error
        self._num_bytes += len(data)
        if self._num_bytes > MAX_BODY_BYTES:
            raise UnacceptableBody(f"the answer is larger than {MAX_BODY_BYTES >> 20} MB")
        return data

    def __iter__(self) -> Iterator[bytes]:
        for chunk in cast("httpx2.SyncByteStream", self._stream):
            yield self._decoded(chunk)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in cast("httpx2.AsyncByteStream", self._stream):
            yield self._decoded(chunk)

    def close(self) -> None:
        cast("httpx2.SyncByteStream", self._stream).close()

    async def aclose(self) -> None:
        await cast("httpx2.AsyncByteStream", self._stream).aclose()


def _bound(response: httpx2.Response) -> None:
    response.stream = _Bounded(response)


async def _bound_async(response: httpx2.Response) -> None:
    response.stream = _Bounded(response)


def client(endpoint: EndpointConfig, secrets: Secrets, timeout_s: float) -> openai.OpenAI:
    """Return a client without retries that waits at most `timeout_s` seconds between two parts of an answer."""
    http = openai.DefaultHttpxClient(follow_redirects=False, event_hooks={"response": [_bound]})
    return _anonymous(openai.OpenAI(**_arguments(endpoint, secrets), timeout=timeout_s, http_client=http))


def async_client(endpoint: EndpointConfig, secrets: Secrets) -> openai.AsyncOpenAI:
    """Return an asynchronous client without retries, whose caller limits the time of a request."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=endpoint.concurrency)
    http = openai.DefaultAsyncHttpxClient(
        follow_redirects=False, event_hooks={"response": [_bound_async]}, limits=limits
    )
    timeout = openai.Timeout(None, connect=CONNECT_S)
    return _anonymous(openai.AsyncOpenAI(**_arguments(endpoint, secrets), timeout=timeout, http_client=http))


def _arguments(endpoint: EndpointConfig, secrets: Secrets) -> dict[str, Any]:
    headers = {"Accept-Encoding": "gzip, deflate", **secrets.headers}
    return {
        "base_url": endpoint.base_url,
        "api_key": secrets.key or NO_KEY,
        "max_retries": 0,
        "default_headers": headers,
    }


def _anonymous(made: Client) -> Client:
    """Return the client without the organization and project that OPENAI_* variables name for OpenAI's own server."""
    made.organization = made.project = None
    return made
