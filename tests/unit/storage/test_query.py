"""A run's Parquet files are read in order, with bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore

GROUPS, GROUP_ROWS, TEXT_BYTES = 24, 256, 4_096
SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("text", pa.binary())])


def artifact_of(place: Path) -> Artifact:
    """Return an artifact of two files, each of many row groups with incompressible texts."""
    run, rng = ArtifactStore.open(str(place)), np.random.default_rng(1)

    def groups(task: int) -> list[pa.RecordBatch]:
        first = task * GROUPS * GROUP_ROWS
        starts = range(first, first + GROUPS * GROUP_ROWS, GROUP_ROWS)
        return [
            pa.record_batch([range(at, at + GROUP_ROWS), [rng.bytes(TEXT_BYTES) for _ in range(GROUP_ROWS)]], SCHEMA)
            for at in starts
        ]

    with run.publish("samples", SCHEMA) as store:
        for number, task in enumerate(("agro", "med")):
            store.write_parquet(f"task={task}/split=test/part-00000.parquet", SCHEMA, groups(number))
    return run.require_artifact("samples", SCHEMA)


def test_texts_are_read_in_order_with_a_few_row_groups_in_memory(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path)
    held, most, ids, tasks = pa.total_allocated_bytes(), 0, [], []
    for batch in query.reader(artifact, ["task", "id", "text"]):
        most = max(most, pa.total_allocated_bytes() - held)
        ids += batch.column("id").to_pylist()
        tasks += set(batch.column("task").to_pylist())
        assert batch.schema.names == ["task", "id", "text"]
        del batch
    assert ids == list(range(2 * GROUPS * GROUP_ROWS))
    assert tasks == sorted(tasks)
    assert most < 6 * GROUP_ROWS * TEXT_BYTES
