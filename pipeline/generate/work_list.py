"""The work list: the rows that are still to be generated, longest expected first or shuffled.

In: the prompts, the journals, and the lengths of a past run. Out: Parquet files of `WORK_SCHEMA` in the run's work/, in
the order in which rows should start. Rows that are finished, and prompts with an error, are not in it.

A row's rank is the length of the same prompt's completion in the past run (of the same question's, if that run is of
another model), else the mean of its task and split there, else of its task, else of all rows; without a past run it is
the length of the prompt, which is a weak estimate. Rows of one rank are sorted by the length of their prompts, then by
their keys. Of a finished row and of a prompt with a known length a few bytes are held in memory; the rows themselves
are distributed by rank over spill partitions on disk, and each partition is sorted on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.generate import length_estimates
from pipeline.generate.length_estimates import Lengths
from pipeline.records import COMPLETION_SCHEMA, KEY_COLUMNS, Completion, column
from pipeline.runs.manifest import Schedule
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.storage.partitions import MAX_PARTITIONS, SpillPartitions, spill_partitions
from pipeline.storage.repeats import Repeats, define
from pipeline.terminal.text import escape_control, truncate

DIRECTORY = "work"

ROWS_PER_PARTITION = 20_000
"""Rows that are sorted at a time; at 1,000 tokens a prompt they are about 100 MB."""

LONGEST_NAME = 200
"""Characters of a model's name that are shown."""

MOST_SORTED_ROWS = 100_000
"""A partition of more rows is not sorted: so many rows of one rank stay in the order of the prompts."""

WORK_SCHEMA = pa.schema(
    [
        *(COMPLETION_SCHEMA.field(name) for name in KEY_COLUMNS),
        column("prompt_sha256", pa.string(), "`prompt_sha256` of the prompt to send.", nullable=False),
        column("messages", pa.string(), "The messages as JSON, if a server renders them."),
        column("prompt_token_ids", pa.list_(pa.int32()), "The prompt's tokens, if the engine gets tokens."),
        column("expected_tokens", pa.float32(), "Length of the completion by the past run; null if unknown."),
    ]
)
"""`expected_tokens` is the length of the completion by the past run, for the estimate of the time that is left."""

RANKED_SCHEMA = pa.schema(
    [
        *WORK_SCHEMA,
        column("rank", pa.int64(), "Rank of the row's expected length among all."),
        column("length", pa.int64(), "Expected length of the completion."),
    ]
)

FINISHED_SCHEMA = pa.schema([WORK_SCHEMA.field(name) for name in (*KEY_COLUMNS, "prompt_sha256")])

_FINISHED = "CREATE TABLE finished (task VARCHAR, split VARCHAR, id BIGINT, repeat INTEGER, prompt UBIGINT)"
_ADD_FINISHED = "INSERT INTO finished SELECT task, split, id, repeat, hash(prompt_sha256) FROM chunk"

_TODO = """
    WITH todo AS (
        SELECT p.* EXCLUDE (number), CAST(number AS INTEGER) AS repeat, known.tokens IS NOT NULL AS is_known,
            coalesce(p.num_prompt_tokens, length(p.messages))::BIGINT AS length,
            coalesce(known.tokens, same.tokens, task.tokens, whole.tokens) AS expected_tokens,
            if($shuffled, hash(p.task, p.split, p.id, number) % 100_000, round(coalesce(expected_tokens, length))
            )::BIGINT AS rank
        FROM (SELECT *, unnest(range(repeats_of(split))) AS number FROM prompts WHERE error IS NULL) p
        LEFT JOIN by_prompt known ON known.prompt = if($by_question, hash(p.task, p.split, p.id), hash(p.prompt_sha256))
        LEFT JOIN by_task same ON same.task = p.task AND same.split = p.split
        LEFT JOIN by_task task ON task.task = p.task AND task.split IS NULL
        LEFT JOIN by_task whole ON whole.task IS NULL
        ANTI JOIN finished f ON f.task = p.task AND f.split = p.split AND f.id = p.id
            AND f.repeat = number AND f.prompt = hash(p.prompt_sha256)
    )
"""
_RANKS = """
    SELECT rank, count(*), count(*) FILTER (is_known),
        CASE WHEN count(expected_tokens) = count(*) THEN sum(expected_tokens) END
    FROM todo GROUP BY rank ORDER BY rank DESC
"""
_RANKED = """
    SELECT task, split, id, repeat, prompt_sha256, CASE WHEN prompt_token_ids IS NULL THEN messages END AS messages,
        prompt_token_ids, expected_tokens, rank, length FROM todo
"""
_UNSORTED = "SELECT * EXCLUDE (rank, length) FROM spilled"
_SORTED = f"{_UNSORTED} ORDER BY rank DESC, length DESC, task, split, id, repeat"

