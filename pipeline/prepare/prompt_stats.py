"""Statistics of prompt lengths, the rows that do not fit the context, and a selection of rows to display.

Everything is computed from the artifact `prompts`. DuckDB scans its columns, so memory does not grow with the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pipeline.records import PROMPT_SCHEMA
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, parquet_files
from pipeline.storage.repeats import Repeats, define

if TYPE_CHECKING:
    import pyarrow.dataset as pads

MAX_IDS = 50
"""Maximum number of ids in a list of rows; further rows are only counted."""

# A prompt with both a token count and an error exceeds the context: see `_with_tokens` in stage.py.
LENGTHS_SQL = """
    WITH lengths AS (SELECT task, split, id, error, num_prompt_tokens, {size} AS size FROM prompts)
    SELECT task, split, count(*) AS num_rows, min(size) AS least, avg(size) AS mean, median(size) AS median,
           quantile_disc(size, 0.95) AS p95, max(size) AS most,
           count(*) FILTER (error IS NOT NULL AND num_prompt_tokens IS NOT NULL) AS num_unfit,
           coalesce(min(id, {max_ids}) FILTER (error IS NOT NULL AND num_prompt_tokens IS NOT NULL), []) AS unfit_ids,
           count(*) FILTER (error IS NOT NULL AND num_prompt_tokens IS NULL) AS num_failed
    FROM lengths GROUP BY task, split ORDER BY task, split
"""

MARKED_SQL = f"""
    SELECT count(*), coalesce(min({{'task': task, 'split': split, 'id': id}}, {MAX_IDS}), [])
    FROM prompts
    WHERE len(list_filter(prompt_token_ids, lambda each: list_contains($special, each))) > $usual
"""  # noqa: S608


SHARED_SQL = """
    SELECT 1 FROM prompts WHERE num_prompt_tokens > $num_tokens AND prompt_token_ids IS NOT NULL
    GROUP BY hash(prompt_token_ids[1:$num_tokens]) HAVING sum(repeats_of(split)) > 1 LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The rows of one split of a task and the lengths of their prompts.

    Lengths are in tokens or, when a server renders the prompts, in characters; they are None when no prompt has one.
    `num_unfit` counts the rows that exceed the context together with generation.max_gen_toks; `unfit_ids` holds the
    first of their ids. `num_failed` counts the rows on which the template raises.
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
    """The rows that do not fit the context and the rows whose question contains special tokens.

    `unfit` and `marked` name the first of them; `num_marked` is None when the special tokens are unknown.
    `shares_block` is whether two prompts share a first block of the engine's cache, which could be reused; None when
    the size of a block is unknown. `odd_references` are the lines of `pipeline/prepare/references.py`.
    """

    num_rows: int
    num_unfit: int
    unfit: Sequence[str]
    num_marked: int | None = None
    marked: Sequence[str] = ()
    shares_block: bool | None = None
    odd_references: Sequence[str] = ()


def lengths(prompts: Artifact, *, in_tokens: bool) -> list[Lengths]:
    """Return the lengths of the prompts of each task and split, in tokens or in characters of their messages."""
    sql = LENGTHS_SQL.format(size="num_prompt_tokens" if in_tokens else "length(messages)", max_ids=MAX_IDS)
    with query.connection() as database:
        database.register("prompts", prompts.dataset())
        rows = query.rows(database, sql)
    return [Lengths(**row) for row in rows]


def row_facts(found: Sequence[Lengths]) -> RowFacts:
    """Return the facts about the rows that follow from their lengths."""
    return RowFacts(
        num_rows=sum(each.num_rows for each in found),
        num_unfit=sum(each.num_unfit for each in found),
        unfit=[f"{each.task} {each.split} id={row_id}" for each in found for row_id in each.unfit_ids],
    )


def count_marked(prompts: Artifact, special: Mapping[int, str], usual: int) -> tuple[int, list[str]]:
    """Return how many prompts contain more than `usual` special tokens, and the names of the first of them.

    `usual` is the number of special tokens that the template itself writes.
    """
    with query.connection() as database:
        database.register("prompts", prompts.dataset())
        found = database.execute(MARKED_SQL, {"special": list(special), "usual": usual}).fetchone()
    assert found is not None
    return int(found[0]), [f"{row['task']} {row['split']} id={row['id']}" for row in found[1]]


def shares_block(prompts: pads.Dataset, num_tokens: int, repeats: Repeats) -> bool:
    """Return whether any two prompts, each sent `repeats` times, are longer than `num_tokens` and begin with the same.

    The engine's cache never serves a prompt's last token.
    """
    with query.connection() as database:
        database.register("prompts", prompts)
        define(database, repeats)
        return database.execute(SHARED_SQL, {"num_tokens": num_tokens}).fetchone() is not None


def pick(
    prompts: Artifact, task: str, splits: Sequence[str], num_rows: int, row_id: int | None
) -> list[dict[str, Any]]:
    """Return the first `num_rows` rows of a task, split by split in the data set's order; only `row_id` unless None."""
    rows: list[dict[str, Any]] = []
    for split in splits:
        prefix = f"task={task}/split={split}/"
        files = [name for name in prompts.files if name.startswith(prefix)]
        where = None if row_id is None else pc.field("id") == row_id
        part = parquet_files(prompts.store, files, PROMPT_SCHEMA)
        rows += part.head(num_rows - len(rows), filter=where).to_pylist()
    return rows
