"""Logs of a run in object storage: copied when they have grown, whole after a resume, and gone from the machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from pipeline.runs import logs
from pipeline.runs.logs import LogFile
from pipeline.storage.artifacts import ArtifactStore


@pytest.fixture
def stored(tmp_path: Path, s3_query: str, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """The logs/ of a run in object storage; temporary files are in `tmp_path`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = ArtifactStore.open(f"s3://runs/{tmp_path.name}/logs?{s3_query}")
    store.create()
    return store


def append(log: LogFile, text: str) -> None:
    with log.path.open("a") as file:
        file.write(text)


def test_a_log_is_copied_and_its_private_file_removed_at_the_end(stored: ArtifactStore, tmp_path: Path) -> None:
    log = LogFile(stored, "driver.log", "pipeline-1")
    assert log.path.parent == tmp_path / "pipeline-1"
    assert log.name == f"s3://runs/{tmp_path.name}/logs/driver.log"
    append(log, "one\n")
    log.copy()
    assert stored.read_text("driver.log") == "one\n"
    append(log, "two\n")
    log.close()
    assert stored.read_text("driver.log") == "one\ntwo\n"
    assert list(tmp_path.iterdir()) == []


def test_a_log_is_copied_by_itself_when_it_has_grown(stored: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders import wait_until

    monkeypatch.setattr(logs, "COPY_S", 0.05)
    log = LogFile(stored, "driver.log", "pipeline-1")
    append(log, "one\n")
    wait_until(lambda: stored.exists("driver.log") and stored.read_text("driver.log") == "one\n")
    log.close()


def test_a_resumed_run_keeps_the_log_of_its_earlier_sessions(stored: ArtifactStore) -> None:
    stored.write_text("driver.log", "first session\n")
    log = LogFile(stored, "driver.log", "pipeline-2")
    append(log, "second\n")
    log.close()
    assert stored.read_text("driver.log") == "first session\nsecond\n"


def test_of_a_very_long_log_the_end_is_copied(stored: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LONGEST_COPY", 6)
    log = LogFile(stored, "driver.log", "pipeline-1")
    append(log, "0123456789")
    log.close()
    assert stored.read_text("driver.log") == "(4 bytes before this are left out)\n456789"


def test_on_a_disk_the_log_is_the_runs_own_file_and_a_link_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore.open(str(tmp_path / "logs"))
    log = LogFile(store, "driver.log", "unused")
    append(log, "one\n")
    log.copy()
    log.close()
    assert (tmp_path / "logs" / "driver.log").read_text() == "one\n"
    (tmp_path / "logs" / "other.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        LogFile(store, "other.log", "unused")
