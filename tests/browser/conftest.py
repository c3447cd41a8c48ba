"""A headless Chromium; without one on the machine the tests are skipped with the reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import Reply, Scored, reply_b, run_of, run_of_demo
from builders import ROOT
from reports import MakeReport, Opened, answer, report_of, twenty

from pipeline.records import Prompt

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start the browser named by CHROMIUM or found on the PATH.

    The scope is the module: while Playwright runs, this thread has an event loop and `asyncio.run` raises an error.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium, or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not run as root, as in a container; the pages are trusted.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    """Yield an empty page; at the end, assert that it requested only files and wrote no console messages."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(10_000)
    found = Opened(page)
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.on("dialog", lambda dialog: (found.messages.append(dialog.message), dialog.dismiss()))
    yield found
    context.close()
    assert found.messages == []
    assert [url for url in found.requests if not url.startswith("file:")] == []


@pytest.fixture
def make_report(tmp_path: Path, at_root: Path) -> MakeReport:  # noqa: ARG001
    """Make the report of a run of these prompts; `overrides` change the demo's configuration."""

    def make(prompts: list[Prompt], *overrides: str, reply: Reply = reply_b) -> Path:
        return report_of(run_of(prompts, str(tmp_path), *overrides, reply=reply))

    return make


@pytest.fixture(scope="session")
def report_of_twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the report of the twenty questions once, with its samples inside the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return report_of(run_of(twenty(), str(tmp_path_factory.mktemp("twenty")), reply=answer))


@pytest.fixture
def demo_run(tmp_path: Path, at_root: Path) -> Scored:  # noqa: ARG001
    """Make a complete run of all the demo's questions."""
    return run_of_demo(str(tmp_path))
