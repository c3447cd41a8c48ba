"""Builds reports of small runs, and a text with hostile markup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from archives import Scored, completion, question

from pipeline.comparison.compare_runs import FLIPS_FILE
from pipeline.comparison.pairing import FLIP_SCHEMA
from pipeline.publish import report

MakeReport = Callable[..., Path]

HOSTILE = (
    "<script>globalThis.hacked = 1; alert(1)</script></script><!-- <script>"
    "<img src=x onerror='globalThis.hacked = 2'><svg onload=alert(3)>"
    "{{ 7 * 7 }} {% raw %} {{ config }} ${7*7} `${alert(4)}` </pre></div></body>"
    "\u2028\u2029\u202e rtl \u202d\u2066 \u0000\\u003c &lt;b&gt; ]]> \\"
    "https://example.org/?leak " + "длинный текст " * 15_000
)


TASKS = ("agro_bench", "med_bench")


def twenty() -> list[Any]:
    """Return 20 questions: for each task 8 of the test split without a gold, and 2 of the train split with one."""
    return [
        question(task, number, split="train" if number > 7 else "test", gold="AB"[number % 2] if number > 7 else None)
        for task in TASKS
        for number in range(10)
    ]


def answer(prompt: dict[str, Any], repeat: int) -> Any:
    if (prompt["task"], prompt["id"]) == ("med_bench", 3):
        return completion(prompt, repeat, None, error="the prompt is too long")
    return completion(prompt, repeat, f"Ответ: B. Слово-{prompt['id']}")


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """Serve HTTP on loopback; yield the server's address and the list of requested paths."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x.png", requested
        server.shutdown()


def report_of(run: Scored) -> Path:
    """Write a run's report and return its file."""
    return Path(run.store.path(report.write(run.store, run.config, run.manifest).file))


def flip(run: Scored, flipped: list[tuple[str, str, int, str]]) -> None:
    """Write a gate's list of flipped questions into a run: task, split, id, and `lost` or `gained`."""
    rows = [dict(zip(("task", "split", "id", "flip"), each, strict=True)) for each in flipped]
    values = {"base_value": 0.0, "new_value": 1.0}
    rows = [row | values | {"metric": metric} for row in rows for metric in ("em", "correct")]
    directory = Path(run.store.path("compare"))
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=FLIP_SCHEMA), directory / FLIPS_FILE)


@dataclass
class Opened:
    """A page, the URLs it requested, and the messages of its console, errors and dialogs."""

    page: Any
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def open(self, file: Path, anchor: str = "") -> Any:
        """Open a file by its file: URL and wait until its samples are listed."""
        self.page.goto(f"{file.as_uri()}{anchor}")
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return self.page


def shows(page: Any, selector: str, text: str) -> None:
    """Wait until an element has this text. The page's policy forbids `wait_for_function`, which evaluates a string."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text)
