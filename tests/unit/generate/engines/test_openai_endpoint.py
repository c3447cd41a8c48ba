"""The endpoint engine against a real HTTP server that fails in the ways in which servers fail."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, EndpointError
from pipeline.generate.engines import http_client
from pipeline.generate.engines.base import Output, Request, RowError, ServerUnavailable
from pipeline.generate.engines.openai_endpoint import EndpointFactory

MODELS = (200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
OF_VLLM = {"id": "tiny", "object": "model", "owned_by": "vllm", "max_model_len": 4096, "root": "models/tiny"}
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def answer(message: dict[str, Any], finish_reason: str = "stop") -> tuple[int, dict[str, Any]]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [choice],
        "usage": USAGE,
    }


@contextmanager
def server(
    *replies: tuple[int, Any],
    models: tuple[int, Any] = MODELS,
    version: tuple[int, Any] = (404, {}),
    encoding: str = "",
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve the replies in order, the last one forever; yield the address and the received requests."""
    waiting, seen = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/version":
                seen.append({"path": self.path, "authorization": self.headers["Authorization"]})
            self.reply(*(version if self.path == "/version" else models))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(
                {
                    "path": self.path,
                    "authorization": self.headers["Authorization"],
                    "body": body,
                    "headers": dict(self.headers),
                }
            )
            self.reply(*(waiting.pop(0) if len(waiting) > 1 else waiting[0]))

        def reply(self, status: int, content: Any) -> None:
            slow = isinstance(content, list) and content and isinstance(content[0], bytes)
            pieces = content if slow else [content if isinstance(content, bytes) else json.dumps(content).encode()]
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(sum(map(len, pieces))))
            if encoding and self.command == "POST":
                self.send_header("Content-Encoding", encoding)
            if 300 <= status < 400:
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
            self.end_headers()
            with suppress(OSError):  # the client may be gone
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(0.05 * slow)

        def log_message(self, *_: object) -> None:
            return

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def config(url: str, *overrides: str) -> Config:
    return compose(
        [
            "conf=demo",
            "engine.kind=endpoint",
            f"engine.endpoint.base_url={url}",
            "engine.endpoint.max_retries=1",
            *overrides,
        ]
    )


def complete(settings: Config) -> Output:
    async def generate() -> Output:
        messages = json.dumps([{"role": "user", "content": "Вопрос {x}?"}])
        request = Request(request_id="1", messages=messages, prompt_token_ids=None, seed=1234)
        return await EndpointFactory(settings)().generate(request)

    return asyncio.run(generate())


