"""The number of completions of a question, which may differ by split, in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import duckdb
import pyarrow.compute as pc

from pipeline.storage.artifacts import Artifact

Repeats: TypeAlias = int | Mapping[str, int]
"""Completions a question: one number, or numbers by split; a split that is not named has 1."""


def define(database: duckdb.DuckDBPyConnection, repeats: Repeats) -> None:
    """Define the SQL functions `repeats_of(split)`, and `passes_of(split)` with the k of pass@k: 1, 2, 4, ... and all.

    The list of k is empty for a split of single completions.
    """
    by_split, rest = (repeats, 1) if isinstance(repeats, Mapping) else ({}, repeats)
    for name, value in (("repeats_of", str), ("passes_of", _passes)):
        cases = "".join(f" WHEN '{split}' THEN {value(num)}" for split, num in by_split.items())
        body = f"CASE split{cases} ELSE {value(rest)} END" if cases else value(rest)
        database.execute(f"CREATE OR REPLACE TEMP MACRO {name}(split) AS {body}")


def _passes(num: int) -> str:
    passes = sorted({num} | {2**power for power in range(num.bit_length())}) if num > 1 else []
    return f"{passes}::BIGINT[]"


def most(repeats: Repeats) -> int:
    """Return the number of completions of the questions that have most."""
    return max(repeats.values(), default=1) if isinstance(repeats, Mapping) else repeats


def count_rows(prompts: Artifact, repeats: Repeats) -> int:
    """Return the number of completions of all prompts."""
    if not isinstance(repeats, Mapping):
        return prompts.num_rows * repeats
    dataset = prompts.dataset()
    num_rows = {split: int(dataset.count_rows(filter=pc.field("split") == split)) for split in repeats}
    return prompts.num_rows + sum((num - 1) * num_rows[split] for split, num in repeats.items())
