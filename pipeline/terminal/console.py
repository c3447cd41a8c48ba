"""What a person sees: the pipeline's own lines on the terminal, everybody else's chatter in a file.

Ray, vLLM and their C++ parts print to the process's own descriptors, so these are turned to the log as a whole and
our lines go to a copy of the terminal.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console


def plain() -> Console:
    """Return a console on standard output that takes nothing for markup; without a terminal, as wide as tables need."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    width = None if sys.stdout.isatty() else 120
    return Console(width=width, highlight=False, markup=False, emoji=False)


@contextmanager
def quiet(log: Path) -> Iterator[Console]:
    """Send standard output and error of this process and its children to `log`; give a console to the terminal."""
    saved = [os.dup(1), os.dup(2)]
    redirect_output(log)
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


def redirect_output(log: Path) -> None:
    """Append all that this process and its children print to a file.

    Raises:
        OSError: The file cannot be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def root_cause(log: Path) -> str:
    """Return the first error in a log, as the end of a message: vLLM's processes print there what they do not raise."""
    sys.stderr.flush()
    found = re.search(r"\b(\w+(?:Error|Exception): .+)", log.read_text(encoding="utf-8", errors="replace"))
    return f": {found[1][:500]} ({log})" if found else ""
