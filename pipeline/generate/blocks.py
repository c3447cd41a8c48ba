"""Divides the work lists into blocks of rows, in order; their size depends on the amount of work and the cluster.

In: the work lists' files. Out: a Ray data set whose rows are our blocks, made on demand. If our rows were those of Ray,
`map_batches` would put the last block of a part, which is smaller, into one task with the next, and no status of a task
leaves before all its rows are finished.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.generate.part import Part
from pipeline.storage.artifacts import ArtifactStore

ROWS_AT_ONCE = 1024
"""Rows that are read from the work list at a time; a multiple of the rows in a block."""

ROWS_PER_SLOT = {4: 2.5, 8: 4.0, 16: 6.0, 32: 8.0}
"""Rows in flight at a replica per slot of its engine, by the number of rows in a block."""

ROWS_FOR_ONE_REPLICA = (16, 32, 64, 128)
"""Possible numbers of rows in a block if there is a single replica."""


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """How the work is divided: rows per block, and blocks in flight at a replica.

    A block is complete only when its last row is, so a replica needs more rows than its engine has slots; the larger
    the blocks, the more rows. With 2 rows per slot and 4 per block, slots stay empty if the rows' lengths are unknown.
    tests/bench/longest_first.py simulates the constants.
    """

    rows_per_block: int
    blocks_per_replica: int

    @classmethod
    def of(cls, num_rows: int, slots: int, num_replicas: int) -> BlockPlan:
        """Return the plan for `num_rows` rows on `num_replicas` replicas with `slots` slots each."""
        if num_replicas == 1:
            # No other replica could take the last rows, so larger blocks cost nothing and save Ray work. The
            # engine is full even if only the longest row of each block is left.
            target = num_rows / (25 * slots)
            rows = max((size for size in ROWS_FOR_ONE_REPLICA if size <= target), default=min(ROWS_FOR_ONE_REPLICA))
            return cls(rows, 1 + math.ceil(1.25 * slots))
        rows_per_slot = num_rows / (slots * num_replicas)
        # Many rows per slot allow large blocks, and a wide cluster needs them: its driver is a single process.
        target = max(rows_per_slot / 25, slots * num_replicas / 2000 if rows_per_slot >= 40 else 0)
        rows = max((size for size in ROWS_PER_SLOT if size <= target), default=min(ROWS_PER_SLOT))
        # One more than the slots need: a block that the replica holds back must not delay the next one.
        return cls(rows, 1 + math.ceil(ROWS_PER_SLOT[rows] * slots / rows))

    @property
    def rows_per_replica(self) -> int:
        """Rows in flight at a replica."""
        return self.rows_per_block * self.blocks_per_replica


def blocks(parts: Sequence[Part], rows_per_block: int) -> Any:
    """Return the work lists of the parts as a Ray data set, in order.

    A row of it has the column `rows`: at most `rows_per_block` rows of one part, with the columns of `WORK_SCHEMA` and
    `part`, the number of the part, and `place`, the row's position in its work list, both from 0.
    """
    import ray.data

    lists = [{"part": number, "files": list(part.work.files)} for number, part in enumerate(parts)]
    # One task reads all files, since several would mix the order. It waits most of the time, so it reserves no CPU.
    files = ray.data.from_items(lists, override_num_blocks=1)
    return files.map_batches(
        _read,
        fn_args=([part.run for part in parts], rows_per_block),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.TaskPoolStrategy(size=1),
        num_cpus=0,
    ).repartition(target_num_rows_per_block=1)


def _read(lists: pa.Table, runs: Sequence[ArtifactStore], rows_per_block: int) -> Iterator[pa.Table]:
    """Yield the blocks of the work lists in order."""
    for each in lists.to_pylist():
        part, place = each["part"], 0
        run = runs[part]
        for name in each["files"]:
            with run.fs.open_input_file(run.path(name)) as source:
                for batch in pq.ParquetFile(source).iter_batches(ROWS_AT_ONCE):
                    num_rows = batch.num_rows
                    rows = batch.append_column("place", pa.array(range(place, place + num_rows), pa.int64()))
                    rows = rows.append_column("part", pa.array([part] * num_rows, pa.int64()))
                    ends = [*range(0, num_rows, rows_per_block), num_rows]
                    yield pa.table({"rows": pa.ListArray.from_arrays(ends, rows.to_struct_array())})
                    place += num_rows
