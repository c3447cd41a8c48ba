"""A server on loopback that fails each row in a way of its own, as servers, proxies and firewalls do.

The question of a row is its number; `MODES` has what happens to it. A server that is `fixed` answers all rows.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROWS_PER_MODE = 20
"""Rows of each mode but `right`, which has all others."""


def text_of(number: int) -> str:
    """Return the right answer of a row."""
    return f"ответ {number}"


def completion(content: Any, finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    """Return the body of a chat completion."""
    message |= {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice], "usage": usage}


class Handler(BaseHTTPRequestHandler):
    """Answers /models, and each chat completion by the mode of its row."""

    protocol_version = "HTTP/1.1"
    server: MixedServer

    def do_GET(self) -> None:
        """Answer /models."""
        self.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self) -> None:
        """Answer a chat completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = int(body["messages"][-1]["content"])
        with self.server.guard:
            self.server.requests[number] += 1
            nth = self.server.requests[number]
        with suppress(OSError):  # the client does not wait any longer
            if self.server.fixed:
                self.send(200, completion(text_of(number)))
            else:
                mode_of(number).reply(self, number, nth)

    def send(self, status: int, content: Any, **fields: str) -> None:
        """Send an answer; content that is not bytes is sent as JSON. `fields` are headers, `_` for `-`."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": str(len(data)), **fields}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def drip(self, data: bytes, piece: int, pause_s: float) -> None:
        """Send a body in pieces with pauses."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for start in range(0, len(data), piece):
            self.wfile.write(data[start : start + piece])
            time.sleep(pause_s)

    def hang_up(self, data: bytes = b"") -> None:
        """Send raw bytes and close the connection."""
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""


Reply = Callable[[Handler, int, int], None]


@dataclass(frozen=True)
class Mode:
    """What happens to a row. `reason` is part of its error; None: it is answered, with `content`, or `text_of` it."""

    name: str
    reply: Reply
    reason: str | None = None
    content: str | None = ""


def right(handler: Handler, number: int, _: int) -> None:
    """Answer as asked."""
    handler.send(200, completion(text_of(number)))


def first(num: int, status: int, **fields: str) -> Reply:
    """Answer with a status the first `num` times, and then right."""

    def reply(handler: Handler, number: int, nth: int) -> None:
        if nth <= num:
            handler.send(status, {"error": {"message": f"busy {number}"}}, **fields)
        else:
            right(handler, number, nth)

    return reply


def always(status: int, message: str = "не могу", **fields: str) -> Reply:
    """Answer with a status each time."""
    return lambda handler, number, _: handler.send(status, {"error": {"message": f"{message} {number}"}}, **fields)


def body(content: Any, status: int = 200, **fields: str) -> Reply:
    """Answer with this body each time."""
    return lambda handler, _, __: handler.send(status, content, **fields)


def raw(data: bytes) -> Reply:
    """Send these bytes and close the connection."""
    return lambda handler, _, __: handler.hang_up(data)


def closed_once(handler: Handler, number: int, nth: int) -> None:
    """Close the first connection without an answer."""
    if nth == 1:
        handler.hang_up()
    else:
        right(handler, number, nth)


def slow(handler: Handler, number: int, _: int) -> None:
    """Answer right within a second, in pieces."""
    handler.drip(json.dumps(completion(text_of(number))).encode(), 40, 0.1)


def endless(handler: Handler, number: int, _: int) -> None:
    """Answer right, but for a minute."""
    handler.drip(json.dumps(completion(text_of(number))).encode(), 2, 0.5)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BOMB = gzip.compress(bytes(65 << 20), mtime=0)
CONTEXT = "This model's maximum context length is 4096 tokens, your request has 5000: row"
PARTS = [{"type": "thinking", "thinking": "мысль"}, {"type": "text", "text": "части"}]

