"""The notification of a night: the webhook and the command get the record, and what they do changes nothing."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.nightly import notification
from pipeline.nightly.night_file import NotifyConfig

if TYPE_CHECKING:
    from .conftest import Nights

pytestmark = pytest.mark.usefixtures("at_root")

SECRET = "/services/T0/s3cr3t"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notification, "PAUSE_S", 0.01)
    monkeypatch.setattr(notification, "WITHIN_S", 1.0)


Respond = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def webhook(respond: Respond) -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """Serve a webhook on loopback; yield its URL, and the requests: path, headers and body."""
    requests: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, dict(self.headers.items()), body))
            respond(self)

        def do_GET(self) -> None:
            requests.append((self.path, dict(self.headers.items()), b""))
            answer(200)(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{SECRET}", requests
        server.shutdown()


def answer(code: int, **headers: str) -> Respond:
    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return respond


def drip(request: BaseHTTPRequestHandler) -> None:
    """Send a header that never ends."""
    with pytest.MonkeyPatch.context():
        try:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(300):
                request.wfile.write(b"x")
                time.sleep(0.02)
        except OSError:
            pass


def send(monkeypatch: pytest.MonkeyPatch, url: str) -> list[str]:
    monkeypatch.setenv("NOTIFY_URL", url)
    return notification.notify(NotifyConfig(url_env="NOTIFY_URL"), '{"text": "x"}', time.sleep)


def test_a_webhook_gets_the_record_with_its_line_of_text(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    nights.script("b", complete=False, code=2, stderr="error: no\n")
    nights.file.write_text(nights.file.read_text() + "notify: {url_env: NOTIFY_URL}\n")
    with webhook(answer(200)) as (url, requests):
        monkeypatch.setenv("NOTIFY_URL", url)
        assert nights.code() == 2
    ((path, headers, body),) = requests
    assert (path, headers["Content-Type"]) == (SECRET, "application/json")
    assert json.loads(body) == nights.record()
    assert json.loads(body)["text"].startswith("night n: 2 of 3 runs complete; ")
    captured = capfd.readouterr()
    written = [file.read_bytes() for file in nights.output.rglob("*") if file.is_file()]
    assert b"s3cr3t" not in b"".join([*written, captured.out.encode(), captured.err.encode()])
    assert "warning" not in captured.out
    assert b"s3cr3t" not in (nights.directory / "a.environ").read_bytes()


@pytest.mark.parametrize(
    ("respond", "problem"),
    [
        (answer(500), "it answered with HTTP 500"),
        (answer(404), "it answered with HTTP 404"),
        (lambda request: request.connection.close(), ""),
        (lambda request: request.wfile.write(b"nonsense\r\n\r\n") and None, ""),
    ],
    ids=["error", "gone", "closed", "nonsense"],
)
def test_a_broken_webhook_is_a_warning_after_three_tries(
    monkeypatch: pytest.MonkeyPatch, respond: Respond, problem: str
) -> None:
    with webhook(respond) as (url, requests):
        (warning,) = send(monkeypatch, url)
    assert len(requests) == 3
    assert warning.startswith(f"127.0.0.1 was not notified, at 3 tries: {problem}")
    assert "s3cr3t" not in warning


def test_a_webhook_that_recovers_gets_the_record_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter([500, 204])
    with webhook(lambda request: answer(next(codes))(request)) as (url, requests):
        assert send(monkeypatch, url) == []
    assert len(requests) == 2


@pytest.mark.parametrize("respond", [lambda _: time.sleep(3), drip], ids=["silent", "drip"])
def test_a_slow_webhook_is_given_up(monkeypatch: pytest.MonkeyPatch, respond: Respond) -> None:
    monkeypatch.setattr(notification, "WITHIN_S", 0.3)
    with webhook(respond) as (url, requests):
        (warning,) = send(monkeypatch, url)
    assert len(requests) == 3
    assert "no answer within 0 s" in warning or "timed out" in warning


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with webhook(answer(200)) as (elsewhere, others):
        with webhook(answer(code, Location=elsewhere)) as (url, _):
            (warning,) = send(monkeypatch, url)
        assert others == []
    assert warning.endswith(f"HTTP {code}")
    assert "s3cr3t" not in warning


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:{port}/s3cr3t", "http://u:s3cr3t@127.0.0.1:{port}/", "http://s3cr3t.invalid:x/s3cr3t"),
        "http://u\udcff:s3cr3t@127.0.0.1:{port}/",
        *("file:///s3cr3t", "s3cr3t", "http://[s3cr3t", "http:///s3cr3t", "http://127.0.0.1:{port}/s3cr3t \n x"),
    ],
)
def test_what_is_no_webhook_is_a_warning_that_shows_the_host_at_most(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # refused, as soon as it is closed
    nights.file.write_text("runs: {a: conf=demo}\nnotify: {url_env: NOTIFY_URL}\n")
    monkeypatch.setenv("NOTIFY_URL", url.replace("{port}", str(port)))
    assert nights.code() == 0
    captured = capfd.readouterr()
    assert captured.out.count("warning: ") == 1
    assert "s3cr3t" not in captured.out + captured.err + (nights.output / "night=n.json").read_text()


def test_a_user_of_the_url_is_sent_as_authorization(monkeypatch: pytest.MonkeyPatch) -> None:
    with webhook(answer(200)) as (url, requests):
        assert send(monkeypatch, url.replace("http://", "http://me:a%40b@")) == []
    assert requests[0][1]["Authorization"] == "Basic bWU6YUBi"


def test_a_variable_that_is_not_set_is_told_at_the_start(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOTIFY_URL", raising=False)
    nights.file.write_text("runs: {a: conf=demo}\nnotify: {url_env: NOTIFY_URL}\n")
    assert nights.code() == 0
    out = capfd.readouterr().out
    assert out.index("warning: notify.url_env=NOTIFY_URL: this variable is not set") < out.index("run 1 of 1")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import sys; open(sys.argv[1], 'w').write(sys.stdin.read())", None),
        ("raise SystemExit(3)", "notify.command failed, at 3 tries: exit code 3"),
        ("import time; time.sleep(60)", "notify.command failed, at 3 tries: it did not end within 0 s"),
    ],
    ids=["good", "failing", "endless"],
)
def test_a_command_gets_the_record_on_its_standard_input(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: str, problem: str | None
) -> None:
    monkeypatch.setattr(notification, "WITHIN_S", 0.4 if problem else 30.0)
    got = nights.directory / "$(got) it"  # no shell sees it
    command = json.dumps([sys.executable, "-S", "-c", code, str(got)])
    nights.file.write_text(f"runs: {{a: conf=demo}}\nnotify: {{command: {command}}}\n")
    assert nights.code() == 0
    out = capfd.readouterr().out
    if problem is None:
        assert json.loads(got.read_text()) == nights.record()
        assert "warning" not in out
    else:
        assert f"warning: {problem}" in out


def test_a_command_that_does_not_exist_is_a_warning(tmp_path: Path) -> None:
    config = NotifyConfig(command=(str(tmp_path / "gone"),))
    (warning,) = notification.notify(config, "{}", time.sleep)
    assert warning == "notify.command failed, at 3 tries: No such file or directory"


def test_nobody_is_notified_of_a_night_that_a_signal_ended(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.nightly.processes import Processes

    nights.file.write_text("runs: {a: conf=demo}\nnotify: {url_env: NOTIFY_URL}\n")
    run = Processes.run

    def stopped(self: Processes, *arguments: Any) -> Any:
        self._pass_on(15, None)
        return run(self, *arguments)

    monkeypatch.setattr(Processes, "run", stopped)
    nights.script("a", seconds=30)
    with webhook(answer(200)) as (url, requests):
        monkeypatch.setenv("NOTIFY_URL", url)
        assert nights.code() == 130
    assert requests == []
