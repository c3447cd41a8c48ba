"""A worker's own output: what vLLM and its processes print goes to a file, and the first error in it to the user."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path


def redirect_output(directory: Path, name: str) -> Path:
    """Send all that this process and its children print to a file of its own, and return the file.

    Raises:
        OSError: The file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{name}.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return log


def root_cause(log: Path) -> str:
    """Return the first error that stands in the log: vLLM's processes print there what they do not hand on."""
    sys.stderr.flush()
    found = re.search(r"\b(\w+(?:Error|Exception): .+)", log.read_text(encoding="utf-8", errors="replace"))
    return f": {found[1][:500]} ({log})" if found else ""
