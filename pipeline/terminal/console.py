"""What a person sees: the pipeline's own lines on the terminal, everybody else's chatter in a file.

Ray, vLLM and their C++ parts print to the process's own descriptors, so these are turned to the log as a whole and
our lines go to a copy of the terminal.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.terminal.text import escape_control as escape_control  # orchestrator.py still imports it from here

LINE_EVERY_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""


def plain() -> Console:
    """Return a console on standard output that takes nothing for markup; without a terminal, as wide as tables need."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, highlight=False, markup=False, emoji=False)


@contextmanager
def quiet(log: Path) -> Iterator[Console]:
    """Send standard output and error of this process and its children to `log`; give a console to the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    try:
        with open(os.dup(saved[0]), "w", encoding="utf-8", errors="backslashreplace") as terminal:
            # A log has no width of its own, and a table must not be cut to the 80 columns that rich assumes.
            yield Console(file=terminal, width=None if terminal.isatty() else 120, highlight=False)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


class GenerateProgress:
    """Rows, failures, tokens a second and time left: one bar on a terminal, a line now and then in a log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("generate"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._total = self._done = self._failed = self._tokens = 0
        self._began = self._spoke = 0.0

    def begin(self, num_rows: int, num_left: int, order: str) -> None:
        """Start counting: `num_left` of `num_rows` rows are still to be generated, in this order."""
        self._total, self._done = num_rows, num_rows - num_left
        if self._done:
            self._console.print(f"generate: {self._done} of {num_rows} rows are there already, {num_left} to go")
        if num_left:
            self._console.print(f"generate: {order}", soft_wrap=True, markup=False)
        if self._console.is_terminal:
            rate = "the engine is starting"
            self._task = self._bar.add_task("generate", total=num_rows, completed=self._done, rate=rate)
            self._bar.start()
        elif num_left:
            self._console.print(f"generate: {num_left} rows; the engine is starting")

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int) -> None:
        """Count finished rows."""
        if not self._began:  # the rate is the engine's, without its start
            self._began = self._spoke = time.monotonic()
        self._done += num_rows
        self._failed += num_failed
        self._tokens += num_output_tokens
        if self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate())
        elif time.monotonic() - self._spoke > LINE_EVERY_S:
            self._spoke = time.monotonic()
            self._console.print(f"generate: {self._done}/{self._total} rows, {self._rate()}")

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _rate(self) -> str:
        rate = self._tokens / max(time.monotonic() - self._began, 1e-9)
        return f"{rate:,.0f} tokens/s, {self._failed} failed"
