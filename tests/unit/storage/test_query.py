"""A run's Parquet files are read in order, with bounded memory."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import RunError
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


def test_batches_are_cut_by_their_bytes_and_have_the_types_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "BATCH_BYTES", 1_000)
    texts = [f"{number:0100}" for number in range(64)]
    columns = {"text": texts, "pairs": pa.array([[("a", "b")]] * 64, pa.map_(pa.string(), pa.string()))}
    with query.connection() as database:
        database.register("rows", pa.table({**columns, "numbers": pa.array([[1, 2]] * 64, pa.list_(pa.int32()))}))
        batches = list(query.batches(database, "SELECT * FROM rows", rows=64))
    assert len(batches) > 4
    assert [text for batch in batches for text in batch.column("text").to_pylist()] == texts
    assert [field.type for field in batches[0].schema] == [
        pa.string(),
        pa.map_(pa.string(), pa.string()),
        pa.list_(pa.int32()),
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (duckdb.IOException("Could not write file: No space left on device"), "has no space for sorting"),
        (duckdb.OutOfMemoryException("failed to offload data block"), "has no space for sorting"),
        (duckdb.IOException("Cannot open file: Permission denied"), "cannot be used for sorting: .*Permission denied"),
    ],
)
def test_only_a_full_disk_is_told_as_one(error: Exception, words: str) -> None:
    with pytest.raises(RunError, match=words), query.connection():
        raise error
