"""Console: the pipeline's own lines go to the terminal, the output of all libraries goes to a log file.

Ray, vLLM and their C++ code print to the process's file descriptors 1 and 2. Both are redirected to the log, and the
pipeline prints to a copy of the terminal's descriptor.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console

from pipeline.errors import without_secrets
from pipeline.storage.filesystem import open_to_write
from pipeline.terminal.screen import keep_printing, stream
from pipeline.terminal.text import escape_control

LONGEST_LOG_TEXT = 1_000_000
"""Bytes of a log that are searched for the reason of a failure."""

_log: Path | None = None
"""The log that this process's output was last redirected to."""

_log_name = ""
"""How messages name that log."""


def plain(*, after_work: bool = False) -> Console:
    """Return a console on standard output that interprets no markup. Without a terminal it is 120 columns wide.

    Args:
        after_work: Whether the work is done: a reader that has gone then neither ends the command nor changes its exit
            code.
    """
    if after_work:
        keep_printing()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, highlight=False, markup=False, emoji=False)


def print_line(console: Console, text: str) -> None:
    """Print a line of any width, with foreign text escaped and without the secrets of URIs."""
    console.print(escape_control(without_secrets(text)), soft_wrap=True, markup=False)


@contextmanager
def lasting() -> Iterator[tuple[Console, Console]]:
    """Yield consoles on standard output and standard error whose readers may go away without ending the command."""
    with stream(os.dup(1), "utf-8", closes=True) as out, stream(os.dup(2), "utf-8", closes=True) as err:
        first, second = (
            Console(file=file, width=None if file.isatty() else 120, highlight=False, markup=False, emoji=False)
            for file in (out, err)
        )
        yield first, second


@contextmanager
def quiet(log: Path) -> Iterator[Console]:
    """Redirect standard output and error of this process and its children to `log`; yield a console on the terminal.

    Raises:
        OSError: The log cannot be written, or is a link.
    """
    saved = [os.dup(1), os.dup(2)]
    redirect_output(log)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    try:
        with stream(os.dup(saved[0]), "utf-8", closes=True) as terminal:
            width = None if terminal.isatty() else 120  # a file has no width, and rich would cut tables to 80 columns
            yield Console(file=terminal, width=width, highlight=False, markup=False, emoji=False)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


def redirect_output(log: Path, name: str | None = None) -> None:
    """Append everything that this process and its children print to a file.

    Args:
        log: The file.
        name: How messages name it, where that is not its path.

    Raises:
        OSError: The file cannot be written, or is a link.
    """
    global _log, _log_name
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = open_to_write(log)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    _log, _log_name = log, str(log) if name is None else name


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A position in the log that `redirect_output` selected; `path` is None where output is not redirected.

    `name` is how messages name the log.
    """

    path: Path | None
    offset: int
    name: str

    @classmethod
    def now(cls) -> LogPosition:
        """Return the end of the log."""
        sys.stderr.flush()
        return cls(_log, _log.stat().st_size, _log_name) if _log is not None else cls(None, 0, "")

    def text(self) -> str:
        """Return what was printed since, at most the last `LONGEST_LOG_TEXT` bytes; "" if the file is gone."""
        if self.path is None:
            return ""
        sys.stderr.flush()
        try:
            with self.path.open("rb") as file:
                file.seek(max(self.offset, self.path.stat().st_size - LONGEST_LOG_TEXT))
                return file.read().decode(errors="replace")
        except OSError:
            return ""
