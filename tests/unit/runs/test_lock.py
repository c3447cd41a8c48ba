"""The lock of a run: on a disk it is released with its process, in object storage it expires without heartbeats."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import ROOT

from pipeline.errors import RunError
from pipeline.runs import lock
from pipeline.runs.lock import REMOTE_FILE, STALE_S, locked
from pipeline.storage.artifacts import ArtifactStore

HOLDER = """
import sys, time
from pipeline.runs.lock import locked
from pipeline.storage.artifacts import ArtifactStore
with locked(ArtifactStore.open(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(uri: str, seconds: float = 60) -> subprocess.Popen[str]:
    """Start a process that holds the run's lock, and return once it has acquired it."""
    line = [sys.executable, "-c", HOLDER, uri, str(seconds)]
    process = subprocess.Popen(line, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    run = ArtifactStore.open(str(tmp_path))
    with holder(str(tmp_path)) as first:
        refusal = rf"^{tmp_path} is being written by another process \(.+\): wait for it, or choose another run_id$"
        for _ in range(2):  # a refused attempt does not release it
            with pytest.raises(RunError, match=refusal), locked(run):
                pass
        first.kill()
    with locked(run):
        pass


def test_a_directory_that_goes_under_the_lock_is_noticed_though_it_is_made_again(tmp_path: Path) -> None:
    run = ArtifactStore.open(str(tmp_path / "run=one"))
    run.create()
    with locked(run) as require_held:
        require_held()
        (tmp_path / "run=one").rename(tmp_path / "away")
        for _ in range(2):
            with pytest.raises(RunError, match=r"run=one was moved, removed or replaced while the run was writing"):
                require_held()
            run.write_text("prompts/_stage.json", "{}")
            run.write_text(".lock", "another")


def test_the_lock_is_free_after_an_error_and_for_another_run(tmp_path: Path) -> None:
    one, two = ArtifactStore.open(str(tmp_path / "one")), ArtifactStore.open(str(tmp_path / "two"))
    one.create()
    two.create()
    with pytest.raises(ValueError, match="inside"), locked(one), locked(two):
        raise ValueError("inside")
    with locked(one), locked(two):
        pass


def test_a_process_started_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    """Ray's daemons outlive a killed driver by a moment or more."""
    run = ArtifactStore.open(str(tmp_path))
    with locked(run):
        child = subprocess.Popen(["sleep", "60"])
    try:
        with locked(run):
            pass
    finally:
        child.kill()
        child.wait()


def test_looking_at_the_lock_neither_takes_it_nor_refuses_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ArtifactStore.open(str(tmp_path))
    assert not lock.is_held(run)
    with locked(run):
        assert lock.is_held(run)
    assert not lock.is_held(run)
    looks = os.open(tmp_path / ".lock", os.O_RDONLY)  # as `is_held` of another process, at the same instant
    fcntl.flock(looks, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(looks))
    with locked(run):
        assert lock.is_held(run)


@pytest.mark.parametrize("kind", ["FIFO", "link"])
def test_what_is_no_lock_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    if kind == "FIFO":
        os.mkfifo(tmp_path / ".lock")
    else:
        (tmp_path / ".lock").symlink_to("/dev/zero")
    assert lock.is_held(ArtifactStore.open(str(tmp_path))) == (kind == "link")


@pytest.fixture(scope="module")
def s3(s3_query: str) -> str:
    """Return the URI of an S3 directory for runs on loopback, with `{}` for the run."""
    return "s3://runs/{}?" + s3_query


def test_in_object_storage_a_second_process_is_refused_until_the_first_ends(s3: str) -> None:
    uri = s3.format("run=one")
    run = ArtifactStore.open(uri)
    with holder(uri, 2) as first, pytest.raises(RunError, match=rf"process {first.pid} on"), locked(run):
        pass
    with locked(run):
        assert run.exists(REMOTE_FILE)
    assert not run.exists(REMOTE_FILE)


def test_in_object_storage_the_stale_lock_of_a_killed_process_is_taken_over(s3: str) -> None:
    uri = s3.format("run=two")
    run = ArtifactStore.open(uri)
    with holder(uri) as first:
        first.kill()
    left = json.loads(run.read_text(REMOTE_FILE))
    with pytest.raises(RunError, match="is being written by another process"), locked(run):
        pass
    run.write_text(REMOTE_FILE, json.dumps({**left, "at": time.time() - STALE_S - 1}))
    with locked(run):
        assert json.loads(run.read_text(REMOTE_FILE))["token"] != left["token"]


def test_in_object_storage_the_holder_sends_heartbeats(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.2)
    run = ArtifactStore.open(s3.format("run=three"))
    with locked(run):
        first = json.loads(run.read_text(REMOTE_FILE))
        time.sleep(1)
        later = json.loads(run.read_text(REMOTE_FILE))
    assert later["at"] > first["at"]
    assert (later["token"], later["owner"]) == (first["token"], first["owner"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": "x"}'])
def test_in_object_storage_a_damaged_lock_is_an_error_of_one_line(s3: str, text: str) -> None:
    run = ArtifactStore.open(s3.format("run=four"))
    run.write_text(REMOTE_FILE, text)
    with pytest.raises(RunError, match="lock"), locked(run):
        pass


def test_in_object_storage_a_run_stops_when_its_lock_is_taken_over(s3: str) -> None:
    uri = s3.format("run=five")
    run = ArtifactStore.open(uri)
    script = HOLDER.replace("with locked", "import pipeline.runs.lock\npipeline.runs.lock.BEAT_S = 0.2\nwith locked")
    line = [sys.executable, "-c", script, uri, "60"]
    with subprocess.Popen(line, cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        record = {"owner": "another", "token": "another", "at": time.time()}
        run.write_text(REMOTE_FILE, json.dumps(record))
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert json.loads(run.read_text(REMOTE_FILE)) == record


@pytest.mark.parametrize("planted", [".lock", "logs", "journal", "run itself"])
def test_a_link_in_a_runs_place_is_refused_and_not_followed(tmp_path: Path, planted: str) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run=1"
    victim.mkdir()
    (victim / "file").write_text("mine")
    if planted == "run itself":
        run.symlink_to(victim)
    else:
        run.mkdir()
        (run / planted).symlink_to(victim / "file" if planted == ".lock" else victim)
    refused = pytest.raises(RunError, match="is a symbolic link, and what is written would go elsewhere: choose")
    with refused, locked(ArtifactStore.open(str(tmp_path)).child("run=1")):
        pass
    assert [(each.name, each.read_text()) for each in victim.iterdir()] == [("file", "mine")]


@pytest.mark.parametrize("plant", [os.mkfifo, lambda lock: os.link(lock.parent / "mine", lock)])
def test_a_lock_that_is_no_file_of_its_own_is_refused(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    (tmp_path / "mine").write_text("mine")
    plant(tmp_path / ".lock")
    with pytest.raises(RunError, match="it is no regular file"), locked(ArtifactStore.open(str(tmp_path))):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")
def test_a_run_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(RunError, match="belongs to another user"), locked(ArtifactStore.open(str(tmp_path))):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", ["1e999", pytest.param("99999999999", marks=pytest.mark.slow)])
def test_a_lock_with_a_time_in_the_future_counts_while_it_is_rewritten(
    s3_query: str, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 1.0)
    run = ArtifactStore.open(f"s3://runs/future-{at}?{s3_query}")
    run.write_text(REMOTE_FILE, f'{{"owner": "another", "token": "another", "at": {at}}}')
    with locked(run):
        assert json.loads(run.read_text(REMOTE_FILE))["token"] != "another"
    run.write_text(REMOTE_FILE, f'{{"owner": "another", "token": "0", "at": {at}}}')
    rewriting = threading.Timer(
        0.3, run.write_text, (REMOTE_FILE, '{"owner": "another", "token": "1", "at": 99999999999}')
    )
    monkeypatch.setattr(lock, "BEAT_S", 30.0)
    rewriting.start()
    with pytest.raises(RunError, match=r"\(another, by s3://runs/.*/lock\.json\)"), locked(run):
        pass
    rewriting.join()
