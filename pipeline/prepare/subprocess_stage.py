"""Runs the prepare stage in a subprocess, so that the driver never imports torch.

The tokenizer's library imports torch, half a gigabyte of memory that is freed when the subprocess exits. The
subprocess receives a configuration and a run's directory and writes the artifact `prompts`, as `prepare` in
prepare/stage.py does. It sends the artifact's metadata and waits for a reply before it reads any row. It exits when its
parent is gone.
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

SHUTDOWN_S = 10.0
"""Seconds that the subprocess has to remove its unfinished files before it is killed."""


def prepare_in_subprocess(
    config: Config, run: ArtifactStore, *, on_metadata: Callable[[PromptMetadata], None], meanwhile: Callable[[], None]
) -> None:
    """Prepare a run in a subprocess, which has exited when this returns or raises.

    Args:
        config: The run's configuration.
        run: The run's directory.
        on_metadata: As for `prepare`, but called in this process. When it raises, the run's directory is left
            unchanged.
        meanwhile: Called in this process while the subprocess starts. When it raises, the subprocess is terminated.

    Raises:
        PipelineError: Whatever `prepare` raises.
        RuntimeError: The subprocess failed with an unexpected exception, whose traceback is in the message, or was
            killed.
    """
    ours, theirs = Pipe()
    with ours:
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-m", __name__, str(number)]
            process = subprocess.Popen(command, pass_fds=[number])  # noqa: S603
        try:
            ours.send((config, run))
            meanwhile()
            metadata = _receive(ours, process)
            if metadata is not None:
                on_metadata(metadata)
                with suppress(BrokenPipeError):  # the next `_receive` raises the reason
                    ours.send(True)
                _receive(ours, process)
        finally:
            ours.close()
            _terminate(process)


def _receive(connection: Connection[Any, Any], process: subprocess.Popen[bytes]) -> PromptMetadata | None:
    """Return the metadata that the subprocess sends, or None when it has finished.

    Raises:
        PipelineError: Whatever `prepare` raised in the subprocess.
        RuntimeError: The subprocess failed with an unexpected exception or was killed.
    """
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


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # does nothing when it has already exited
    try:
        process.wait(SHUTDOWN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(number: int) -> None:
    """Run the subprocess: prepare the run received over the connection and send the outcome back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the parent decides
    signal.signal(signal.SIGTERM, _exit_on_sigterm)
    try:
        _serve(number)
    finally:
        # The interpreter now shuts down: an exception from the handler would only clutter the log.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_on_sigterm(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Exit through SystemExit, so that unfinished files are removed; further SIGTERMs are ignored meanwhile."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _serve(number: int) -> None:
    with Connection(number) as connection:
        config, run = connection.recv()

        def on_metadata(metadata: PromptMetadata) -> None:
            connection.send((metadata, None))
            connection.recv()

        def on_rows(_: int) -> None:
            if connection.poll():  # the parent sends nothing now, so this means that it has closed the pipe
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
