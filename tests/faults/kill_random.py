"""Kills a process of the demo at a random moment of its generate stage, resumes, and compares with an undisturbed run.

Usage: python tests/faults/kill_random.py <new directory> [seed]

20 runs: the driver is killed in 8 (in 4 of them with all its descendants, as in a power failure), the actor in 6,
vLLM's engine process in 6, each with SIGKILL. Prints a table; exits with 1 when a sample differs, is missing or is
duplicated, or when more rows were repeated than were in flight at the kill. Processes that a killed driver leaves
behind may still finish some rows: those are not repeated. Takes about half an hour on two cores.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.generate import journal
from pipeline.records import KEY_COLUMNS, SAMPLE_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

VICTIMS = ["driver"] * 4 + ["driver and all"] * 4 + ["actor"] * 6 + ["engine"] * 6
COMPARED = (
    "response",
    "completion",
    "reasoning",
    "answer",
    "finish_reason",
    "num_output_tokens",
    "em",
    "f1",
    "correct",
)


@dataclass(frozen=True)
class Outcome:
    victim: str
    num_done: int
    num_in_flight: int
    num_repeated: int
    num_differing: int
    num_missing: int
    num_twice: int
    exit_code: int

    @property
    def is_good(self) -> bool:
        bad = self.num_differing + self.num_missing + self.num_twice + self.exit_code
        return bad == 0 and self.num_repeated <= self.num_in_flight


def start(output: Path, run_id: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline.run", "conf=demo", f"output_dir={output}", f"run_id={run_id}"]
    log = (output / f"{run_id}.txt").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log)


def journaled(run: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in (run / "journal").glob("*.jsonl"))


def process_of(run: Path, title: bytes) -> int | None:
    """Return the process whose output goes to a log of this run and whose title begins with `title`."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            mine = str((directory / "fd" / "1").readlink()).startswith(str(run / "logs"))
            if mine and (directory / "cmdline").read_bytes().startswith(title):
                return int(directory.name)
        except OSError:
            continue
    return None


@dataclass(frozen=True)
class Moment:
    """State of a run at the kill: keys of rows as in the attempt logs, and the names of the replicas so far."""

    done: set[str]
    in_flight: set[str]
    replicas: set[str]


def moment(run: Path) -> Moment:
    done = {
        "/".join(str(getattr(row, name)) for name in KEY_COLUMNS)
        for row in journal.read(ArtifactStore.open(str(run / "journal")))
    }
    started: set[str] = set()
    for session in (run / "journal").glob("session-*"):
        attempt_logs = Path(tempfile.gettempdir()) / session.name.replace("session-", "pipeline-")
        for attempt_log in attempt_logs.glob("*"):
            lines = [line.split(" ", 2) for line in attempt_log.read_text().splitlines()]
            started |= {fields[2] for fields in lines if fields[0] == "S"}
    replicas = {file.stem for file in (run / "logs").glob("*.log")}
    return Moment(done=done, in_flight=started - done, replicas=replicas)


def kill_when(run: Path, driver: subprocess.Popen[bytes], victim: str, threshold: int) -> Moment:
    """Kill the victim when `threshold` rows are journaled; return the state of the run at that moment."""
    while journaled(run) < threshold:
        assert driver.poll() is None, "the run ended before it was killed"
        time.sleep(0.01)
    titles = {"actor": b"ray::", "engine": b"VLLM::EngineCore"}
    pid = process_of(run, titles[victim]) if victim in titles else driver.pid
    assert pid is not None
    below = psutil.Process(pid).children(recursive=True) if victim == "driver and all" else []
    for each in (pid, *(process.pid for process in below)):
        with suppress(ProcessLookupError):  # it ended together with another one
            os.kill(each, signal.SIGKILL)
    time.sleep(0.3)  # until writes in progress have reached the files
    return moment(run)


def samples(run: Path) -> list[dict[str, object]]:
    artifact = ArtifactStore.open(str(run)).artifact("samples", SAMPLE_SCHEMA)
    assert artifact is not None
    rows: list[dict[str, object]] = artifact.dataset().to_table().to_pylist()
    return rows


def key(row: dict[str, object]) -> tuple[object, ...]:
    return row["task"], row["split"], row["id"], row["repeat"]


def trial(
    output: Path, number: int, victim: str, threshold: int, expected: dict[tuple[object, ...], object]
) -> Outcome:
    run = output / f"run=kill-{number}"
    driver = start(output, f"kill-{number}")
    then = kill_when(run, driver, victim, threshold)
    driver.wait(timeout=300)
    if victim.startswith("driver"):
        time.sleep(3)
        driver = start(output, f"kill-{number}")
        driver.wait(timeout=300)
    rows = samples(run)
    found = {key(row): row for row in rows}
    repeated = sum(int(str(row["attempts"])) - 1 for row in rows)
    regenerated = {"/".join(map(str, key(row))) for row in rows if row["replica"] not in then.replicas}
    repeated += len(regenerated & (then.done | then.in_flight))
    differing = sum(
        any(found[name][column] != expected[name][column] for column in COMPARED)  # type: ignore[index]
        for name in found.keys() & expected.keys()
    )
    missing, twice = len(expected.keys() - found.keys()), len(rows) - len(found)
    num_done, num_in_flight = len(then.done), len(then.in_flight)
    return Outcome(victim, num_done, num_in_flight, repeated, differing, missing, twice, driver.returncode)


def main(output: Path, seed: int) -> int:
    output.mkdir(parents=True)
    undisturbed = start(output, "undisturbed")
    assert undisturbed.wait(timeout=300) == 0
    expected: dict[tuple[object, ...], object] = {key(row): row for row in samples(output / "run=undisturbed")}
    moments = random.Random(seed)
    print("| run | killed | rows done | under way | repeated | differ | missing | twice | exit |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    is_good = True
    for number, victim in enumerate(VICTIMS):
        got = trial(output, number, victim, moments.randint(1, 180), expected)
        is_good &= got.is_good
        cells = [number, victim, got.num_done, got.num_in_flight, got.num_repeated, got.num_differing]
        cells += [got.num_missing, got.num_twice, got.exit_code]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
