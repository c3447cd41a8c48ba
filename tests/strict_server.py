"""A scripted OpenAI-compatible server that is as particular as a paid service: for the tests of endpoints."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StrictServer:
    """What the server accepts and answers, and the requests that it has seen.

    It refuses requests with an entry of `refused` as OpenAI does, and requests without the headers `required`. With
    `models` None it has no /models. `usage` goes into each answer.
    """

    served: str = "someone/else-7b"
    refused: tuple[str, ...] = ()
    required: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] | None = ("someone/else-7b",)
    usage: dict[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10})
    content: str = "B"
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer of a request."""
        self.bodies.append(body)
        for name, value in self.required.items():
            if headers.get(name.lower()) != value:
                return 401, {"error": {"message": f"header {name} is {headers.get(name.lower())}"}}
        for name in self.refused:
            if name in body:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                message = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
                return 400, {"error": {"message": message, "param": name, "code": "unsupported_parameter"}}
        message = {"role": "assistant", "content": self.content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": self.served, "choices": [choice]}
        return 200, reply | ({"usage": self.usage} if self.usage is not None else {})


@contextmanager
def serving(script: StrictServer) -> Iterator[StrictServer]:
    """Serve on loopback; `script.url` is the address that ends in /v1."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if script.models is None or self.path != "/v1/models":
                return self.reply(404, {"error": {"message": "no such path"}})
            return self.reply(200, {"object": "list", "data": [{"id": name} for name in script.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*script.answer(body, {name.lower(): value for name, value in self.headers.items()}))

        def reply(self, status: int, content: Any) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            return

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    try:
        yield script
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