@pytest.mark.usefixtures("at_root")
class TestEndpoint:
    def test_the_request_equals_the_harness_request(self) -> None:
        with server(answer({"content": "A"})) as (url, seen):
            complete(config(url))
        assert seen[0]["path"] == "/v1/chat/completions"
        assert seen[0]["body"] == {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Вопрос {x}?"}],
            "temperature": 0.0,
            "max_tokens": 192,
            "stop": ["<|im_end|>"],
            "seed": 1234,
            "stream": False,
            "chat_template_kwargs": {"enable_thinking": True},
        }

    @pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
    def test_reasoning_comes_from_the_message(self, field: str) -> None:
        with server(answer({"content": "\n\nA", field: "думаю"})) as (url, _):
            output = complete(config(url))
        assert (output.reasoning, output.content, output.completion) == ("думаю", "\n\nA", "думаю\n\nA")
        assert (output.num_prompt_tokens, output.num_output_tokens, output.finish_reason) == (11, 7, "stop")

    def test_content_that_is_null_stays_null(self) -> None:
        with server(answer({"content": None, "reasoning": "думаю"}, "length")) as (url, _):
            output = complete(config(url))
        assert (output.content, output.finish_reason) == (None, "length")

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_temporary_error_is_retried(self, status: int) -> None:
        with server((status, {"error": {"message": "later"}}), answer({"content": "A"})) as (url, seen):
            assert complete(config(url)).content == "A"
        assert len(seen) == 2

    @pytest.mark.parametrize("status", [400, 418, 500])
    def test_a_persistent_error_fails_the_row(self, status: int) -> None:
        with (
            server((status, {"error": {"message": "no"}})) as (url, _),
            pytest.raises(RowError, match=f"HTTP {status}"),
        ):
            complete(config(url))

    @pytest.mark.parametrize(
        "reply",
        [
            (200, b"<html>"),
            (200, {}),
            (200, []),
            (200, {"choices": []}),
            (200, {"choices": {"a": 1}}),
            answer({"content": 5}),
            answer({"content": [{"type": "image", "image": "x"}]}),
            answer({"content": "A"}, "content_filter"),
            answer({"content": "A"}, "abort"),
        ],
    )
    def test_a_malformed_response_fails_the_row(self, reply: tuple[int, Any]) -> None:
        with server(reply) as (url, _), pytest.raises(RowError):
            complete(config(url))

    @pytest.mark.parametrize(
        "usage", [None, [1], "many", {"prompt_tokens": "11"}, {"prompt_tokens": 2**40, "completion_tokens": -5}]
    )
    def test_an_invalid_usage_is_unknown(self, usage: Any) -> None:
        status, reply = answer({"content": "A"})
        with server((status, {**reply, "usage": usage})) as (url, _):
            output = complete(config(url))
        assert (output.content, output.num_prompt_tokens, output.num_output_tokens) == ("A", None, None)

    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_a_server_that_does_not_answer_is_told_from_a_row_that_fails(self, status: int) -> None:
        with server((status, {"error": {"message": "no"}})) as (url, seen), pytest.raises(ServerUnavailable):
            complete(config(url))
        assert len(seen) == 2

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_refusal_that_may_be_of_one_row_is_told_from_one_of_all(self, status: int) -> None:
        with (
            server((status, {"error": {"message": "no"}})) as (url, seen),
            pytest.raises(ServerUnavailable, match=f"HTTP {status}"),
        ):
            complete(config(url))
        assert len(seen) == 1

    @pytest.mark.parametrize("status", [402, 429, 529])
    def test_an_exhausted_quota_fails_the_run(self, status: int) -> None:
        with (
            server((status, {"error": {"message": "no"}})) as (url, _),
            pytest.raises(EndpointError, match=f"HTTP {status}"),
        ):
            complete(config(url))

    @pytest.mark.parametrize("status", [401, 404, 500])
    def test_a_rejected_request_at_the_start_fails_the_run(self, status: int) -> None:
        with (
            server(answer({"content": "A"}), models=(status, {"error": {"message": "no"}})) as (url, _),
            pytest.raises(EndpointError, match=f"engine.endpoint.base_url='{url}': .*HTTP {status}"),
        ):
            complete(config(url))

    @pytest.mark.parametrize("models", [b"<html>", {}, [], {"data": "x"}])
    def test_a_malformed_list_of_models_fails_the_run(self, models: Any) -> None:
        with server(answer({"content": "A"}), models=(200, models)) as (url, _), pytest.raises(EndpointError):
            complete(config(url))

    def test_an_unreachable_server_is_a_one_line_error(self) -> None:
        with pytest.raises(EndpointError, match=r"base_url=.*: cannot be reached \(.*refused"):
            complete(config("http://127.0.0.1:9/v1"))

    def test_a_model_that_is_not_served_is_a_one_line_error(self) -> None:
        with (
            server(answer({"content": "A"})) as (url, _),
            pytest.raises(EndpointError, match=r"engine\.endpoint\.model='huge' is not served: the server lists tiny"),
        ):
            complete(config(url, "engine.endpoint.model=huge"))

    def test_vllms_server_reports_its_version_and_its_context_length(self) -> None:
        models = (200, {"object": "list", "data": [OF_VLLM]})
        with server(models=models, version=(200, {"version": "0.32.0"})) as (url, _):
            info = EndpointFactory(config(url))().info.to_flat()
        assert info == {"base_url": url, "served_model": "tiny", "max_model_len": 4096, "server": "vllm 0.32.0"}

    @pytest.mark.parametrize(
        "version",
        [
            *[(404, {}), (500, {}), (200, b"<html>"), (200, []), (200, {}), (200, {"version": 5})],
            *[(200, {"version": "1\n# 2"}), (200, {"version": "1" * 65}), (200, {"version": ""})],
        ],
    )
    def test_an_invalid_version_is_unknown(self, version: tuple[int, Any]) -> None:
        models = (200, {"object": "list", "data": [OF_VLLM]})
        with server(models=models, version=version) as (url, _):
            assert "server" not in EndpointFactory(config(url))().info.to_flat()

    @pytest.mark.parametrize("length", [None, "4096", -1, 2**40, True, [1], 40.5])
    def test_an_invalid_context_length_is_unknown(self, length: Any) -> None:
        models = (200, {"object": "list", "data": [{**OF_VLLM, "max_model_len": length}]})
        with server(models=models) as (url, _):
            assert "max_model_len" not in EndpointFactory(config(url))().info.to_flat()

    def test_the_version_is_requested_from_vllms_server_only(self) -> None:
        with server(version=(200, {"version": "1"})) as (url, seen):
            assert EndpointFactory(config(url))().info.to_flat() == {"base_url": url, "served_model": "tiny"}
        assert seen == []

    def test_the_key_comes_from_the_environment_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", "sesame-7")
        with server(answer({"content": "A"})) as (url, seen):
            settings = config(url, "engine.endpoint.api_key_env=MY_KEY")
            complete(settings)
        assert seen[0]["authorization"] == "Bearer sesame-7"
        assert "sesame-7" not in repr(settings)

    def test_a_key_that_is_not_set_is_a_one_line_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MY_KEY", raising=False)
        with (
            server(answer({"content": "A"})) as (url, _),
            pytest.raises(EndpointError, match="names a variable that is not set"),
        ):
            complete(config(url, "engine.endpoint.api_key_env=MY_KEY"))

    def test_several_models_and_no_name_are_refused_with_the_list(self) -> None:
        models = (200, {"data": [{"id": "embedder"}, {"id": "chat\x1b[2J"}, {"id": None}, {}]})
        with (
            server(answer({"content": "A"}), models=models) as (url, _),
            pytest.raises(EndpointError, match=r"several models, name one of embedder, chat⟨U\+001B⟩\[2J$"),
        ):
            complete(config(url))

    @pytest.mark.parametrize("models", [{"data": [{"id": None}]}, {"data": [{}]}, {"data": [{"id": "a\ud800"}]}])
    def test_a_model_without_a_name_that_can_be_requested_is_refused(self, models: Any) -> None:
        with server(answer({"content": "A"}), models=(200, models)) as (url, _), pytest.raises(EndpointError):
            complete(config(url))

    def test_a_context_that_is_not_longer_than_the_completions_is_refused(self) -> None:
        models = (200, {"data": [{**OF_VLLM, "max_model_len": 192}]})
        with server(models=models) as (url, _), pytest.raises(ConfigError, match=r"max_gen_toks=192: .* 192 tokens"):
            complete(config(url))

    @pytest.mark.parametrize(
        ("word", "kept"),
        [
            (None, "stop"),
            ("eos_token", "eos_token"),
            ("END_TURN", "end_turn"),
            ("max_tokens", "length"),
            ("x" * 99, "x" * 32),
        ],
    )
    def test_another_finish_reason_keeps_the_text(self, word: str | None, kept: str) -> None:
        with server(answer({"content": "A"}, word)) as (url, _):
            output = complete(config(url))
        assert (output.content, output.finish_reason) == ("A", kept)

    def test_content_in_parts_is_joined(self) -> None:
        parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "A"}]
        with server(answer({"content": [*parts, {"type": "text", "text": ", C"}]})) as (url, _):
            output = complete(config(url))
        assert (output.reasoning, output.content) == ("hm", "A, C")

    def test_an_error_with_status_200_is_an_error_by_its_message_and_its_code(self) -> None:
        busy = (200, {"error": {"message": "slow down", "code": 503}})
        with server(busy, answer({"content": "A"})) as (url, seen):
            assert complete(config(url)).content == "A"
            assert len(seen) == 2
        with (
            server((200, {"error": {"message": "the prompt is too long", "code": "context"}})) as (url, seen),
            pytest.raises(RowError, match=r"^HTTP 200 with an error: the prompt is too long$"),
        ):
            complete(config(url))
        assert len(seen) == 1

    def test_a_redirect_is_not_followed(self) -> None:
        with server((307, {})) as (url, seen), pytest.raises(ServerUnavailable, match="redirects to"):
            complete(config(url))
        assert len(seen) == 1

    def test_the_timeout_covers_the_whole_answer_and_is_not_retried(self) -> None:
        slow = (200, [b"{"] + [b" "] * 600)  # a byte every 50 ms
        with server(slow) as (url, seen), pytest.raises(RowError, match=r"timeout_s=0.5"):
            complete(config(url, "engine.endpoint.timeout_s=0.5", "engine.endpoint.max_retries=3"))
        assert len(seen) == 1

    def test_a_compressed_answer_is_read_and_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        packed = gzip.compress(json.dumps(answer({"content": "A"})[1]).encode())
        with server((200, packed), encoding="gzip") as (url, _):
            assert complete(config(url)).content == "A"
        monkeypatch.setattr(http_client, "MAX_BODY_BYTES", 1 << 20)
        bomb = gzip.compress(b" " * (64 << 20))
        with server((200, bomb), encoding="gzip") as (url, seen), pytest.raises(RowError, match="larger than 1 MB"):
            complete(config(url))
        assert len(seen) == 1
        with server((200, packed), encoding="br") as (url, _), pytest.raises(RowError, match="compressed as 'br'"):
            complete(config(url))

    def test_no_message_holds_the_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", "sesame-7")
        for status in (400, 401, 200):
            with (
                server((status, {"error": {"message": "no sesame-7 here"}})) as (url, _),
                pytest.raises((RowError, EndpointError), match="no <the key> here"),
            ):
                complete(config(url, "engine.endpoint.api_key_env=MY_KEY"))

    @pytest.mark.parametrize("value", ["sesame\n", " sesame", "сезам", "a\tb"])
    def test_a_key_that_no_header_can_hold_is_refused_without_its_value(
        self, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", value)
        with pytest.raises(EndpointError, match=r"MY_KEY.*line break or a character that is not ASCII") as caught:
            complete(config("http://127.0.0.1:9/v1", "engine.endpoint.api_key_env=MY_KEY"))
        assert value.strip() not in str(caught.value)

    def test_the_cause_of_a_failed_connection_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with server(answer({"content": "A"})) as (url, _), pytest.raises(EndpointError, match=r"no TLS.*write http://"):
            complete(config(url.replace("http://", "https://")))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        with pytest.raises(EndpointError, match="through the proxy of http_proxy"):
            complete(config("http://192.0.2.1/v1"))

    def test_openais_own_variables_reach_no_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
        with server(answer({"content": "A"})) as (url, seen):
            complete(config(url))
        assert not {name.lower() for name in seen[0]["headers"]} & {"openai-organization", "openai-project"}
