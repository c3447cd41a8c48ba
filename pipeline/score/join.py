"""Each completion with its prompt, counted before it is scored: prompts/ and completions/ in, joined batches out.

DuckDB checks the keys of all rows at once, and joins and sorts whole rows a part at a time: sorting all of them in one
go needs memory that grows with their number, even when it spills. For each part pyarrow reads the row groups whose
statistics touch it, so files that are sorted by task, split and id are read once, others once a part.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass

import duckdb
import pyarrow as pa

from pipeline.records import COMPLETION_SCHEMA
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact
from pipeline.storage.partitions import IdRange

_KEYS = ["task", "split", "id", "prompt_sha256"]
_OF_PROMPT = [*_KEYS, "categories", "messages", "prompt", "gold", "doc", "num_prompt_tokens"]

KEYS_AT_ONCE = 200_000
"""Completions whose keys are counted at a time: DuckDB keeps about a kilobyte of each, and spills none of it."""

_KEY_COUNTS = """
WITH asked AS (
    SELECT task, split, id, count(*) AS num, min(prompt_sha256) AS sha FROM prompts
    WHERE hash(id) % $num_turns = $turn GROUP BY ALL
), answered AS (
    SELECT task, split, id, count(*) AS num, count(DISTINCT repeat) AS num_repeats,
        min(repeat) AS first, max(repeat) AS last, min(prompt_sha256) AS sha, max(prompt_sha256) AS last_sha
    FROM completions WHERE hash(id) % $num_turns = $turn GROUP BY task, split, id
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
SELECT id, repeat, categories, messages, prompt, prompts.prompt_sha256, gold, doc,
    coalesce(completions.num_prompt_tokens, prompts.num_prompt_tokens) AS num_prompt_tokens,
    completion, reasoning, content, finish_reason, num_output_tokens, completions.error, attempts, replica,
    queued_s, generated_s
FROM prompts JOIN completions USING (task, split, id)
ORDER BY id, repeat
"""


@dataclass(frozen=True, slots=True)
class KeyCounts:
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


def count_keys(
    database: duckdb.DuckDBPyConnection, prompts: Artifact, completions: Artifact, repeats: int
) -> KeyCounts:
    """Return how the keys of both stages add up; only the key columns are read, once for each `KEYS_AT_ONCE`."""
    num_turns = 1 + completions.num_rows // KEYS_AT_ONCE
    counts: Counter[str] = Counter()
    for turn in range(num_turns):
        database.register("prompts", query.scanner(prompts, _KEYS))
        database.register("completions", query.scanner(completions, [*_KEYS, "repeat"]))
        (row,) = query.rows(database, _KEY_COUNTS, {"repeats": repeats, "num_turns": num_turns, "turn": turn})
        counts.update({name: int(count) for name, count in row.items()})
    return KeyCounts(**counts)


def joined(
    database: duckdb.DuckDBPyConnection, prompts: Artifact, completions: Artifact, ids: IdRange
) -> pa.RecordBatchReader:
    """Return a range's completions with their prompts, sorted by id and repeat, as they are read.

    Columns: those of a sample that are not scores, and content and doc.
    """
    database.register("prompts", query.scanner(prompts, _OF_PROMPT, ids.rows))
    database.register("completions", query.scanner(completions, COMPLETION_SCHEMA.names, ids.rows))
    return query.batches(database, _JOINED, rows=query.BATCH_ROWS)
