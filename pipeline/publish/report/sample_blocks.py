"""The samples of a report: rows in, compressed blocks out that are safe inside a page.

A block is two gzip streams in base64: the columns that the page filters and lists, which it reads at start, and the
texts, which it reads when a sample is opened or searched. The characters of base64 cannot end a script element.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from pipeline.metrics.names import SAMPLE_METRICS
from pipeline.records import FLIP_SCHEMA, KEY_COLUMNS, SAMPLE_SCHEMA, read_messages
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore, parquet_files
from pipeline.terminal.text import one_line

BLOCK_ROWS = 256
BLOCK_CHARS = 1_000_000
"""A block ends when it reaches either limit; the page decodes a block of this size in about ten milliseconds."""

PREVIEW_CHARS = 120

INDEX = (
    *("task", "split", "id", "repeat", "answer", "gold", "extraction", "answer_kind", "finish_reason"),
    "num_output_tokens",
)
TEXTS = ("prompt", "reasoning", "response", "error")
DETAILS = (
    *("instruction", "num_options", "seen_letters", "prompt_sha256", "num_prompt_tokens"),
    *("attempts", "replica", "queued_s", "generated_s"),
)

FLIPS = "compare/flips.parquet"
"""The gate's list of questions that only one of the two runs has right; all repeats of a question have one flip.
It is that of `correct`, or of `em` in a task without letters.

It has the baseline's answer and response to the first repeat, which the page shows next to this run's."""

LONGEST_BASELINE = 20_000
"""Characters of a baseline's response that the page has."""

_COLUMNS = ", ".join(
    f"s.{name}" for name in (*INDEX, *SAMPLE_METRICS, *TEXTS, *DETAILS, "categories", "messages", "completion")
)
_SQL = f"SELECT {_COLUMNS}, NULL AS change, NULL AS baseline FROM texts AS s"  # noqa: S608
_FLIPPED_SQL = f"""
    SELECT {_COLUMNS}, f.flip AS change, if(f.flip IS NULL OR s.repeat > 0, NULL, {{
        'answer': f.base_answer, 'extraction': f.base_extraction, 'finish_reason': f.base_finish_reason,
        'response': f.base_response[:{LONGEST_BASELINE}], 'is_cut': length(f.base_response) > {LONGEST_BASELINE}
    }}) AS baseline
    FROM texts AS s
    LEFT JOIN (
        FROM flips WHERE metric = if(task IN (SELECT task FROM samples WHERE correct IS NOT NULL), 'correct', 'em')
    ) AS f ON (s.task, s.split, s.id) = (f.task, f.split, f.id)
"""  # noqa: S608
_READ_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block in the page; `texts` is None if they are in a file next to the page."""

    number: int
    index: str
    texts: str | None


class Samples:
    """A run's samples as blocks; `num_samples` counts the samples of the blocks yielded so far."""

    def __init__(self, run: ArtifactStore) -> None:
        self.num_samples = 0
        self._run = run
        self._samples = run.require_artifact("samples", SAMPLE_SCHEMA)

    def blocks(self, database: duckdb.DuckDBPyConnection, chunks: str | None) -> Iterator[Block]:
        """Yield the blocks; with `chunks`, write their texts into that directory, one script per block.

        Raises:
            RunError: The directory cannot be written.
            DataError: The samples are damaged.
        """
        for number, rows in enumerate(_full(self._rows(database))):
            texts = _packed([_texts(row) for row in rows])
            if chunks is not None:
                self._run.write_text(f"{chunks}/{number}.js", f'reportChunk({number}, "{texts}");\n')
            self.num_samples += len(rows)
            yield Block(number=number, index=_packed(_index(rows)), texts=None if chunks else texts)

    def _rows(self, database: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
        columns = [*KEY_COLUMNS, *(name for name in SAMPLE_SCHEMA.names if name not in KEY_COLUMNS)]
        database.register("texts", query.reader(self._samples, columns))
        sql = _SQL
        if self._run.exists(FLIPS):
            database.execute("SET threads = 1")  # the join then keeps the samples' order: the same run, the same page
            database.register("flips", parquet_files(self._run, [FLIPS], FLIP_SCHEMA))
            sql = _FLIPPED_SQL
        for batch in query.batches(database, sql, rows=_READ_ROWS):
            yield from batch.to_pylist()


def _full(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Group rows into full blocks."""
    block: list[dict[str, Any]] = []
    chars = 0
    for row in rows:
        block.append(row)
        chars += sum(len(row[name] or "") for name in TEXTS)
        if len(block) >= BLOCK_ROWS or chars >= BLOCK_CHARS:
            yield block
            block, chars = [], 0
    if block:
        yield block


def _index(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in (*INDEX, "change")}
    # JavaScript cannot represent an id above 2**53 as a number.
    columns["id"] = [str(row["id"]) for row in rows]
    columns |= {name: [None if row[name] is None else round(row[name], 6) for row in rows] for name in SAMPLE_METRICS}
    columns["categories"] = [[[each["key"], each["value"]] for each in row["categories"]] for row in rows]
    columns["failed"] = [row["error"] is not None for row in rows]
    columns["preview"] = [_preview(row) for row in rows]
    return columns


def _preview(row: dict[str, Any]) -> str:
    text = row["error"] or row["response"] or row["reasoning"] or ""
    return one_line(text[: 4 * PREVIEW_CHARS], PREVIEW_CHARS)


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    """Return the texts and details of a sample; an endpoint's prompt is shown as the messages sent to it."""
    texts = {name: row[name] for name in (*TEXTS, *DETAILS) if row[name] is not None}
    if row["prompt"] is None:
        texts["prompt"] = "\n\n".join(f"[{each['role']}]\n{each['content']}" for each in read_messages(row["messages"]))
    if row["response"] is None and row["reasoning"] is None and row["completion"] is not None:
        texts["completion"] = row["completion"]
    if row["baseline"] is not None:
        texts["baseline"] = row["baseline"]
    return texts


def _packed(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # Arrow strings have no lone surrogates; if one occurs here, it is a bug, and `encode` raises.
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=4, mtime=0)).decode("ascii")
