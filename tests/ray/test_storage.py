"""Storage of runs: the same guarantees on a disk and in object storage, and damaged, full and read-only disks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from builders import Started, completions, settings, wait_until
from scripted import ScriptedFactory

from pipeline.config.schema import Config
from pipeline.errors import DataError, EndpointError, PipelineError, RunError
from pipeline.generate.cluster import cluster
from pipeline.generate.engines.base import Engine, Output, Request
from pipeline.orchestrator import execute
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

NUM_ROWS = 5 * 2 * 3


@pytest.fixture(scope="module")
def s3(s3_query: str) -> str:
    """Serve S3 on loopback; return the query of a URI that selects this server."""
    return s3_query


@pytest.fixture(scope="module", autouse=True)
def _ray(s3: str) -> Iterator[None]:  # noqa: ARG001
    """Share one local Ray among the tests of this file; its workers inherit the keys of the object storage."""
    with cluster(settings()):
        yield


@pytest.fixture(params=["disk", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> str:
    return str(tmp_path) if request.param == "disk" else f"s3://runs/{tmp_path.name}?{s3}"


def configured(output: str | Path, *overrides: str) -> Config:
    few = ("run_id=one", "limit=5", "engine.endpoint.concurrency=4", "run.flush_s=0.2")
    return settings(f"output_dir={output}", *few, *overrides)


class Stopping:
    """Makes engines that answer some rows with A and then raise an error that the user can fix."""

    def __init__(self, num_answers: int) -> None:
        self._num_answers = num_answers

    def __call__(self) -> Engine:
        from scripted import ScriptedEngine

        num_left = self._num_answers

        class StoppingEngine(ScriptedEngine):
            async def generate(self, request: Request) -> Output:
                nonlocal num_left
                output = await super().generate(request)
                num_left -= 1
                if num_left < 0:
                    raise EndpointError("the server is gone")
                return output

        return StoppingEngine(ScriptedFactory(seconds=0.3))


def status(run: ArtifactStore) -> str:
    return str(json.loads(run.read_text("manifest.json"))["status"])


def test_a_failed_run_resumes_and_completes_on_a_disk_and_in_object_storage(output: str) -> None:
    run = ArtifactStore.open(output).child("run=one")
    with pytest.raises(EndpointError, match="the server is gone"):
        execute(configured(output), Stopping(9))
    assert status(run) == "failed"
    assert run.files("samples") == run.files("completions") == []
    assert run.files("journal")
    assert [event["event"] for event in events(run)] == ["begin", "engine_starting", "replica_ready", "end"]

    assert execute(configured(output), ScriptedFactory(answer="B")) == run
    assert status(run) == "complete"
    answers = [row["completion"] for row in completions(run)]
    assert (len(answers), answers.count("A")) == (NUM_ROWS, 9)
    samples = pads.dataset(
        [run.path(name) for name in run.files("samples", suffix=".parquet")],
        filesystem=run.fs,
        format="parquet",
        partitioning="hive",
    ).to_table(columns=["task", "split", "id", "repeat"])
    assert samples.num_rows == samples.group_by(samples.column_names).aggregate([]).num_rows == NUM_ROWS
    assert pq.read_table(run.path("metrics.parquet"), filesystem=run.fs).num_rows > 0
    names = {name.partition("/")[0] for name in run.files()}
    assert names - {"logs", ".lock"} == {
        "config.yaml", "manifest.json", "prompts", "completions", "samples", "metrics.parquet",
        "card.md", "card.json", "report.html",
    }  # fmt: skip
    check_logs(run)
    before = {name: run.fs.get_file_info(run.path(name)).mtime for name in run.files()}
    execute(configured(output), ScriptedFactory())  # prints its summary again
    assert {name: run.fs.get_file_info(run.path(name)).mtime for name in run.files()} == before


def events(run: ArtifactStore) -> list[dict[str, Any]]:
    """Return the events of a run but those of progress."""
    found = [json.loads(line) for line in run.read_text("logs/events.jsonl").splitlines()]
    return [event for event in found if event["event"] != "progress"]


def check_logs(run: ArtifactStore) -> None:
    """Check the logs of a run that failed and was resumed, and that no copy of them is left on this machine."""
    assert {event["run_id"] for event in events(run)} == {"one"}
    failed, resumed, complete = events(run)[3], events(run)[4], events(run)[-1]
    assert (failed["status"], failed["reason"]) == ("failed", "EndpointError: the server is gone")
    assert (resumed["event"], resumed["resumed"]) == ("begin", True)
    assert (complete["event"], complete["status"]) == ("end", "complete")
    assert complete["counts"]["num_samples"] == NUM_ROWS
    replicas = {f"{event['replica']}.log" for event in events(run) if event["event"] == "replica_ready"}
    names = {name.removeprefix("logs/") for name in run.files("logs")}
    assert names == {"driver.log", "events.jsonl", *replicas}
    assert len(replicas) == 2
    sessions = {info["session"] for info in json.loads(run.read_text("manifest.json"))["engine"].values()}
    assert not [each for each in sessions if Path(tempfile.gettempdir(), f"pipeline-{each}").exists()]


def test_a_run_in_object_storage_that_is_killed_leaves_its_events_there(tmp_path: Path, s3: str) -> None:
    run = ArtifactStore.open(f"s3://runs/{tmp_path.name}?{s3}").child("run=one")
    job = Started({"seconds": 60}, f"output_dir=s3://runs/{tmp_path.name}?{s3}", "run_id=one", "limit=1")
    try:
        wait_until(lambda: run.exists("logs/events.jsonl") and len(events(run)) >= 3, within_s=120)
    finally:
        job.kill()
    assert [event["event"] for event in events(run)] == ["begin", "engine_starting", "replica_ready"]
    assert events(run)[0]["run"] == f"s3://runs/{tmp_path.name}/run=one"


def test_a_missing_bucket_is_a_one_line_error(s3: str) -> None:
    with pytest.raises(PipelineError, match="no-such-bucket"):
        execute(configured(f"s3://no-such-bucket/x?{s3}"), ScriptedFactory())


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory, _ray: None) -> Path:
    """Make a failed run with prompts and nine rows in its journal; return its output directory."""
    output = tmp_path_factory.mktemp("stopped")
    with pytest.raises(EndpointError):
        execute(configured(output), Stopping(9))
    return output


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> ArtifactStore:
    """Return a copy of the failed run."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)
    return ArtifactStore.open(str(tmp_path / "run=one"))