_NARROW = ["task", "split", "id", "prompt_sha256", "messages", "num_prompt_tokens", "error"]
_WIDE = [*_NARROW, "prompt_token_ids"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work list: its files, relative to the run, in the order of the work.

    `history` is the run whose lengths determine the order, or None, and `model` its model if it is another one; it has
    completions for the prompts, or of another model for the questions, of `num_known` of the `num_rows` rows, and its
    lengths let expect `expected_tokens` output tokens of all (None: unknown).
    """

    files: Sequence[str]
    num_rows: int
    history: str | None
    model: str | None = None
    num_known: int
    expected_tokens: float | None = None
    is_shuffled: bool = False

    @property
    def schedule(self) -> Schedule:
        """What is recorded of the order."""
        return Schedule(history=self.history, model=self.model, num_known=self.num_known, num_rows=self.num_rows)

    @property
    def order(self) -> str:
        """A description of the order, for the user."""
        if self.is_shuffled:
            return f"noise pass: {self.num_rows:,} rows a second time, in another order"
        if self.history is None:
            return "no earlier run has their lengths: longest prompts first"
        of_model = f" of {escape_control(truncate(self.model, LONGEST_NAME))}" if self.model is not None else ""
        return f"longest first by run {self.history}{of_model}, which has answered {self.num_known} of {self.num_rows}"


def write_work(
    run: ArtifactStore,
    prompts: Artifact,
    finished: Iterable[Completion],
    repeats: Repeats,
    lengths: Lengths | None = None,
    *,
    shuffled: bool = False,
) -> Work:
    """Write the work list, in place of a previous one, and return it.

    Args:
        run: The run's directory.
        prompts: Its prompts.
        finished: Completions that are not generated again.
        repeats: Completions a question.
        lengths: Completion lengths of a past run.
        shuffled: Whether the order is independent of lengths; it is the same each time.

    Raises:
        RunError: The run's directory or the temporary one is full.
    """
    run.remove(DIRECTORY)
    names: list[str] = []
    with query.connection() as database, spill_partitions(RANKED_SCHEMA) as partitions:
        lengths = lengths or length_estimates.none()
        _load(database, finished, lengths)
        database.register("prompts", query.scanner(prompts, _NARROW))
        define(database, repeats)
        parameters = {"shuffled": shuffled, "by_question": lengths.is_by_question}
        ranks = database.execute(_TODO + _RANKS, parameters).fetchall()
        lowest = _lowest_ranks([(rank, num_rows) for rank, num_rows, *_ in ranks])
        database.register("prompts", query.scanner(prompts, _WIDE))
        _spill(query.batches(database, _TODO + _RANKED, parameters, rows=query.BATCH_ROWS), lowest, partitions)
        for number, num_rows in enumerate(lowest.values()):
            name = f"{DIRECTORY}/part-{number:05d}.parquet"
            database.register("spilled", partitions.read(number))
            sql = _SORTED if num_rows <= MOST_SORTED_ROWS else _UNSORTED
            run.write_parquet(name, WORK_SCHEMA, query.batches(database, sql, rows=query.BATCH_ROWS))
            names.append(name)
    return Work(
        files=names,
        num_rows=sum(lowest.values()),
        history=lengths.run_id or None,
        model=lengths.model,
        num_known=sum(num_known for _, _, num_known, _ in ranks),
        expected_tokens=None if any(rank[3] is None for rank in ranks) else float(sum(rank[3] for rank in ranks)),
        is_shuffled=shuffled,
    )


def _load(database: duckdb.DuckDBPyConnection, finished: Iterable[Completion], lengths: Lengths) -> None:
    # In the order in which they are written, the joins hold their right sides: keys and lengths, never the prompts.
    database.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
    database.register("by_prompt", lengths.by_prompt)
    database.register("by_task", lengths.by_task)
    database.execute(_FINISHED)
    for keys in _keys(finished):
        database.register("chunk", keys)
        database.execute(_ADD_FINISHED)


def _keys(finished: Iterable[Completion]) -> Iterator[pa.Table]:
    keys = ((each.task, each.split, each.id, each.repeat, each.prompt_sha256) for each in finished)
    while chunk := list(islice(keys, ROWS_PER_PARTITION)):
        yield pa.table(list(zip(*chunk, strict=True)), schema=FINISHED_SCHEMA)


def _lowest_ranks(ranks: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the lowest rank of each spill partition, descending, with the partition's number of rows.

    Args:
        ranks: Each rank with its number of rows, descending. A partition holds whole ranks.
    """
    size = max(ROWS_PER_PARTITION, sum(num_rows for _, num_rows in ranks) // MAX_PARTITIONS + 1)
    lowest: list[tuple[int, int]] = []
    for rank, num_rows in ranks:
        before = lowest.pop() if lowest and lowest[-1][1] + num_rows <= size else (rank, 0)
        lowest.append((rank, before[1] + num_rows))
    return dict(lowest)


def _spill(batches: Iterable[pa.RecordBatch], lowest: Iterable[int], partitions: SpillPartitions) -> None:
    """Add each row to the partition of its rank."""
    ascending = -np.array(list(lowest), np.int64)
    for batch in batches:
        rows = batch.cast(RANKED_SCHEMA)
        partitions.add(rows, np.searchsorted(ascending, -rows.column("rank").to_numpy()))
