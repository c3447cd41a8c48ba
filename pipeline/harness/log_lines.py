"""Reads a sample log line by line: validates every field, and keeps only what is compared.

In: a `LogFile`. Out: `Logged` rows, and the artifact `logs` with `LOG_SCHEMA`. A line that the harness does not write
ends the replay with an error that has its file and number: without that line, part of a log would pass for all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import pyarrow as pa

from pipeline.errors import DataError
from pipeline.harness.log_files import LogFile, readable
from pipeline.harness.normalize import flat_row, plain_messages
from pipeline.records import column, without_nulls
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import truncate

ARTIFACT = "logs"

LOG_SCHEMA = pa.schema(
    [
        column("id", pa.int64(), "The question's id in the data set.", nullable=False),
        column("line", pa.int64(), "Number of the line in the log, from 1.", nullable=False),
        column("filter", pa.string(), "The filter of the harness that made the response.", nullable=False),
        column("doc", pa.string(), "The data set's row that the harness logged, flat, as JSON.", nullable=False),
        column("gold", pa.string(), "The correct answer; empty if it is hidden.", nullable=False),
        column("messages", pa.string(), "The messages as JSON, of a chat server; null otherwise."),
        column("prompt", pa.string(), "The prompt as text; null if it is messages."),
        column("arguments", pa.string(), "The generation arguments that the harness logged, as JSON.", nullable=False),
        column("content", pa.string(), "The model's output."),
        column("response", pa.string(), "The text that the harness scored.", nullable=False),
        column("em", pa.float64(), "The harness's exact match; null if it logged none."),
        column("f1", pa.float64(), "The harness's F1; null if it logged none."),
    ]
)
"""One row per line of a log; the task is the directory `task=<t>/` above the file."""

MAX_LINE_BYTES = 8 << 20
"""Maximum bytes of a line. A line contains its response twice; with 262,144 tokens of Russian it takes 3 MB."""
MAX_DEPTH = 32
"""Maximum depth of nesting; the harness writes 5."""
BATCH_ROWS, BATCH_BYTES = 512, 32 << 20
ROWS_PER_FILE = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What the harness logged of one question. Columns: `LOG_SCHEMA`.

    `doc` is the data set's row, flat, as JSON. The prompt is either `messages` as JSON (from a chat server) or `prompt`
    as text. `content` is the model's output, `response` the text that was scored. A hidden `gold` is empty.
    """

    id: int
    line: int
    filter: str
    doc: str
    gold: str
    messages: str | None
    prompt: str | None
    arguments: str
    content: str | None
    response: str
    em: float | None
    f1: float | None


def write_log(store: ArtifactStore, task: str, file: LogFile) -> None:
    """Write a task's log into the artifact `logs`.

    Raises:
        DataError: The file cannot be read, contains no sample, or has a line that the harness does not write.
        RunError: The temporary directory is full.
    """
    if not store.write_parts(f"task={task}", LOG_SCHEMA, _batches(file), ROWS_PER_FILE):
        raise DataError(f"{file.name} holds no samples")


def _batches(file: LogFile) -> Iterator[pa.Table]:
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    for number, line in _lines(file):
        rows.append(asdict(read_line(file.name, number, line)))
        num_bytes += len(line)
        if len(rows) == BATCH_ROWS or num_bytes > BATCH_BYTES:
            yield pa.Table.from_pylist(rows, schema=LOG_SCHEMA)
            rows, num_bytes = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=LOG_SCHEMA)


def _lines(file: LogFile) -> Iterator[tuple[int, bytes]]:
    with readable(file.name), file.open() as stream:
        for number in count(1):
            line = stream.readline(MAX_LINE_BYTES + 1)
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{file.name} line {number} is longer than {MAX_LINE_BYTES:,} bytes")
            if not line:
                return
            if line.strip():
                yield number, line


def read_line(name: str, number: int, line: bytes) -> Logged:
    """Return one line of a log.

    Raises:
        DataError: `lm_eval --log_samples` does not write such a line; the message has `name` and `number`.
    """
    try:
        record = json.loads(line.decode("utf-8-sig"))
        _require_shallow(record)
        row = _logged(record, number)
        for text in asdict(row).values():
            if isinstance(text, str):
                text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{name} line {number} holds half of a character (a lone surrogate)") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} line {number} is no sample of the harness: {error}") from error
    return row


def _logged(record: Any, number: int) -> Logged:
    doc = _get(record, dict, "doc")
    row_id = _get(doc, int, "meta", "id")
    if not -(2**63) <= row_id < 2**63:
        raise ValueError("meta.id has more than 64 bits")
    arguments = _get(record, dict, "arguments")
    if arguments.keys() != {"gen_args_0"}:
        raise ValueError(f"arguments has {len(arguments)} requests, a generated answer has one: gen_args_0")
    request = _get(arguments, (str, list), "gen_args_0", "arg_0")
    text = _only(request, "arguments.gen_args_0.arg_0")
    messages = plain_messages(text)
    content: str | None = _only(_first(_get(record, list, "resps"), "resps", list), "resps")
    response = _only(_get(record, list, "filtered_resps"), "filtered_resps")
    if content == "None" and not response:
        content = None  # the harness writes str(None) for a response without content
    return Logged(
        id=row_id,
        line=number,
        filter=str(record.get("filter", "")),
        doc=json.dumps(flat_row(without_nulls(doc)), ensure_ascii=False),
        gold=_get(doc, str, "outputs") if doc.get("outputs") is not None else "",
        messages=messages,
        prompt=text if messages is None else None,
        arguments=json.dumps(_get(arguments, dict, "gen_args_0", "arg_1"), ensure_ascii=False),
        content=content,
        response=response,
        em=_number(record, "em"),
        f1=_number(record, "f1"),
    )


def _get(record: Any, kind: type | tuple[type, ...], *path: str) -> Any:
    """Return the value at a path of keys.

    Raises:
        ValueError: There is none, or it is of another type.
    """
    value = record
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{'.'.join(path)} must be a {names}, not {truncate(repr(value))}")
    return value


def _first(values: list[Any], path: str, kind: type) -> Any:
    if not values or not isinstance(values[0], kind):
        raise ValueError(f"{path} must begin with a {kind.__name__}, not {truncate(repr(values))}")
    return values[0]


def _only(value: str | list[Any], path: str) -> str:
    """Return a text, or the first item of a list of texts."""
    return value if isinstance(value, str) else str(_first(value, path, str))


def _number(record: dict[str, Any], name: str) -> float | None:
    value = record.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e9):
        raise ValueError(f"{name} must be a number, not {truncate(repr(value))}")
    return None if value is None else float(value)


def _require_shallow(record: Any) -> None:
    level, depth = [record], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        inner = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in inner for child in (item.values() if isinstance(item, dict) else item)]
