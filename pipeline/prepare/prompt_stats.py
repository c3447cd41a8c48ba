"""How long the prompts are, which do not fit, and some of them to look at.

In: the stage `prompts`. Out: counts, and the rows that were asked for. DuckDB reads the columns, so that nothing here
grows with the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from pipeline.records import PROMPT_SCHEMA
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, parquet_files

MOST_IDS = 50
"""Ids that a list of rows names; the rest of it is a number."""

# A prompt that was tokenized and yet has an error is one that does not fit: see room.py.
LENGTHS_SQL = """
    WITH lengths AS (SELECT task, split, id, error, num_prompt_tokens, {size} AS size FROM prompts)
    SELECT task, split, count(*) AS num_rows, min(size) AS least, avg(size) AS mean, median(size) AS median,
           quantile_disc(size, 0.95) AS p95, max(size) AS most,
           count(*) FILTER (error IS NOT NULL AND num_prompt_tokens IS NOT NULL) AS num_unfit,
           coalesce(min(id, {ids}) FILTER (error IS NOT NULL AND num_prompt_tokens IS NOT NULL), []) AS unfit_ids,
           count(*) FILTER (error IS NOT NULL AND num_prompt_tokens IS NULL) AS num_failed
    FROM lengths GROUP BY task, split ORDER BY task, split
"""

MARKED_SQL = f"""
    SELECT count(*), coalesce(min({{'task': task, 'split': split, 'id': id}}, {MOST_IDS}), [])
    FROM prompts
    WHERE len(list_filter(prompt_token_ids, lambda each: list_contains($special, each))) > $usual
"""  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A task's split: its rows and the lengths of their prompts, in tokens; in characters where a server renders.

    `num_unfit` rows and generation.max_gen_toks are more than the context; `unfit_ids` are the first of them.
    `num_failed` rows the template refuses. Lengths are None when no prompt has one.
    """

    task: str
    split: str
    num_rows: int
    least: int | None
    mean: float | None
    median: float | None
    p95: int | None
    most: int | None
    num_unfit: int
    unfit_ids: Sequence[int]
    num_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """What the lints ask of the rows: those that do not fit, and those whose question holds special tokens.

    `unfit` and `marked` name the first rows; `num_marked` is None when the special tokens are not known.
    """

    num_rows: int
    num_unfit: int
    unfit: Sequence[str]
    num_marked: int | None = None
    marked: Sequence[str] = ()


def lengths(prompts: Artifact, *, in_tokens: bool) -> list[Lengths]:
    """Return the lengths of the prompts of each task and split, in tokens or in characters of their messages."""
    sql = LENGTHS_SQL.format(size="num_prompt_tokens" if in_tokens else "length(messages)", ids=MOST_IDS)
    with query.connection() as database:
        database.register("prompts", prompts.dataset())
        rows = query.rows(database, sql)
    return [Lengths(**row) for row in rows]


def row_facts(found: Sequence[Lengths]) -> RowFacts:
    """Return what the lints ask of rows whose lengths are known."""
    return RowFacts(
        num_rows=sum(each.num_rows for each in found),
        num_unfit=sum(each.num_unfit for each in found),
        unfit=[f"{each.task} {each.split} id={row_id}" for each in found for row_id in each.unfit_ids],
    )


def count_marked(prompts: Artifact, special: Mapping[int, str], usual: int) -> tuple[int, list[str]]:
    """Return how many prompts hold more special tokens than the `usual` number of the template's own, and the first."""
    with query.connection() as database:
        database.register("prompts", prompts.dataset())
        found = database.execute(MARKED_SQL, {"special": list(special), "usual": usual}).fetchone()
    assert found is not None
    return int(found[0]), [f"{row['task']} {row['split']} id={row['id']}" for row in found[1]]


def pick(
    prompts: Artifact, task: str, splits: Sequence[str], num_rows: int, row_id: int | None
) -> list[dict[str, Any]]:
    """Return the first rows of a task, split by split in the data set's order; of `row_id` alone, when it is given."""
    rows: list[dict[str, Any]] = []
    for split in splits:
        prefix = f"task={task}/split={split}/"
        files = [name for name in prompts.files if name.startswith(prefix)]
        where = None if row_id is None else pc.field("id") == row_id
        part = parquet_files(prompts.store, files, PROMPT_SCHEMA)
        rows += part.head(num_rows - len(rows), filter=where).to_pylist()
    return rows
