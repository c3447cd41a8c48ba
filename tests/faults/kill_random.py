"""Kills runs of the demo at random moments, resumes them, and compares with an undisturbed run.

Usage: PYTHONPATH=tests python tests/faults/kill_random.py <new directory> [seed] [stages|engines]

`stages`: 20 kills of the driver with SIGKILL, 4 in each stage, from prepare to publish; a run is killed in one stage
after the other. The engine is scripted. Takes 5 minutes.
`engines`: 20 runs with real vLLM are killed while they generate: the driver in 8 (in 4 of them with all its
descendants, as in a power failure), the actor in 6, vLLM's engine process in 6. Takes half an hour.

Prints a table of each; exits with 1 when a sample differs, is missing, duplicated or half-written, or when more rows
were repeated than were in flight at the kill. Processes that a killed driver leaves behind may still finish some rows:
those are not repeated.
"""

from __future__ import annotations

import json
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
from faults import stages
from faults.staged_run import STAGES

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


NUM_STAGED = 4
"""Runs that are killed in each stage."""


def seconds_of_stages(run: Path) -> dict[str, float]:
    seconds: dict[str, float] = json.loads((run / "manifest.json").read_text())["timings_s"]
    return seconds


def in_stages(output: Path, seed: int) -> bool:
    """Kill runs in one stage after the other, each at a random moment of it; return whether nothing was hurt."""
    output.mkdir(parents=True)
    undisturbed = stages.run(output, {}, "run_id=undisturbed")
    assert undisturbed.exit_code == 0, undisturbed.errors
    expected = stages.rows_of(ArtifactStore.open(str(output / "run=undisturbed")))
    seconds = seconds_of_stages(output / "run=undisturbed") | {"generate": stages.GENERATING_S}
    moments = random.Random(seed)
    print(f"seed {seed}\n")
    print("| run | stage | killed after s | of s | exit | rows done then | lost | twice | half-written |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    is_good = True
    for number in range(NUM_STAGED):
        run, lines = output / f"run=staged-{number}", []
        for stage in STAGES:
            after_s = round(moments.uniform(0, seconds[stage]), 3)
            plan = {"stage": stage, "fault": "kill", "after_s": after_s}
            ended = stages.run(output, plan, f"run_id=staged-{number}")
            num_done = journaled(run) or len(stages.rows_of(ArtifactStore.open(str(run)), "completions"))
            lines.append([number, stage, after_s, seconds[stage], ended.exit_code, num_done, stages.half_written(run)])
        resumed = stages.run(output, {}, f"run_id=staged-{number}")
        found = stages.rows_of(ArtifactStore.open(str(run)))
        num_lost, num_twice = len(set(expected) - set(found)), len(found) - len(set(found))
        for *cells, broken in lines:
            print("| " + " | ".join(map(str, [*cells, num_lost, num_twice, len(broken)])) + " |", *broken, flush=True)
            is_good &= not broken and cells[4] in (0, -signal.SIGKILL)
        is_good &= found == expected and resumed.exit_code == 0 and not stages.half_written(run)
        is_good &= stages.products(run) == {
            name.replace("undisturbed", f"staged-{number}") for name in stages.products(output / "run=undisturbed")
        }
    return is_good


def of_engines(output: Path, seed: int) -> bool:
    """Kill processes of runs with real vLLM; return whether nothing was hurt."""
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
    return is_good


def main(output: Path, seed: int = 1, which: str = "stages,engines") -> int:
    """Return the exit code: 1 if anything was hurt."""
    kinds = {"stages": in_stages, "engines": of_engines}
    unhurt = [kinds[name](output / name, seed) for name in which.split(",")]
    return 0 if all(unhurt) else 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    raise SystemExit(main(Path(arguments[0]).resolve(), *map(int, arguments[1:2]), *arguments[2:]))
