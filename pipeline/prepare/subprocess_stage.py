"""The prepare room in a process of its own, so that torch never comes into the driver.

The tokenizer's library imports torch, half a gigabyte that our code has no use for; it ends with the process. In: a
configuration and a run's directory. Out: the stage `prompts`, as `room.prepare` writes it. The process says what the
prompts will be made of and waits for the word to go on; when the one that began it is gone, it ends.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import PipelineError
from pipeline.prepare.stage import prepare
from pipeline.runs.manifest import PromptMetadata
from pipeline.storage.artifacts import ArtifactStore

END_S = 10.0
"""Seconds that the process has to clear away what it was writing."""


def prepare_in_subprocess(
    config: Config, run: ArtifactStore, *, on_metadata: Callable[[PromptMetadata], None], meanwhile: Callable[[], None]
) -> None:
    """Prepare a run in another process, which has ended when this returns or raises.

    Args:
        config: The run's configuration.
        run: The run's directory.
        on_metadata: As `room.prepare` takes it, called in this process: what it raises leaves the run as it was.
        meanwhile: What this process does before it listens for those facts; what it raises ends the other.

    Raises:
        PipelineError: What `room.prepare` raises.
        RuntimeError: It failed in a way that is our own fault, told with its traceback, or the process was killed.
    """
    ours, theirs = Pipe()
    with ours:
        with theirs:
            number = theirs.fileno()
            line = [sys.executable, "-m", __name__, str(number)]
            process = subprocess.Popen(line, pass_fds=[number])  # noqa: S603
        try:
            ours.send((config, run))
            meanwhile()
            metadata = _hear(ours, process)
            if metadata is not None:
                on_metadata(metadata)
                with suppress(BrokenPipeError):  # why it is gone is heard next
                    ours.send(True)
                _hear(ours, process)
        finally:
            ours.close()
            _end(process)


def _hear(connection: Connection[Any, Any], process: subprocess.Popen[bytes]) -> PromptMetadata | None:
    """Return what the prompts will be made of, or None at the end of the preparation; raise what it failed with."""
    metadata: PromptMetadata | None
    failure: PipelineError | str | None
    try:
        metadata, failure = connection.recv()
    except (EOFError, ConnectionError) as error:
        code = process.wait()
        raise RuntimeError(f"the process that prepares has ended with {code}: see logs/driver.log") from error
    if isinstance(failure, PipelineError):
        raise failure
    if failure is not None:
        raise RuntimeError(f"preparing has failed:\n{failure}")
    return metadata


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # it may be at its end already
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(number: int) -> None:
    """Be the process: prepare what comes over the connection, and say there how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the one that began this decides
    signal.signal(signal.SIGTERM, _leave)
    try:
        _serve(number)
    finally:
        # From here on the interpreter ends: what a handler raised then would be written to the log, and help nobody.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """End, unlike SIGTERM's default with what is being written cleared away; a second one does not disturb that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _serve(number: int) -> None:
    with Connection(number) as connection:
        config, run = connection.recv()

        def on_metadata(metadata: PromptMetadata) -> None:
            connection.send((metadata, None))
            connection.recv()

        def on_rows(_: int) -> None:
            if connection.poll():  # nothing is ever sent: the other end is closed
                raise EOFError("the run is gone")

        failure: PipelineError | str | None = None
        try:
            prepare(config, run, on_rows=on_rows, on_metadata=on_metadata)
        except PipelineError as error:
            failure = error
        except Exception:
            failure = traceback.format_exc()
        with suppress(BrokenPipeError):
            connection.send((None, failure))


if __name__ == "__main__":
    main(int(sys.argv[1]))
