"""SIGINT and SIGTERM to the whole command: a clean exit, no process left, and the same command resumes the run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from builders import ROOT, Started, settings, wait_until

from pipeline.prepare.stage import prepare
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA
from pipeline.runs import directory as run_directory
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

SMALL = ("run_id=one", "limit=6", "engine.endpoint.concurrency=8")
TASKS = ("agro_bench", "aqua_bench", "med_bench")
NUM_ROWS = 6 * 2 * len(TASKS)
MANY_ROWS = 10_000
END_S = 15.0
"""Maximum seconds from the last row in flight to the end of the process."""


def interrupt(job: Started, number: signal.Signals, within_s: float) -> str:
    """Send the signal and check that the job ends in time, with one line, and leaves no process. Return the line."""
    job.process.send_signal(number)
    code, _, err = job.end(within_s)
    assert (code, err.count("\n"), job.survivors()) == (130, 1, []), err
    assert "resumes where it stopped" in err
    return err


def sample_keys(run: Path) -> list[tuple[Any, ...]]:
    table = pads.dataset(run / "samples", format="parquet", partitioning="hive", exclude_invalid_files=True)
    rows = table.to_table(columns=["task", "split", "id", "repeat"]).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def resume(run: Path, num_rows: int, *overrides: str) -> None:
    """Repeat the command, and check that it completes with every id once."""
    code, _, err = Started({}, *overrides).end(90)
    assert code == 0, err
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"
    keys = sample_keys(run)
    assert len(keys) == len(set(keys)) == num_rows
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_rows_in_flight_complete_and_none_is_requested_twice(tmp_path: Path, number: signal.Signals) -> None:
    run, requests = tmp_path / "run=one", tmp_path / "requests"
    overrides = (*SMALL, f"output_dir={tmp_path}", "run.grace_s=30")
    job = Started({"seconds": 1.5, "requests": str(requests)}, *overrides)
    wait_until(lambda: any(path.stat().st_size for path in run.glob("journal/*.jsonl")))
    interrupt(job, number, 1.5 + END_S)
    begun = requests.read_text().splitlines()
    assert 8 <= len(begun) < NUM_ROWS
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "interrupted" in manifest["reason"]
    assert not (run / "samples").exists()
    events = [json.loads(line) for line in (run / "logs/events.jsonl").read_text().splitlines()]
    assert [each["event"] for each in events if each["event"] != "progress"] == [
        "begin", "engine_starting", "replica_ready", "stop", "end",
    ]  # fmt: skip
    assert events[-1]["status"] == "interrupted"
    code, out, err = Started({"requests": str(requests)}, *overrides).end(90)
    assert code == 0, err
    assert f"{len(begun)} of {NUM_ROWS} rows are there already" in out
    assert len(set(requests.read_text().splitlines())) == len(requests.read_text().splitlines()) == NUM_ROWS
    assert len(set(sample_keys(run))) == len(sample_keys(run)) == NUM_ROWS


@pytest.mark.slow
def test_rows_in_flight_are_cancelled_after_the_grace_period(tmp_path: Path) -> None:
    requests, overrides = tmp_path / "requests", (*SMALL, f"output_dir={tmp_path}", "run.grace_s=2")
    job = Started({"seconds": 300, "requests": str(requests)}, *overrides)
    wait_until(requests.exists)
    interrupt(job, signal.SIGTERM, 2 + END_S)
    resume(tmp_path / "run=one", NUM_ROWS, *overrides)


@pytest.mark.slow
def test_a_second_signal_does_not_wait_and_a_concurrent_run_is_rejected(tmp_path: Path) -> None:
    requests, overrides = tmp_path / "requests", (*SMALL, f"output_dir={tmp_path}", "run.grace_s=300")
    job = Started({"seconds": 300, "requests": str(requests)}, *overrides)
    wait_until(requests.exists)
    code, _, err = Started({}, *overrides).end(30)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"is being written by another process (process {job.process.pid} on " in err
    job.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert job.process.poll() is None
    interrupt(job, signal.SIGINT, END_S)


def test_a_signal_while_ray_starts_interrupts_the_run(tmp_path: Path) -> None:
    overrides = (*SMALL, f"output_dir={tmp_path}")
    job = Started({}, *overrides)
    wait_until((tmp_path / "run=one/prompts/_stage.json").exists)
    interrupt(job, signal.SIGTERM, END_S)


def test_no_late_call_of_a_thread_restarts_ray() -> None:
    code = (
        "import threading\n"
        "from pipeline.config.loading import compose\nfrom pipeline.generate.cluster import cluster\n"
        "with cluster(compose(['conf=demo'])):\n"
        "    import ray\n"
        "    assert ray.nodes()\n"
        "refused = []\n"
        "def late():\n"
        "    for call in (ray.nodes, ray.available_resources, lambda: ray.put(1), ray.remote(int).remote):\n"
        "        try:\n"
        "            call()\n"
        "        except Exception as error:\n"
        "            refused.append(type(error).__name__)\n"
        "thread = threading.Thread(target=late)\n"
        "thread.start(), thread.join()\n"
        "assert len(refused) == 4, refused\n"
        "assert not ray.is_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Started a local Ray instance" not in done.stderr


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a data set so large that preparing and scoring it take a while."""
    store = tmp_path_factory.mktemp("many")
    row = json.loads(Path(ROOT, "data/demo/agro_bench/train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    for first, split in ((0, "train"), (MANY_ROWS, "test")):
        with (store / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(first, first + MANY_ROWS):
                row["meta"]["id"] = number
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return str(store)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_prepare_or_score_leaves_no_partial_artifact(
    tmp_path: Path, many: str, number: signal.Signals
) -> None:
    overrides = ("run_id=one", f"output_dir={tmp_path}", *(f"tasks.{name}.dataset={many}" for name in TASKS))
    run = tmp_path / "run=one"
    job = Started({}, *overrides)
    wait_until(lambda: list(run.glob(".prompts-*/*/*/*.parquet")))
    interrupt(job, number, END_S)
    assert not (run / "prompts").exists()

    store, config = run_directory.place(settings(*overrides))
    prepare(config, store)
    answer_all(store)
    job = Started({}, *overrides)
    wait_until(lambda: list(run.glob(".samples-*")))
    interrupt(job, number, END_S)
    assert not (run / "samples").exists()
    resume(run, 2 * MANY_ROWS * len(TASKS), *overrides)


def answer_all(run: ArtifactStore) -> None:
    """Publish the completions artifact without an engine."""
    prompts = run.artifact("prompts", PROMPT_SCHEMA)
    assert prompts is not None
    keys = prompts.dataset().to_table(columns=["task", "split", "id", "prompt_sha256"]).to_pylist()
    answer = {"repeat": 0, "completion": "A", "content": "A", "finish_reason": "stop", "attempts": 1}
    with run.publish("completions", COMPLETION_SCHEMA) as store:
        for task in TASKS:
            for split in ("train", "test"):
                rows = [{**key, **answer} for key in keys if (key["task"], key["split"]) == (task, split)]
                table = pa.Table.from_pylist(rows, schema=COMPLETION_SCHEMA)
                store.write_parts(f"task={task}/split={split}", COMPLETION_SCHEMA, [table], 200_000)
