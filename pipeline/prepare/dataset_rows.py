"""Reads the rows of a split one at a time: memory does not grow with the size of a JSON Lines or Parquet file.

`read_rows` takes a `Source` and yields each row unchanged. Parquet is read through `datasets`. JSON is not: `datasets`
infers one Arrow type per column from the first 10 MB of a file, which turns an answer of digits into a number and a
date into a timestamp, cuts floats to 10 digits, and fails on an option that only later rows have.
"""

from __future__ import annotations

import glob
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config.schema import TaskConfig
from pipeline.errors import DataError
from pipeline.prepare.dataset import Source, find_source, quiet_datasets
from pipeline.prepare.question import read_question

ROWS_PER_READ = 1024


def read_rows(source: Source, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split in the order of its files.

    Raises:
        DataError: A file cannot be read; the message names the task, the file and, in JSON Lines, the line.
    """
    for path in source.files[split]:
        rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
        try:
            for row in rows:
                if not isinstance(row, dict):
                    raise DataError(
                        f"tasks.{source.task}.dataset: {path} holds {type(row).__name__}s where rows belong"
                    )
                yield row
        except (OSError, ValueError, TypeError, RecursionError, pa.ArrowException) as error:
            at = f"tasks.{source.task}.dataset: {path}"
            raise DataError(f"{at} cannot be read: {error}: copy or make it again") from error


def read_test_ids(name: str, task: TaskConfig) -> frozenset[int]:
    """Return the ids of a task's test rows.

    Raises:
        DataError: The data set does not exist, or a file or row of it is damaged.
    """
    rows = enumerate(read_rows(find_source(name, task, ["test"]), "test"), start=1)
    return frozenset(read_question(name, task, "test", number, row).id for number, row in rows)


def _json_rows(path: Path) -> Iterator[Any]:
    """Yield the items of a JSON list, otherwise one object per line. A list is read into memory whole."""
    with path.open(encoding="utf-8-sig") as file:
        while (head := file.read(1)).isspace():
            pass
        file.seek(0)
        if head == "[":
            yield from json.load(file)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number} is not a JSON object on one line ({error})") from error


def _parquet_rows(path: Path) -> Iterator[Any]:
    # One call per file: otherwise the keys of one file's `inputs` become the schema of all.
    with tempfile.TemporaryDirectory() as cache:
        yield from quiet_datasets().load_dataset(
            "parquet",
            data_files={"rows": [glob.escape(str(path))]},
            split="rows",
            streaming=True,
            batch_size=ROWS_PER_READ,
            cache_dir=cache,
        )
