"""SIGINT and SIGTERM to the whole command: an orderly end, nothing left behind, and the same command goes on."""

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
"""Longest that this machine takes from the last row under way to the process's end."""


def interrupted(job: Started, number: signal.Signals, within_s: float) -> str:
    """Send the signal; the job ends in time, with one line, and leaves no process. Return the line."""
    job.process.send_signal(number)
    code, _, err = job.end(within_s)
    assert (code, err.count("\n"), job.survivors()) == (130, 1, []), err
    assert "goes on where it stopped" in err
    return err


def sample_keys(run: Path) -> list[tuple[Any, ...]]:
    table = pads.dataset(run / "samples", format="parquet", partitioning="hive", exclude_invalid_files=True)
    rows = table.to_table(columns=["task", "split", "id", "repeat"]).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def goes_on(run: Path, num_rows: int, *words: str) -> None:
    """Run the same command again; it completes with every id once."""
    code, _, err = Started({}, *words).end(90)
    assert code == 0, err
    assert json.loads((run / "manifest.json").read_text())["status"] == "complete"
    keys = sample_keys(run)
    assert len(keys) == len(set(keys)) == num_rows
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_rows_under_way_land_and_nothing_is_asked_twice(tmp_path: Path, number: signal.Signals) -> None:
    run, asked = tmp_path / "run=one", tmp_path / "asked"
    words = (*SMALL, f"output_dir={tmp_path}", "run.grace_s=30")
    job = Started({"seconds": 1.5, "asked": str(asked)}, *words)
    wait_until(lambda: any(path.stat().st_size for path in run.glob("journal/*.jsonl")))
    interrupted(job, number, 1.5 + END_S)
    begun = asked.read_text().splitlines()
    assert 8 <= len(begun) < NUM_ROWS
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "interrupted" in manifest["reason"]
    assert not (run / "samples").exists()
    code, out, err = Started({"asked": str(asked)}, *words).end(90)
    assert code == 0, err
    assert f"{len(begun)} of {NUM_ROWS} rows are there already" in out
    assert len(set(asked.read_text().splitlines())) == len(asked.read_text().splitlines()) == NUM_ROWS
    assert len(set(sample_keys(run))) == len(sample_keys(run)) == NUM_ROWS


@pytest.mark.slow
def test_the_grace_ends_what_does_not_land(tmp_path: Path) -> None:
    asked, words = tmp_path / "asked", (*SMALL, f"output_dir={tmp_path}", "run.grace_s=2")
    job = Started({"seconds": 300, "asked": str(asked)}, *words)
    wait_until(asked.exists)
    interrupted(job, signal.SIGTERM, 2 + END_S)
    goes_on(tmp_path / "run=one", NUM_ROWS, *words)


@pytest.mark.slow
def test_a_second_signal_does_not_wait_and_a_second_run_is_refused_meanwhile(tmp_path: Path) -> None:
    asked, words = tmp_path / "asked", (*SMALL, f"output_dir={tmp_path}", "run.grace_s=300")
    job = Started({"seconds": 300, "asked": str(asked)}, *words)
    wait_until(asked.exists)
    code, _, err = Started({}, *words).end(30)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"is being written by another process (process {job.process.pid} on " in err
    job.process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert job.process.poll() is None
    interrupted(job, signal.SIGINT, END_S)


def test_a_signal_while_ray_starts_is_an_interruption_too(tmp_path: Path) -> None:
    words = (*SMALL, f"output_dir={tmp_path}")
    job = Started({}, *words)
    wait_until((tmp_path / "run=one/prompts/_stage.json").exists)
    interrupted(job, signal.SIGTERM, END_S)


def test_no_late_call_of_a_thread_starts_ray_again() -> None:
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
    """Make a task so large that preparing and scoring take a while; return the words that run it alone."""
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
def test_a_signal_in_prepare_or_score_leaves_no_half_stage(tmp_path: Path, many: str, number: signal.Signals) -> None:
    words = ("run_id=one", f"output_dir={tmp_path}", *(f"tasks.{name}.dataset={many}" for name in TASKS))
    run = tmp_path / "run=one"
    job = Started({}, *words)
    wait_until(lambda: list(run.glob(".prompts-*/*/*/*.parquet")))
    interrupted(job, number, END_S)
    assert not (run / "prompts").exists()

    store, config = run_directory.place(settings(*words))
    prepare(config, store)
    answer_all(store)
    job = Started({}, *words)
    wait_until(lambda: list(run.glob(".samples-*")))
    interrupted(job, number, END_S)
    assert not (run / "samples").exists()
    goes_on(run, 2 * MANY_ROWS * len(TASKS), *words)


def answer_all(run: ArtifactStore) -> None:
    """Publish the completions stage without an engine."""
    prompts = run.artifact("prompts", PROMPT_SCHEMA)
    assert prompts is not None
    keys = prompts.dataset().to_table(columns=["task", "split", "id", "prompt_sha256"]).to_pylist()
    said = {"repeat": 0, "completion": "A", "content": "A", "finish_reason": "stop", "attempts": 1}
    with run.publish("completions", COMPLETION_SCHEMA) as store:
        for task in TASKS:
            for split in ("train", "test"):
                rows = [{**key, **said} for key in keys if (key["task"], key["split"]) == (task, split)]
                table = pa.Table.from_pylist(rows, schema=COMPLETION_SCHEMA)
                store.write_parts(f"task={task}/split={split}", COMPLETION_SCHEMA, [table], 200_000)
