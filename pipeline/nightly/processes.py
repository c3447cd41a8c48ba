"""Runs one process after the other, passes signals on to the one that runs, and keeps what it prints as its errors.

A process has the night's standard output. SIGINT and SIGTERM are passed on; the caller then starts no other one. When
the night itself is killed, the kernel sends SIGTERM to the process, so that the next try does not find it at work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from pipeline.errors import UserError
from pipeline.terminal.signals import WATCHED

WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Program that requests a signal at its parent's end (1: PR_SET_PDEATHSIG) and becomes another program."""

MOST_BYTES = 1 << 16
"""How much of the end of a process's standard error is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: its exit code (negative: a signal), the end of its standard error, and how long it took."""

    exit_code: int
    errors: str
    seconds: float

    @property
    def reason(self) -> str:
        """Why it failed: its lines `error: ...`, else the signal, else the last line, which a traceback ends with."""
        lines = [line for line in self.errors.splitlines() if line.strip()]
        reported = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if reported:
            return "; ".join(reported)
        if self.exit_code < 0:
            return f"ended by signal {-self.exit_code} ({signal.strsignal(-self.exit_code) or 'unknown'})"
        return lines[-1].strip() if lines else f"ended with exit code {self.exit_code} and without a message"


class Processes:
    """The processes of a night. Enter `listen` in the main thread."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Pass signals on during the block, and restore the previous handlers afterwards."""
        before = {number: signal.signal(number, self._pass_on) for number in WATCHED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, line: Sequence[str], environment: Mapping[str, str]) -> Ended:
        """Run a command line to its end. Its standard error is kept, not shown.

        One that cannot be started has ended with `UserError.exit_code` and the reason.
        """
        began = time.monotonic()
        try:
            code, text = self._run(line, environment)
        except OSError as error:  # such as arguments that are too long, or a temporary directory that is full
            code, text = UserError.exit_code, f"error: the process cannot be started: {error.strerror or error}\n"
        return Ended(exit_code=code, errors=text, seconds=time.monotonic() - began)

    def _run(self, line: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        with tempfile.TemporaryFile() as errors:
            wrapped = [sys.executable, "-I", "-S", "-c", WITH_PARENT, *line]
            self._process = subprocess.Popen(  # noqa: S603  # this Python, and the user's arguments
                wrapped, stdin=subprocess.DEVNULL, stderr=errors, env=dict(environment)
            )
            if self.is_stopping:  # a signal that came while it was started
                self._process.send_signal(signal.SIGTERM)
            code = self._process.wait()
            self._process = None
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - MOST_BYTES))
            return code, errors.read().decode(errors="replace")

    def sleep(self, seconds: float) -> None:
        """Sleep, but only until a signal comes."""
        end = time.monotonic() + seconds
        while not self.is_stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.is_stopping = True
        if self._process is not None:
            self._process.send_signal(number)
