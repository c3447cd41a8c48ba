"""Reads the rows of a split one at a time: memory does not grow with the size of a JSON Lines or Parquet file.

`read_rows` takes a `Source` and yields each row unchanged. `datasets` is not used: it infers one Arrow type per column
from the first 10 MB of a JSON file, which turns an answer of digits into a number and a date into a timestamp, cuts
floats to 10 digits, and fails on an option that only later rows have; of Parquet it decodes image and audio columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.schema import TaskConfig
from pipeline.errors import DataError
from pipeline.prepare.dataset import Source, find_source
from pipeline.prepare.question import read_question
from pipeline.terminal.text import one_line, truncate

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
        except (OSError, ValueError, TypeError, OverflowError, RecursionError, KeyError, pa.ArrowException) as error:
            at = f"tasks.{source.task}.dataset: {path}"
            raise DataError(f"{at} cannot be read: {one_line(str(error), 300)}: copy or make it again") from error


def read_test_ids(name: str, task: TaskConfig) -> frozenset[int]:
    """Return the ids of a task's test rows.

    Raises:
        DataError: The data set does not exist, or a file or row of it is damaged.
    """
    rows = enumerate(read_rows(find_source(name, task, ["test"]), "test"), start=1)
    return frozenset(read_question(name, task, "test", number, row).id for number, row in rows)


def _json_rows(path: Path) -> Iterator[Any]:
    """Yield one object per line; or the items of a list, bare or under the key `data`, which is read into memory."""
    with path.open(encoding="utf-8-sig") as file:
        while (head := file.read(1)).isspace():
            pass
        file.seek(0)
        if head == "[" or (head == "{" and _is_one_object(file)):
            content = _loads(file.read())
            yield from content["data"] if isinstance(content, dict) else content
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number} is not a JSON object on one line ({error})") from error


def _is_one_object(file: TextIO) -> bool:
    """Return whether a file holds `{"data": [...]}` and not an object per line; its position is its begin again."""
    head = file.read(1_000)
    file.seek(0)
    return re.match(r"\s*\{\s*\"data\"\s*:\s*\[", head) is not None


def _loads(text: str) -> Any:
    """Return a JSON value; Python's NaN and Infinity are not JSON, and of two values for one key neither is right."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {truncate(twice)!r} is given twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON: leave the key out, or give null")


def _parquet_rows(path: Path) -> Iterator[Any]:
    """Yield the rows as they are stored: `datasets` would open the path or URL of an image column."""
    with pq.ParquetFile(path) as file:
        _object([(name, None) for name in file.schema_arrow.names])
        for batch in file.iter_batches(batch_size=ROWS_PER_READ):
            yield from batch.to_pylist(maps_as_pydicts="strict")
