"""Answers of an OpenAI-compatible server, through the client without a socket: an output, a failed row, or a line."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from builders import settings
from faults import fuzzing
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import EndpointError
from pipeline.generate.engines.base import Output, Request, RowError
from pipeline.generate.engines.openai_endpoint import EndpointEngine, served
from pipeline.generate.row_runner import WorkRow, completion_of
from pipeline.records import COMPLETION_SCHEMA, to_table
from pipeline.runs.manifest import EngineInfo

GOOD = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "A", "reasoning": "мысль"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}
PARTS = [{"type": "thinking", "thinking": "мысль"}, {"type": "text", "text": "A"}]
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "max_model_len": 4096, "owned_by": "vllm"}]}
ERROR = {"error": {"message": "не могу", "type": "server_error", "code": 500}}
REQUEST = Request(request_id="1", messages='[{"role": "user", "content": "?"}]', prompt_token_ids=None, seed=1)
ROW = WorkRow(
    task="agro_bench",
    split="test",
    id=1,
    repeat=0,
    prompt_sha256="0",
    messages=REQUEST.messages,
    prompt_token_ids=None,
    expected_tokens=None,
    place=0,
    part=0,
)

words = st.sampled_from(["stop", "length", "max_tokens", "error", "abort", "content_filter", "end_turn", "", "null"])


@st.composite
def chats(draw: st.DrawFn) -> Any:
    """Draw a chat completion with other contents, finish reasons and counts, and up to three changed parts."""
    body = json.loads(json.dumps(GOOD))
    choice = body["choices"][0]
    choice["message"]["content"] = draw(st.none() | fuzzing.texts | fuzzing.changed(PARTS))
    choice["finish_reason"] = draw(st.none() | words | fuzzing.texts)
    body["usage"]["completion_tokens"] = draw(fuzzing.scalars)
    return draw(fuzzing.changed(body))


bodies = (
    st.builds(lambda value: json.dumps(value).encode(), chats() | fuzzing.changed(ERROR) | fuzzing.values())
    | fuzzing.damaged(json.dumps(GOOD).encode())
    | st.sampled_from([b"", b"<html>busy</html>", b"\xef\xbb\xbf{}", b"[" * 5_000, b"data: {}\n\n", b"9" * 5_000])
    | st.binary(max_size=50)
)
statuses = st.sampled_from([200] * 8 + [201, 204, 206, 302, 400, 401, 402, 404, 413, 422, 429, 500, 503, 529, 599])
headers = st.fixed_dictionaries(
    {
        "content-type": st.sampled_from(
            ["application/json"] * 4 + ["text/html", "", "application/json; charset=utf-7", "x"]
        )
    },
    optional={
        "retry-after": st.sampled_from(["1", "-1", "nan", "1e400", "Wed, 21 Oct 2015 07:28:00 GMT", "soon"]),
        "content-encoding": st.sampled_from(["gzip", "deflate", "br", "identity", "x" * 100]),
        "location": st.sampled_from(["/", "http://127.0.0.1:1/\x7f", "file:///etc/passwd", "//"]),
        "x-request-id": st.sampled_from(["1", "x" * 5_000]),
    },
)


@st.composite
def replies(draw: st.DrawFn, body: st.SearchStrategy[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Draw a status, headers and a body, which is compressed where its header says so, most of the times."""
    status, fields, content = draw(statuses), draw(headers), draw(body)
    if fields.get("content-encoding") == "gzip" and draw(st.booleans()):
        content = draw(fuzzing.damaged(gzip.compress(content, mtime=0)))
    return status, fields, content


class Server:
    """Answers each request of the clients with `reply`."""

    reply: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        status, fields, content = self.reply
        return httpx2.Response(status, headers=fields, stream=_Body(content), request=request)


