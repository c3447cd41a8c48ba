"""Samples and metrics as CSV files, or as the two sheets of an Excel workbook.

Models and data sets wrote the texts, and a spreadsheet runs a text that begins like a formula. A workbook declares each
such cell as text. CSV cannot, so these texts get an apostrophe in front there, and spreadsheets show them as they are:
https://owasp.org/www-community/attacks/CSV_Injection.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from pipeline.errors import DataError
from pipeline.formats.source import EXPORTED_SCHEMA, Source, as_text, require_package
from pipeline.records import METRIC_SCHEMA

MOST_ROWS = 1_048_576
"""Rows of a sheet, the titles included. Source: Microsoft, Excel specifications and limits."""

MOST_CHARACTERS = 32_767
"""Characters of a cell, from the same page; counted in units of UTF-16."""

CUT = " [cut: the cell is full]"

_FORMULA = r"^(\s*[=+\-@＝＋－＠]|[\t\r\n])"


def write_csv(source: Source, out: Path) -> None:
    """Write samples.csv and metrics.csv into the directory `out`, in UTF-8 with the mark by which Excel knows it.

    Null is an empty field, an empty text is `""`.
    """
    for name, schema, batches in _parts(source):
        flat = pa.schema([pa.field(each.name, _flat_type(each.type)) for each in schema])
        with open(out / f"{name}.csv", "wb") as file:
            file.write(codecs.BOM_UTF8)
            with pacsv.CSVWriter(file, flat) as writer:
                for batch in batches:
                    writer.write_batch(_flat(batch, flat))


def write_xlsx(source: Source, out: Path) -> None:
    """Write a workbook with the sheets samples and metrics.

    Raises:
        ConfigError: The package xlsxwriter is not installed.
        DataError: The run has more rows than a sheet holds.
    """
    if max(source.samples.num_rows, source.metrics.num_rows) >= MOST_ROWS:
        raise DataError(f"{source.samples.num_rows:,} rows do not fit into a sheet of {MOST_ROWS:,}: use to=csv")
    xlsxwriter = require_package("xlsxwriter", "xlsx", "xlsx")
    book = xlsxwriter.Workbook(str(out), {"constant_memory": True})
    book.set_properties({"created": datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None)})  # the same run, same bytes
    for name, schema, batches in _parts(source):
        sheet = book.add_worksheet(name)
        sheet.freeze_panes(1, 0)
        rows = (row.values() for batch in batches for row in batch.to_pylist())
        _fill(sheet, schema.names, rows)
    book.close()


def _parts(source: Source) -> Iterator[tuple[str, pa.Schema, Iterable[pa.RecordBatch]]]:
    yield "samples", EXPORTED_SCHEMA, source.batches()
    yield "metrics", METRIC_SCHEMA, source.metrics.to_batches()


def _flat_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_nested(kind) else kind


def _flat(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch without nested columns, whose texts no spreadsheet takes for a formula."""
    columns = []
    for values, field in zip(batch.columns, schema, strict=True):
        if pa.types.is_nested(values.type):
            values = pa.array([as_text(each) for each in values.to_pylist()], pa.string())
        if pa.types.is_string(field.type):
            is_formula = pc.match_substring_regex(values, _FORMULA)
            values = pc.if_else(is_formula, pc.binary_join_element_wise("'", values, ""), values)
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _fill(sheet: Any, titles: list[str], rows: Iterable[Iterable[Any]]) -> None:
    for place, title in enumerate(titles):
        sheet.write_string(0, place, title)
    for number, values in enumerate(rows, 1):
        for place, value in enumerate(values):
            if isinstance(value, float) and not math.isfinite(value):
                sheet.write_string(number, place, str(value))
            elif isinstance(value, (int, float)) and abs(value) < 2**53:
                sheet.write_number(number, place, value)
            elif value is not None:
                sheet.write_string(number, place, _cell(as_text(value) if isinstance(value, list) else str(value)))


def _cell(text: str) -> str:
    """Return a text that fits into a cell; characters above U+FFFF count twice there."""
    if len(text) + sum(each > "\uffff" for each in text) <= MOST_CHARACTERS:
        return text
    num_bytes = (MOST_CHARACTERS - len(CUT)) * 2
    return text.encode("utf-16-le")[:num_bytes].decode("utf-16-le", "ignore") + CUT
