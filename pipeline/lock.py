"""One driver a run: the second one that opens a run's directory is told so.

On a disk it is a lock of the operating system on a file, which ends with the process however it ends. Object storage
has none: there the driver writes an object again and again, and one that is fresh is somebody's. Two drivers that
start within the same second on object storage may both pass; journals keep every row of both, and one of each counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RunError
from pipeline.store import Folder

LOCAL_FILE = ".lock"
REMOTE_FILE = "lock.json"
BEAT_S = 10.0
STALE_S = 45.0
"""Seconds without a beat after which a lock in object storage is a dead driver's."""


@contextmanager
def locked(run: Folder) -> Iterator[None]:
    """Hold the run's lock.

    Raises:
        RunError: Another driver holds it.
    """
    with _locked_file(run, Path(run.path(LOCAL_FILE))) if run.local else _beating(run):
        yield


def _refuse(run: Folder, owner: str) -> RunError:
    return RunError(f"{run.root} is being written by another process ({owner}): wait for it, or choose another run_id")


@contextmanager
def _locked_file(run: Folder, path: Path) -> Iterator[None]:
    with run.writing():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refuse(run, os.pread(descriptor, 200, 0).decode(errors="replace")) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _owner().encode(), 0)
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


@contextmanager
def _beating(run: Folder) -> Iterator[None]:
    token = uuid.uuid4().hex
    if run.exists(REMOTE_FILE):
        holder = json.loads(run.read_text(REMOTE_FILE))
        if time.time() - holder["at"] < STALE_S:
            raise _refuse(run, holder["owner"])
    ending = threading.Event()

    def beat() -> None:
        run.write_text(REMOTE_FILE, json.dumps({"owner": _owner(), "token": token, "at": time.time()}))

    def keep_beating() -> None:
        while not ending.wait(BEAT_S):
            beat()

    beat()
    thread = threading.Thread(target=keep_beating, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
        run.remove(REMOTE_FILE)


def _owner() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
