"""Each completion with its prompt, counted before it is scored: prompts/ and completions/ in, joined batches out.

DuckDB checks the keys and joins and sorts the rows, on disk where they do not fit in memory; pyarrow reads the files,
a few row groups at a time.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from pipeline import duck
from pipeline.records import COMPLETION_SCHEMA
from pipeline.store import Stage

BATCH_ROWS = 4096
"""Rows scored and written at a time, as one row group; at 10,000 tokens a row it is about 200 MB."""

_KEYS = ["task", "split", "id", "prompt_sha256"]
_OF_PROMPT = [*_KEYS, "categories", "messages", "prompt", "gold", "doc", "num_prompt_tokens"]

_ACCOUNT = """
WITH asked AS (
    SELECT task, split, id, count(*) AS num, min(prompt_sha256) AS sha FROM prompts GROUP BY ALL
), answered AS (
    SELECT task, split, id, count(*) AS num, count(DISTINCT repeat) AS num_repeats,
        min(repeat) AS first, max(repeat) AS last, min(prompt_sha256) AS sha, max(prompt_sha256) AS last_sha
    FROM completions GROUP BY task, split, id
)
SELECT
    count(asked.num) AS num_prompts,
    coalesce(sum(answered.num), 0) AS num_completions,
    coalesce(sum(asked.num - 1), 0) AS num_prompts_twice,
    count(*) FILTER (asked.num IS NULL) AS num_unasked,
    coalesce(sum(answered.num - answered.num_repeats), 0) AS num_completions_twice,
    coalesce(sum($repeats - coalesce(answered.num_repeats, 0)) FILTER (asked.num IS NOT NULL), 0) AS num_lost,
    count(*) FILTER (first < 0 OR last >= $repeats) AS num_beyond_repeats,
    count(*) FILTER (answered.sha <> asked.sha OR answered.last_sha <> asked.sha) AS num_other_prompt,
FROM asked FULL JOIN answered USING (task, split, id)
"""

_JOINED = """
SELECT task, split, id, repeat, categories, messages, prompt, prompts.prompt_sha256, gold, doc,
    coalesce(completions.num_prompt_tokens, prompts.num_prompt_tokens) AS num_prompt_tokens,
    completion, reasoning, content, finish_reason, num_output_tokens, completions.error, attempts, replica,
    queued_s, generated_s
FROM prompts JOIN completions USING (task, split, id)
ORDER BY task, split, id, repeat
"""


@dataclass(frozen=True, slots=True)
class Account:
    """How the completions' keys stand against the prompts'; every field after the first two must be 0.

    `num_prompts` counts different questions. A key is (task, split, id), and (task, split, id, repeat) of a completion.
    """

    num_prompts: int
    num_completions: int
    num_prompts_twice: int
    num_unasked: int
    num_completions_twice: int
    num_lost: int
    num_beyond_repeats: int
    num_other_prompt: int

    def require_whole(self, repeats: int) -> None:
        """Raise unless each prompt has exactly the completions 0 to `repeats` - 1, made for that very prompt.

        Raises:
            RuntimeError: A room before this one lost or invented rows; the message has every count.
        """
        if any(astuple(self)[2:]) or self.num_completions != self.num_prompts * repeats:
            raise RuntimeError(f"prompts and completions do not add up with {repeats} repeats: {self}")


def account(database: duckdb.DuckDBPyConnection, prompts: Stage, completions: Stage, repeats: int) -> Account:
    """Return how the keys of both stages add up; only the key columns are read."""
    database.register("prompts", _scanner(prompts, _KEYS))
    database.register("completions", _scanner(completions, [*_KEYS, "repeat"]))
    relation = database.sql(_ACCOUNT, params={"repeats": repeats})
    assert relation is not None  # a SELECT has a result
    (row,) = relation.to_arrow_table().to_pylist()
    return Account(**{name: int(count) for name, count in row.items()})


def joined(database: duckdb.DuckDBPyConnection, prompts: Stage, completions: Stage) -> pa.RecordBatchReader:
    """Return every completion with its prompt, sorted by task, split, id and repeat, as it is read.

    Columns: those of a sample that are not scores, and task, split, content and doc.
    """
    database.register("prompts", _scanner(prompts, _OF_PROMPT))
    database.register("completions", _scanner(completions, COMPLETION_SCHEMA.names))
    return duck.batches(database, _JOINED, rows=BATCH_ROWS)


def _scanner(stage: Stage, columns: list[str]) -> pads.Scanner:
    """Return a stage's columns to read in order; without its bounds Arrow reads gigabytes ahead."""
    return stage.dataset().scanner(
        columns=columns, batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1, use_threads=False
    )
