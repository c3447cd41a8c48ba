"""Progress of the generate stage: a bar on a terminal, a line every `LINE_EVERY_S` seconds in a log."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.terminal.text import escape_control

LINE_EVERY_S = 30.0
"""Seconds between two progress lines when the console is not a terminal."""


class GenerateProgress:
    """Counts finished rows, failed rows and tokens; shows them as a bar on a terminal, as lines in a log."""

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
        self._began = self._last_line_at = 0.0

    def begin(self, num_rows: int, num_left: int, order: str) -> None:
        """Start counting: `num_left` of `num_rows` rows remain. `order` describes the order in which they start."""
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
        """Count finished rows, those of them that failed, and their output tokens."""
        if not self._began:  # the rate excludes the engine's start
            self._began = self._last_line_at = time.monotonic()
        self._done += num_rows
        self._failed += num_failed
        self._tokens += num_output_tokens
        if self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate())
        elif time.monotonic() - self._last_line_at > LINE_EVERY_S:
            self._last_line_at = time.monotonic()
            self._console.print(f"generate: {self._done}/{self._total} rows, {self._rate()}")

    def report(self, line: str) -> None:
        """Print what has happened to a replica; the line may quote a library's text."""
        self._console.print(f"generate: {escape_control(line)}", soft_wrap=True, markup=False)

    def end(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _rate(self) -> str:
        rate = self._tokens / max(time.monotonic() - self._began, 1e-9)
        return f"{rate:,.0f} tokens/s, {self._failed} failed"
