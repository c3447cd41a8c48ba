"""`pipeline.run` with a scripted engine, to which something happens when a stage begins.

Usage: python tests/faults/staged_run.py '{"stage": "score", "fault": "kill", "after_s": 0.1}' '{}' conf=demo ...

`fault` is `kill`, or one of `DISK_FAULTS` at the `directory` that the run is in; the second argument is that of
tests/scripted_run.py. A kill in `generate` comes `after_s` seconds after the first request, since Ray starts before.
Nothing of the pipeline is replaced: its clock of stages also tells when to act.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.cli import command
from pipeline.runs.timings import Timings

STAGES = ("prepare", "generate", "score", "gate", "publish")


def fill(directory: Path) -> None:
    """Fill the file system of a directory."""
    with suppress(OSError), (directory / "filler").open("wb") as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
                    file.flush()


def make_read_only(directory: Path) -> None:
    """Mount a directory read-only; files that are open stay writable."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(directory)], check=True)


def move_away(directory: Path) -> None:
    """Rename the run's directory."""
    (run,) = directory.glob("run=*")
    run.rename(directory / "away")


def deny(directory: Path) -> None:
    """Let nobody create, change or remove a file of the run; root ignores permissions, but not this attribute."""
    (run,) = directory.glob("run=*")
    subprocess.run(["chattr", "-R", "-f", "+i", str(run)], check=False)


def break_writes(directory: Path) -> None:
    """Let all writes fail; needs eio.c in LD_PRELOAD."""
    Path(os.environ["EIO_FLAG"]).touch()
    assert directory.is_dir()


DISK_FAULTS: dict[str, Callable[[Path], None]] = {
    "full": fill,
    "read-only": make_read_only,
    "vanished": move_away,
    "denied": deny,
    "input/output error": break_writes,
}


def kill(after_s: float, requests: Path | None) -> None:
    """Kill this process some seconds from now, or from the first request on."""

    def wait() -> None:
        while requests is not None and not requests.exists():
            time.sleep(0.01)
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    if requests is not None:
        requests.unlink(missing_ok=True)
    threading.Thread(target=wait, daemon=True).start()


def act_at(stage: str, act: Callable[[], None]) -> None:
    """Call `act` when the stage begins."""
    timed = Timings.stage

    @contextmanager
    def announced(self: Timings, name: str) -> Iterator[None]:
        if name == stage:
            act()
        with timed(self, name):
            yield

    Timings.stage = announced  # type: ignore[method-assign]


def main(arguments: list[str]) -> None:
    """Run."""
    from scripted_run import main as run

    plan, *rest = arguments
    what = json.loads(plan)
    if what.get("fault") == "kill":
        requests = Path(json.loads(rest[0])["requests"]) if what["stage"] == "generate" else None
        act_at(what["stage"], lambda: kill(what.get("after_s", 0.0), requests))
    elif what:
        act_at(what["stage"], lambda: DISK_FAULTS[what["fault"]](Path(what["directory"])))
    run(rest)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    sys.exit(command(main))
