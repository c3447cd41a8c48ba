"""logs/events.jsonl: a line for each event as it happens, also of a run that is killed and in object storage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.runs.events import LONGEST_TEXT, EventLog
from pipeline.storage.artifacts import ArtifactStore


@pytest.fixture(params=["disk", "s3"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """The logs/ of a run."""
    if request.param == "disk":
        store = ArtifactStore.open(str(tmp_path / "logs"))
    else:
        store = ArtifactStore.open(f"s3://runs/{tmp_path.name}/logs?{request.getfixturevalue('s3_query')}")
    store.create()
    return store


def events(logs: ArtifactStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logs.read_text("events.jsonl").splitlines()]


def test_each_event_is_a_line_with_time_and_run_and_a_resumed_run_appends(logs: ArtifactStore) -> None:
    EventLog(logs, "one").write("begin", resumed=False, eta_s=None)
    EventLog(logs, "one").write("begin", resumed=True)
    first, second = events(logs)
    time = first.pop("time")
    assert time.endswith("Z")
    assert datetime.fromisoformat(time) <= datetime.fromisoformat(second["time"])
    assert first == {"run_id": "one", "event": "begin", "resumed": False, "eta_s": None}
    assert second["resumed"] is True


def test_foreign_text_is_cut_and_escaped(logs: ArtifactStore) -> None:
    EventLog(logs, "one").write("gave_up", reason="\x1b[2J\n\ud800" + "x" * 9_999, phases=["y" * 9_999])
    assert logs.read_text("events.jsonl").isprintable() is False  # the line break alone
    assert logs.read_text("events.jsonl").rstrip("\n").isprintable()
    (event,) = events(logs)
    assert len(event["reason"]) == len(event["phases"][0]) == LONGEST_TEXT


KILLED = """
import os, signal, sys
from pipeline.runs.events import EventLog
from pipeline.storage.artifacts import ArtifactStore
events = EventLog(ArtifactStore.open(sys.argv[1]), "one")
events.write("begin")
events.write("progress", num_done=3)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_what_happened_until_then(tmp_path: Path) -> None:
    logs = ArtifactStore.open(str(tmp_path))
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [event["event"] for event in events(logs)] == ["begin", "progress"]


def test_a_line_that_a_full_disk_has_cut_off_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "begin"}\n{"event": "pro')
    EventLog(ArtifactStore.open(str(tmp_path)), "one").write("begin")
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"event": "begin"}', '{"event": "pro']
    assert json.loads(lines[2])["event"] == "begin"


def test_an_event_that_cannot_be_written_is_written_with_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog(ArtifactStore.open(str(tmp_path / "logs")), "one")
    log.write("begin")  # there is no directory
    assert "An event cannot be written" in caplog.text
    (tmp_path / "logs").mkdir()
    log.write("end")
    assert [event["event"] for event in events(ArtifactStore.open(str(tmp_path / "logs")))] == ["begin", "end"]


def test_a_link_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.jsonl").symlink_to(tmp_path / "elsewhere")
    EventLog(ArtifactStore.open(str(tmp_path / "logs")), "one").write("begin")
    assert os.strerror(40) in caplog.text
    assert not (tmp_path / "elsewhere").exists()
