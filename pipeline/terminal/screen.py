"""Standard output and error that never end a command: a terminal may go away, a disk may be full, both may be closed.

In: the process's descriptors. Out: `sys.stdout` and `sys.stderr`. This module imports nothing heavy.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Raw(io.FileIO):
    """A descriptor whose writes are dropped where they cannot be written: what matters is on disk elsewhere."""

    raises_broken_pipe = True

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            if self.raises_broken_pipe:
                raise
        except OSError:
            pass
        return memoryview(data).nbytes


def stream(
    descriptor: int, encoding: str, *, closes: bool = False, raises_broken_pipe: bool = False, is_line: bool = True
) -> io.TextIOWrapper:
    """Return a text stream on a descriptor whose errors are dropped, and that escapes what its encoding lacks.

    Args:
        descriptor: Where to write.
        encoding: The encoding.
        closes: Whether the descriptor is closed with the stream.
        raises_broken_pipe: Whether to raise when the reader of a pipe is gone, as after `| head`.
        is_line: Whether each line is written at once.
    """
    raw = _Raw(descriptor, "w", closefd=closes)
    raw.raises_broken_pipe = raises_broken_pipe
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=is_line)


def keep_printing() -> None:
    """Drop from here on what standard output and error cannot take, also when the reader of a pipe is gone."""
    for text in (sys.stdout, sys.stderr):
        raw = getattr(getattr(text, "buffer", None), "raw", None)
        if isinstance(raw, _Raw):
            raw.raises_broken_pipe = False


def protect() -> None:
    """Open the standard descriptors that are closed, and replace `sys.stdout` and `sys.stderr`, unless a test has."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number: else a file of the run would have it
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        now = getattr(sys, name)
        if now is not getattr(sys, f"__{name}__"):
            continue
        encoding, is_line = "utf-8", True
        if now is not None:
            with suppress(OSError):
                now.flush()
            encoding, is_line = now.encoding, now.line_buffering or now.write_through
        setattr(sys, name, stream(descriptor, encoding, raises_broken_pipe=True, is_line=is_line))
