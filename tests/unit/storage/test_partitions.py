"""Ranges of ids cover each id once for any query; spilled rows come back in insertion order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.partitions import IdRange, id_ranges, spill_partitions

KEYS = st.tuples(st.sampled_from(["agro", "med"]), st.sampled_from(["train", "test"]), st.integers(-9, 9))
SCHEMA = pa.schema([("task", pa.string()), ("split", pa.string()), ("id", pa.int64())])


def ranges_of(keys: list[tuple[str, str, int]], num_ids: int) -> list[IdRange]:
    with query.connection() as database:
        rows = [dict(zip(SCHEMA.names, key, strict=True)) for key in keys]
        database.register("keys", pa.Table.from_pylist(rows, SCHEMA))
        return id_ranges(database, "FROM keys", num_ids)


@settings(deadline=None)
@given(st.lists(KEYS, unique=True, max_size=40), st.integers(1, 7))
def test_every_id_is_in_one_range_and_no_range_is_too_large(keys: list[tuple[str, str, int]], num_ids: int) -> None:
    ranges = ranges_of(keys, num_ids)
    held = [
        [key for key in keys if key[:2] == (ids.task, ids.split) and ids.first_id <= key[2] <= ids.last_id]
        for ids in ranges
    ]
    assert sorted(key for part in held for key in part) == sorted(keys)
    assert all(0 < len(part) <= num_ids for part in held)
    assert ranges == sorted(ranges, key=lambda ids: (ids.task, str(ids.split), ids.first_id))
    for cell in {key[:2] for key in keys}:
        numbers = [ids.number for ids in ranges if (ids.task, ids.split) == cell]
        assert numbers == list(range(len(numbers)))


def test_ids_of_a_query_without_a_split_are_ranges_of_the_whole_task() -> None:
    with query.connection() as database:
        database.register("ours", pa.table({"id": [5, 1, 3]}))
        found = id_ranges(database, "SELECT $task AS task, NULL AS split, id FROM ours", 2, {"task": "agro"})
    assert found == [
        IdRange(task="agro", split=None, number=0, first_id=1, last_id=3),
        IdRange(task="agro", split=None, number=1, first_id=5, last_id=5),
    ]


@pytest.mark.parametrize(
    ("split", "expected"), [("test", [("test", 2), ("test", 3)]), (None, [("test", 2), ("test", 3), ("train", 2)])]
)
def test_a_range_selects_its_rows_of_any_artifact(
    tmp_path: Path, split: str | None, expected: list[tuple[str, int]]
) -> None:
    run = ArtifactStore.open(str(tmp_path))
    keys = [(task, each, row_id) for task in ("agro", "med") for each in ("test", "train") for row_id in (1, 2, 3)]
    rows = [dict(zip(SCHEMA.names, key, strict=True)) for key in keys if key != ("agro", "train", 3)]
    with run.publish("prompts", SCHEMA) as store:
        store.write_parquet("part.parquet", SCHEMA, [pa.Table.from_pylist(rows, SCHEMA)])
    ids = IdRange(task="agro", split=split, number=0, first_id=2, last_id=3)
    table = query.scanner(run.require_artifact("prompts", SCHEMA), SCHEMA.names, ids.rows).to_table()
    assert [(row["split"], row["id"]) for row in table.to_pylist()] == expected
    assert set(table.column("task").to_pylist()) == {"agro"}


def test_spilled_rows_come_back_in_insertion_order() -> None:
    schema = pa.schema([("id", pa.int64())])
    with spill_partitions(schema) as shared:
        for first in (0, 4):
            batch = pa.record_batch([range(first, first + 4)], schema=schema)
            shared.add(batch, np.array([1, 0, 1, 0]))
        read = [shared.read(number).read_all().column("id").to_pylist() for number in range(3)]
    assert read == [[1, 3, 5, 7], [0, 2, 4, 6], []]
