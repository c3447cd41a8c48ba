"""Builds reports of small runs, and a text with hostile markup."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
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
from pipeline.publish.report.texts import russian

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


def flip(run: Scored, flipped: list[tuple[str, str, int, str]], **texts: str) -> None:
    """Write a gate's list of flipped questions into a run: task, split, id, `lost` or `gained`, and other columns."""
    rows = [dict(zip(("task", "split", "id", "flip"), each, strict=True)) for each in flipped]
    values = {"base_value": 0.0, "new_value": 1.0}
    rows = [row | values | texts | {"metric": metric} for row in rows for metric in ("em", "correct")]
    directory = Path(run.store.path("compare"))
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=FLIP_SCHEMA), directory / FLIPS_FILE)


class _Texts(HTMLParser):
    """Collects the keys of the fixed texts of a page, and the texts that the page cannot translate."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, bool]] = []
        self.keys: set[str] = set()
        self.others: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.keys |= {str(value) for name, value in attrs if name == "data-t" or name.startswith("data-t-")}
        texts = (name for name in ("title", "aria-label", "placeholder") if name in found)
        self.others += [f"{name}={found[name]}" for name in texts if f"data-t-{name}" not in found]
        if tag not in ("meta", "link", "input", "br"):
            is_left_out = "data-t" in found or tag in ("bdi", "script", "style", "pre")
            self.open.append((tag, is_left_out))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:  # end tags of cells and terms are left out
            pass

    def handle_data(self, data: str) -> None:
        if re.search(r"[^\W\d_]", data) and not any(is_left_out for _, is_left_out in self.open):
            self.others.append(data.strip())


def _texts(page: str) -> _Texts:
    found = _Texts()
    found.feed(page)
    return found


def fixed_texts(page: str) -> set[str]:
    """Return the keys of the fixed texts in a page."""
    return _texts(page).keys


def untranslated(page: str) -> list[str]:
    """Return the texts of a page that are neither a fixed text with a translation nor marked as recorded by `bdi`."""
    found = _texts(page)
    return found.others + sorted(found.keys - set(russian()))


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
