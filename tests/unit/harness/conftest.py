"""Logs that lm-evaluation-harness 0.4.9 wrote for 16 of the demo's questions, and these questions as a data set.

tests/parity/harness.py makes such logs. A test may change them before it replays them.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import settings

from pipeline.config import loading
from pipeline.errors import PipelineError
from pipeline.records import SAMPLE_SCHEMA
from pipeline.replay import main
from pipeline.storage.artifacts import ArtifactStore

TASKS = ("agro_bench", "aqua_bench", "med_bench")


@dataclass
class Replay:
    """A directory of logs and of the data set that they come from; calling it replays the logs."""

    root: Path
    error: PipelineError | None = None

    @property
    def logs(self):
        return self.root / "logs"

    def log(self, task):
        (path,) = self.logs.glob(f"samples_{task}_*.jsonl")
        return path

    def data(self, task):
        return self.root / "data" / task / "test.jsonl"

    def lines(self, task):
        return [json.loads(line) for line in self.log(task).read_text(encoding="utf-8").splitlines()]

    def write(self, task, lines):
        self.log(task).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")

    def change(self, task, row_id, change):
        """Apply `change` to the line of one question in a log."""
        lines = self.lines(task)
        (line,) = [line for line in lines if line["doc"]["meta"]["id"] == row_id]
        change(line)
        self.write(task, lines)

    def change_data(self, task, row_id, change):
        """Apply `change` to one row of our data set."""
        rows = [json.loads(line) for line in self.data(task).read_text(encoding="utf-8").splitlines()]
        (row,) = [row for row in rows if row["meta"]["id"] == row_id]
        change(row)
        write_rows(self.data(task), rows)

    def __call__(self, *arguments, logs=None):
        """Replay the logs; return the differences as (task, id, field, theirs, ours)."""
        own = [f"logs={logs or self.logs}", "conf=demo", f"out={self.root / 'out'}", "splits=[test]"]
        own += [f"tasks.{task}.dataset={self.data(task)}" for task in TASKS]
        try:
            main([*own, *arguments])
            self.error = None
        except PipelineError as error:
            self.error = error
        return [tuple(row.values()) for row in self.rows("differences")]

    def rows(self, name):
        """Return the rows that the last replay wrote; none if it failed."""
        path = self.root / "out" / f"{name}.parquet"
        return pq.read_table(path).to_pylist() if path.exists() else []


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def replay(tmp_path, at_root):
    found = Replay(tmp_path)
    shutil.copytree(Path(__file__).parent / "logs", found.logs)
    for task in TASKS:
        ids = {line["doc"]["meta"]["id"] for line in found.lines(task)}
        files = sorted((at_root / "data" / "demo" / task).glob("*.jsonl"))
        rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        write_rows(found.data(task), [row for row in rows if row["meta"]["id"] in ids])
    return found


@pytest.fixture
def run_of(tmp_path):
    """Return a function that makes a run whose samples of a task have these responses by id."""

    def make(task, responses):
        run = ArtifactStore.open(str(tmp_path / "run=ours"))
        run.create()
        run.write_text("config.yaml", loading.dump(settings()))
        same = {"repeat": 0, "categories": [], "messages": "[]", "prompt_sha256": "", "attempts": 1}
        same |= {"finish_reason": "stop"}
        rows = [same | {"id": row_id, "response": response} for row_id, response in responses.items()]
        with run.publish("samples", SAMPLE_SCHEMA) as store:
            table = pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA)
            store.write_parquet(f"task={task}/split=test/part-00000.parquet", SAMPLE_SCHEMA, [table])
        return run

    return make