MODES = (
    Mode("429 once, Retry-After", first(1, 429, Retry_After="1")),
    Mode("429 once", first(1, 429)),
    Mode("500 twice", first(2, 500)),
    Mode("503 once", first(1, 503)),
    Mode("529 once", first(1, 529)),
    Mode("closed once", closed_once),
    Mode("slow", slow),
    Mode("token limit", body(completion("cut", "max_tokens")), content="cut"),
    Mode("other finish reason", body(completion("end", "end_turn")), content="end"),
    Mode("no finish reason", body(completion("none", None)), content="none"),
    Mode("content in parts", body(completion(PARTS)), content="части"),
    Mode("half a surrogate", body(completion("\ud800x")), content="\N{REPLACEMENT CHARACTER}x"),
    Mode("null content", body(completion(None, reasoning="мысль")), content=None),
    Mode("endless", endless, "no answer within engine.endpoint.timeout_s"),
    Mode("500", always(500), "HTTP 500"),
    Mode("502 of a proxy", body(b"<html>bad gateway</html>", 502, Content_Type="text/html"), "HTTP 502"),
    Mode("503", always(503, Retry_After="1"), "HTTP 503"),
    Mode("504", always(504), "HTTP 504"),
    Mode("closed", raw(b""), "cannot be reached"),
    Mode("400", always(400), "HTTP 400: не могу"),
    Mode("context length", always(400, CONTEXT), "maximum context length"),
    Mode("413", always(413), "HTTP 413"),
    Mode("422", always(422), "HTTP 422"),
    Mode("401 of one row", always(401), "HTTP 401"),
    Mode("403 of a firewall", always(403, "blocked by a rule"), "HTTP 403"),
    Mode("404 of one row", always(404), "HTTP 404"),
    Mode("redirect", body(b"", 302, Location="http://127.0.0.1:9/login"), "redirects to"),
    Mode("no choices", body(completion("") | {"choices": []}), "no chat completion"),
    Mode("null choices", body(completion("") | {"choices": None}), "no chat completion"),
    Mode("number for content", body(completion(5)), "content that is not text"),
    Mode("list", body([1, 2]), "no chat completion"),
    Mode("wrong JSON", body(b'{"choices": [{"message"'), "cannot be read"),
    Mode("HTML", body(b"<html>log in</html>", Content_Type="text/html"), "no chat completion"),
    Mode("empty body", body(b""), "cannot be read"),
    Mode("bytes that are no UTF-8", body(b'{"choices": "\xff\xfe"}'), ""),
    Mode("chunk cut", raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{"), "cannot be reached"),
    Mode("body cut", raw(HEAD + b"Content-Length: 500\r\n\r\n{"), "cannot be reached"),
    Mode("no HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "cannot be reached"),
    Mode("65 MB of zeros in 64 KB", body(BOMB, Content_Encoding="gzip"), "larger than 64 MB"),
    Mode("unasked compression", body(b"x", Content_Encoding="br"), "was not requested"),
    Mode("200 with an error", body({"error": {"message": "сломано", "code": 400}}), "HTTP 200 with an error: сломано"),
    Mode("content filter", body(completion("", "content_filter")), "finish_reason='content_filter'"),
    Mode("aborted", body(completion("нача", "abort")), "finish_reason='abort'"),
)


def mode_of(number: int) -> Mode:
    """Return the mode of a row: the modes' rows are spread evenly among those that are answered right."""
    return MODES[number // 2 % len(MODES)] if number % 2 and number < 2 * len(MODES) * ROWS_PER_MODE else RIGHT


RIGHT = Mode("right", right)


class MixedServer(ThreadingHTTPServer):
    """Counts the requests of each row."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: Counter[int] = Counter()
        self.guard = threading.Lock()
        self.fixed = False

    @property
    def url(self) -> str:
        """The address for engine.endpoint.base_url."""
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def mixed_server() -> Iterator[MixedServer]:
    """Serve until the block ends."""
    server = MixedServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
