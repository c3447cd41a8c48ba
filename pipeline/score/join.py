"""Joins completions with their prompts and verifies their keys: prompts/ and completions/ in, joined batches out.

DuckDB verifies the keys of all rows first, then joins and sorts whole rows one id range at a time: a single sort of all
rows needs memory that grows with their number, even when it spills. For each range pyarrow reads only the row groups
whose statistics overlap it, so files sorted by task, split and id are read once and other files once per range.
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
"""Completions whose keys are counted at a time: DuckDB keeps about a kilobyte per key and cannot spill it."""

_KEY_COUNTS = """
WITH expected AS (
    SELECT task, split, id, count(*) AS num, min(prompt_sha256) AS sha FROM prompts
    WHERE hash(id) % $num_turns = $turn GROUP BY ALL
), completed AS (
    SELECT task, split, id, count(*) AS num, count(DISTINCT repeat) AS num_repeats,
        min(repeat) AS first, max(repeat) AS last, min(prompt_sha256) AS sha, max(prompt_sha256) AS last_sha
    FROM completions WHERE hash(id) % $num_turns = $turn GROUP BY task, split, id
)
SELECT
    count(expected.num) AS num_prompts,
    coalesce(sum(completed.num), 0) AS num_completions,
    coalesce(sum(expected.num - 1), 0) AS num_prompts_twice,
    count(*) FILTER (expected.num IS NULL) AS num_unasked,
    coalesce(sum(completed.num - completed.num_repeats), 0) AS num_completions_twice,
    coalesce(sum(repeats_of(split) - coalesce(completed.num_repeats, 0)) FILTER (expected.num IS NOT NULL), 0)
        AS num_lost,
    count(*) FILTER (first < 0 OR last >= repeats_of(split)) AS num_beyond_repeats,
    count(*) FILTER (completed.sha <> expected.sha OR completed.last_sha <> expected.sha) AS num_other_prompt,
FROM expected FULL JOIN completed USING (task, split, id)
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
    """Counts of mismatches between the keys of prompts and completions; every field after the first two must be 0.

    `num_prompts` counts distinct questions. The key of a prompt is (task, split, id), that of a completion (task,
    split, id, repeat).
    """

    num_prompts: int
    num_completions: int
    num_prompts_twice: int
    num_unasked: int
    num_completions_twice: int
    num_lost: int
    num_beyond_repeats: int
    num_other_prompt: int

    def require_whole(self, expected: int) -> None:
        """Raise unless each prompt has exactly its repeats from 0 on, generated from that very prompt.

        Raises:
            RuntimeError: An earlier stage lost or invented rows (a bug of the pipeline); the message has every count.
        """
        if any(astuple(self)[2:]) or self.num_completions != expected:
            raise RuntimeError(f"prompts and completions do not add up, {expected} are expected: {self}")


def count_keys(database: duckdb.DuckDBPyConnection, prompts: Artifact, completions: Artifact) -> KeyCounts:
    """Return the counts of both artifacts' keys; it reads only the key columns, once per `KEYS_AT_ONCE` completions.

    `repeats_of` is defined in the database: see `pipeline/storage/repeats.py`.
    """
    num_turns = 1 + completions.num_rows // KEYS_AT_ONCE
    counts: Counter[str] = Counter()
    for turn in range(num_turns):
        database.register("prompts", query.scanner(prompts, _KEYS))
        database.register("completions", query.scanner(completions, [*_KEYS, "repeat"]))
        (row,) = query.rows(database, _KEY_COUNTS, {"num_turns": num_turns, "turn": turn})
        counts.update({name: int(count) for name, count in row.items()})
    return KeyCounts(**counts)


def joined(
    database: duckdb.DuckDBPyConnection, prompts: Artifact, completions: Artifact, ids: IdRange
) -> pa.RecordBatchReader:
    """Return an iterator over a range's completions with their prompts, sorted by id and repeat.

    Columns: those of a sample that are not scores, and content and doc.
    """
    database.register("prompts", query.scanner(prompts, _OF_PROMPT, ids.rows))
    database.register("completions", query.scanner(completions, COMPLETION_SCHEMA.names, ids.rows))
    return query.batches(database, _JOINED, rows=query.BATCH_ROWS)
