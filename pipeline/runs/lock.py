"""One driver per run: a second driver that opens a run's directory is refused.

On a disk the lock is an operating system lock on a file, which is released when the process ends, in whatever way.
Object storage has no locks: there the driver rewrites an object periodically (a heartbeat), and a recent object means
that the run is locked. Two drivers that start within the same second on object storage may both acquire the lock; the
journals then keep the rows of both, and one of each row counts.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pipeline.errors import DataError, Locked, PipelineError, RunError
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import open_to_write

logger = logging.getLogger(__name__)

LOCAL_FILE = ".lock"
REMOTE_FILE = "lock.json"
BEAT_S = 10.0
"""Seconds between heartbeats."""

STALE_S = 45.0
"""Seconds without a heartbeat after which a lock in object storage may be taken over."""

ATTEMPTS, PAUSE_S = 5, 0.1
"""Attempts to lock a file, and seconds between them: `is_held` of another process holds the lock for an instant."""


RequireHeld: TypeAlias = Callable[[], None]
"""Raises `RunError` if the directory of a held lock was removed or replaced meanwhile."""


@contextmanager
def locked(run: ArtifactStore) -> Iterator[RequireHeld]:
    """Hold the run's lock during the block; yield a check that the directory is still the one that was locked.

    Raises:
        Locked: Another driver holds the lock.
        RunError: The lock cannot be used: the file system does not support locks, or the directory is another
            user's or holds links.
    """
    with _locked_file(run) if run.local else _heartbeat(run) as require_held:
        yield require_held


def is_held(run: ArtifactStore) -> bool:
    """Return whether a driver holds the run's lock now; True where that is unknown.

    Raises:
        RunError: The storage does not respond.
    """
    if run.local is None:
        try:
            holder = _holder(run)
        except (RunError, DataError):  # damaged, or removed since
            return run.exists(REMOTE_FILE)
        return holder is not None and holder.is_beating
    try:
        descriptor = os.open(run.path(LOCAL_FILE), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for an instant: see `ATTEMPTS`
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _refuse(run: ArtifactStore, owner: str) -> Locked:
    return Locked(f"{run.shown()} is being written by another process ({owner}): wait for it, or choose another run_id")


@contextmanager
def _locked_file(run: ArtifactStore) -> Iterator[RequireHeld]:
    run.require_own()
    # The file is never deleted: one driver could hold the lock on the deleted file, another on a new file.
    with run.writing():
        descriptor = open_to_write(run.path(LOCAL_FILE), flags=0)
    try:
        _lock(run, descriptor)
        with run.writing():
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _owner().encode(), 0)
        yield lambda: _require_held(run, descriptor)
    finally:
        os.close(descriptor)


def _require_held(run: ArtifactStore, descriptor: int) -> None:
    """Check that the lock's file is still where it was: while it is open, no other file has its number.

    Raises:
        RunError: It is gone, and the run's directory with it.
    """
    try:
        is_same = os.path.samestat(Path(run.path(LOCAL_FILE)).lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        is_same = False
    if not is_same:
        raise RunError(
            f"{run.shown()} was moved, removed or replaced while the run was writing it: put it back, or remove what "
            "is there now, and run the same command again"
        )


def _lock(run: ArtifactStore, descriptor: int) -> None:
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if attempt == ATTEMPTS - 1:
                raise _refuse(run, os.pread(descriptor, 200, 0).decode(errors="replace")) from error
            time.sleep(PAUSE_S)
        except OSError as error:
            raise RunError(f"{run.root} cannot be locked ({error.strerror}): use another file system") from error


@contextmanager
def _heartbeat(run: ArtifactStore) -> Iterator[RequireHeld]:
    token = uuid.uuid4().hex
    holder = _holder(run)
    if holder is not None and (holder.is_beating or _changes(run, holder)):
        raise _refuse(run, f"{holder.owner}, by {run.shown(REMOTE_FILE)}")
    ending = threading.Event()

    def beat() -> None:
        run.write_text(REMOTE_FILE, json.dumps({"owner": _owner(), "token": token, "at": time.time()}))

    def keep_beating() -> None:
        while not ending.wait(BEAT_S):
            with suppress(PipelineError):  # a transient storage error: the next beat comes before the lock is stale
                now = _holder(run)
                if now is not None and now.token != token:
                    logger.error(
                        "%s was taken over by %s while this machine slept; this run ends", run.shown(), now.owner
                    )
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                beat()

    beat()
    thread = threading.Thread(target=keep_beating, name="lock", daemon=True)
    thread.start()
    try:
        yield (
            lambda: None
        )  # a heartbeat makes the object again, and what else is missing there is found when it is read
    finally:
        ending.set()
        thread.join()
        last = _holder(run)
        if last is not None and last.token == token:  # else another driver took the lock over while this machine slept
            run.remove(REMOTE_FILE)


def _changes(run: ArtifactStore, holder: _Holder) -> bool:
    """Return whether a lock whose time is in the future is still rewritten: the clock of one machine is wrong."""
    if holder.at < time.time():
        return False
    logger.warning("%s has a time in the future: waiting whether it is rewritten", run.shown(REMOTE_FILE))
    ends = time.monotonic() + 2 * BEAT_S
    while time.monotonic() < ends:
        time.sleep(BEAT_S / 5)
        if _holder(run) != holder:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Holder:
    owner: str
    token: str
    at: float

    @property
    def is_beating(self) -> bool:
        """Whether the last heartbeat is recent; a time far in the future proves nothing."""
        return abs(time.time() - self.at) < STALE_S


def _holder(run: ArtifactStore) -> _Holder | None:
    """Return the holder of the lock in object storage, or None.

    Raises:
        RunError: The lock object is damaged.
    """
    if not run.exists(REMOTE_FILE):
        return None
    try:
        record = json.loads(run.read_text(REMOTE_FILE))
        at = float(record["at"])
        if math.isnan(at):
            raise ValueError("no time")
        return _Holder(str(record["owner"])[:200], str(record["token"]), at)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RunError(f"{run.shown(REMOTE_FILE)} is damaged: delete it when no process writes this run") from error


def _owner() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