def cut(run: ArtifactStore, name: str, num_bytes: int) -> None:
    os.truncate(run.path(name), Path(run.path(name)).stat().st_size - num_bytes)


def test_a_truncated_manifest_is_rejected(stopped: ArtifactStore, tmp_path: Path) -> None:
    cut(stopped, "manifest.json", len(stopped.read_text("manifest.json")) // 2)
    with pytest.raises(DataError, match=r"manifest\.json is damaged: delete it to resume the run"):
        execute(configured(tmp_path), ScriptedFactory())


def test_a_truncated_config_is_rejected(stopped: ArtifactStore, tmp_path: Path) -> None:
    cut(stopped, "config.yaml", len(stopped.read_text("config.yaml")) // 2)
    with pytest.raises(PipelineError, match=r"config\.yaml|was begun with"):
        execute(configured(tmp_path), ScriptedFactory())


@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_a_missing_or_truncated_file_of_the_prompts_is_rejected(
    stopped: ArtifactStore, tmp_path: Path, damage: str
) -> None:
    name = stopped.files("prompts", suffix=".parquet")[0]
    if damage == "deleted":
        stopped.remove(name)
    else:
        cut(stopped, name, 100)
    refusal = rf"{stopped.path(name)} is missing or damaged: delete {stopped.path('prompts')} and run again"
    with pytest.raises(DataError, match=refusal):
        execute(configured(tmp_path), ScriptedFactory())


@pytest.mark.slow
def test_the_advice_of_the_errors_fixes_the_run_and_a_truncated_journal_loses_only_its_missing_lines(
    stopped: ArtifactStore, tmp_path: Path
) -> None:
    (journal,) = (name for name in stopped.files("journal", suffix=".jsonl"))
    cut(stopped, journal, 10)
    stopped.remove("manifest.json")
    stopped.remove("prompts")
    execute(configured(tmp_path), ScriptedFactory(answer="B"))
    answers = [row["completion"] for row in completions(stopped)]
    assert (len(answers), answers.count("A"), status(stopped)) == (NUM_ROWS, 8, "complete")

    stopped.remove("manifest.json")  # a complete run is not read
    name = stopped.files("completions", suffix=".parquet")[0]
    cut(stopped, name, 10)
    with pytest.raises(DataError, match=rf"{stopped.path(name)} is missing or damaged: delete"):
        execute(configured(tmp_path), ScriptedFactory())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MiB; yield its directory."""
    directory = tmp_path / "disk"
    directory.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_a_one_line_error_and_the_run_resumes_once_there_is_space(small_disk: Path) -> None:
    run = ArtifactStore.open(str(small_disk / "run=one"))
    with pytest.raises(RunError, match=r"cannot be written: No space left on device\. Free some space"):
        execute(configured(small_disk), ScriptedFactory(answer="A" * 200_000, seconds=0.05))
    assert run.files("samples") == run.files("completions") == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    execute(configured(small_disk), ScriptedFactory(answer="B"))
    answers = [row["completion"][:1] for row in completions(run)]
    assert len(answers) == NUM_ROWS
    assert 0 < answers.count("A") < NUM_ROWS
    assert status(run) == "complete"


@pytest.mark.slow
def test_a_directory_that_becomes_read_only_is_a_one_line_error_and_the_run_resumes_later(
    small_disk: Path, tmp_path: Path
) -> None:
    """Root ignores permissions but not a read-only mount. Open files stay writable, unlike those of a failing disk."""
    run, requests = ArtifactStore.open(str(small_disk / "run=one")), tmp_path / "requests"
    make_read_only = f"mount --bind {small_disk} {small_disk} && mount -o remount,bind,ro {small_disk}"
    watch = f"while ! [ -s {requests} ]; do sleep 0.05; done; sleep 1; {make_read_only}"
    script = ScriptedFactory(seconds=0.4, requests=str(requests))
    with (
        subprocess.Popen(["sh", "-c", watch]),
        pytest.raises(RunError, match=r"cannot be written: .*Read-only file sys"),
    ):
        execute(configured(small_disk), script)
    subprocess.run(["umount", str(small_disk)], check=True)
    execute(configured(small_disk), ScriptedFactory(answer="B"))
    answers = [row["completion"] for row in completions(run)]
    assert (len(answers), status(run)) == (NUM_ROWS, "complete")
    assert answers.count("A") > 0