class _Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content

    async def __aiter__(self) -> Any:
        yield self._content


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server in the place of the sockets of the clients that the tests of this module make."""
    found = Server()
    transport = httpx2.MockTransport(found)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DefaultHttpxClient", "DefaultAsyncHttpxClient"):
            patch.setattr(openai, name, _through(transport, getattr(openai, name)))
        yield found


def _through(transport: httpx2.MockTransport, make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **arguments: make(**arguments, transport=transport)


@pytest.fixture(scope="module")
def ask(server: Server) -> Iterator[Callable[[], Output | RowError | None]]:  # noqa: ARG001
    """Return a function that asks the server one row: its output or error, or None when the run ends with a line."""
    config = settings("engine.endpoint.max_retries=0")
    engine = EndpointEngine(config, EngineInfo(served_model="tiny"))
    with asyncio.Runner() as runner:

        async def one() -> Output | RowError:
            try:
                return await engine.generate(REQUEST)
            except RowError as error:
                return error

        yield lambda: fuzzing.result_or_line(lambda: runner.run(one()))


def require_writable(result: Output | RowError) -> None:
    row = completion_of(ROW, result, attempts=1, replica="r", queued_s=0.0, generated_s=0.0)
    (stored,) = to_table([row], COMPLETION_SCHEMA).to_pylist()
    if isinstance(result, RowError):
        assert stored["error"]
        assert len(stored["error"]) < fuzzing.LONGEST_LINE
    else:
        assert stored["error"] is None
        assert stored["num_output_tokens"] == result.num_output_tokens


@fuzzing.fuzzed(100)
@given(reply=replies(bodies))
@example(reply=(200, {"content-type": "application/json"}, b"[" * 5_000))
def test_every_answer_is_an_output_a_failed_row_or_a_line(
    server: Server, ask: Callable[[], Output | RowError | None], reply: tuple[int, dict[str, str], bytes]
) -> None:
    server.reply = reply
    result = ask()
    if result is not None:
        require_writable(result)
    if isinstance(result, Output):
        assert 200 <= reply[0] < 300


@fuzzing.fuzzed(100)
@given(body=chats())
def test_what_is_taken_is_what_the_server_sent(
    server: Server, ask: Callable[[], Output | RowError | None], body: Any
) -> None:
    server.reply = (200, {"content-type": "application/json"}, json.dumps(body).encode())
    result = ask()
    if isinstance(result, Output):
        choice = body["choices"][0]
        content, usage = choice["message"].get("content"), body.get("usage")
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part["type"] == "text")
        assert result.content == content
        for name, found in (
            ("prompt_tokens", result.num_prompt_tokens),
            ("completion_tokens", result.num_output_tokens),
        ):
            sent = usage.get(name) if isinstance(usage, dict) else None
            assert found == (sent if type(sent) is int and 0 <= sent < 2**31 else None)
        word = choice.get("finish_reason")
        known = {None: "stop", "stop": "stop", "length": "length", "max_tokens": "length"}
        if isinstance(word, (str, type(None))) and word in known:
            assert result.finish_reason == known[word]


@fuzzing.fuzzed(15)
@given(
    reply=replies(
        st.builds(lambda value: json.dumps(value).encode(), fuzzing.changed(MODELS))
        | fuzzing.damaged(json.dumps(MODELS).encode())
        | bodies
    )
)
@example(reply=(200, {"content-type": "application/json"}, b"[" * 5_000))
def test_every_list_of_models_names_the_model_or_is_a_line(
    server: Server, reply: tuple[int, dict[str, str], bytes]
) -> None:
    server.reply = reply
    info = fuzzing.result_or_line(lambda: served(settings("generation.max_gen_toks=10")))
    if info is not None:
        listed = json.loads(gzip.decompress(reply[2]) if reply[1].get("content-encoding") == "gzip" else reply[2])
        assert [info.served_model] == list({model["id"]: 0 for model in _with_id(listed["data"])})
        info.served_model.encode()


def _with_id(models: list[Any]) -> list[Any]:
    return [model for model in models if isinstance(model, dict) and isinstance(model.get("id"), str) and model["id"]]


def test_the_key_is_in_no_answer_that_is_stored(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "hush-hush")
    server.reply = (400, {}, json.dumps({"error": {"message": "the key hush-hush is wrong"}}).encode())
    engine = EndpointEngine(settings("engine.endpoint.api_key_env=A_KEY"), EngineInfo(served_model="tiny"))
    with pytest.raises((RowError, EndpointError)) as caught:
        asyncio.run(engine.generate(REQUEST))
    assert "hush-hush" not in str(caught.value)
