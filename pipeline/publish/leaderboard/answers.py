"""The test split's answers as they are submitted: prompts/, completions/ and samples/ in, one row a question out.

What is submitted is repeat 0. Rows come in the data set's own order, a part of it at a time, so memory does not grow
with the rows. Nothing here knows the archive's layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, SAMPLE_SCHEMA
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.storage.partitions import IdRange

Mode: TypeAlias = Literal["reference", "extracted"]

REPEAT = 0
"""The repeat that is submitted."""

NUM_SHOWN = 20
"""Ids of a task that are listed, at most."""

ROWS_PER_PART = 20_000
"""Questions that are joined and sorted at a time."""

_ROWS_PER_BATCH = 512

_LACKING = """
WITH asked AS (SELECT task, id FROM prompts),
answered AS (SELECT task, id, error FROM samples)
SELECT asked.task, count(*) AS num_questions,
    count(*) FILTER (answered.id IS NULL) AS num_missing,
    (min(asked.id, $shown) FILTER (answered.id IS NULL)) AS missing,
    count(answered.error) AS num_failed,
    (min(asked.id, $shown) FILTER (answered.error IS NOT NULL)) AS failed
FROM asked LEFT JOIN answered USING (task, id)
GROUP BY asked.task ORDER BY asked.task
"""

_PARTS = """
SELECT place // $rows AS number, min(id) AS first_id, max(id) AS last_id FROM places GROUP BY number ORDER BY number
"""

_JOINED = """
SELECT place, id, doc, messages, gold, content, response, answer, em, f1
FROM places JOIN prompts USING (id) JOIN completions USING (id) JOIN samples USING (id)
WHERE place // $rows = $number ORDER BY place
"""

_PLACES = pa.schema([pa.field("place", pa.int64()), pa.field("id", pa.int64())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """The stages of a run that an archive is made of."""

    prompts: Artifact
    completions: Artifact
    samples: Artifact

    @classmethod
    def open(cls, run: ArtifactStore) -> Artifacts:
        """Open the stages.

        Raises:
            DataError: One is missing or damaged.
        """
        return cls(
            prompts=run.require_artifact("prompts", PROMPT_SCHEMA),
            completions=run.require_artifact("completions", COMPLETION_SCHEMA),
            samples=run.require_artifact("samples", SAMPLE_SCHEMA),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyCounts:
    """How a task's test ids stand: `missing` have no sample, `failed` have one with an error; the first 20 of each."""

    task: str
    num_questions: int
    num_missing: int
    missing: list[int] | None
    num_failed: int
    failed: list[int] | None

    @property
    def is_whole(self) -> bool:
        """Whether every id has a response."""
        return self.num_missing == self.num_failed == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question of a test split, answered.

    `place` is its place in the data set, from 0. `content` is what the server would have sent, None when the thoughts
    never closed; `response` is the same, lstripped, "" for None; `answer` the letters read from it, or None.
    """

    place: int
    id: int
    doc: str
    messages: str
    gold: str | None
    content: str | None
    response: str
    answer: str | None
    em: float | None
    f1: float | None

    def outputs(self, mode: Mode) -> str:
        """Return what is submitted in this `submission.mode`; without readable letters it is always the response."""
        return self.answer if mode == "extracted" and self.answer is not None else self.response


def count_test_ids(database: duckdb.DuckDBPyConnection, stages: Artifacts) -> list[KeyCounts]:
    """Return how the test ids of every task stand; only key columns and errors are read."""
    test = pc.field("split") == "test"
    submitted = test & (pc.field("repeat") == REPEAT)
    database.register("prompts", query.scanner(stages.prompts, ["task", "id"], test))
    database.register("samples", query.scanner(stages.samples, ["task", "id", "error"], submitted))
    return [KeyCounts(**row) for row in query.rows(database, _LACKING, {"shown": NUM_SHOWN})]


def answers(
    database: duckdb.DuckDBPyConnection, stages: Artifacts, task: str, rows_per_part: int = ROWS_PER_PART
) -> Iterator[Answer]:
    """Yield a task's test rows in the order of the data set; every id must have a response."""
    places = pa.RecordBatchReader.from_batches(_PLACES, _places(stages.prompts, query.cell(task, "test")))
    database.register("numbered", places)
    database.execute("CREATE OR REPLACE TEMP TABLE places AS SELECT * FROM numbered")
    for row in query.rows(database, _PARTS, {"rows": rows_per_part}):
        ids = IdRange(task=task, split="test", **row)
        submitted = ids.rows & (pc.field("repeat") == REPEAT)
        database.register("prompts", query.scanner(stages.prompts, ["id", "doc", "messages", "gold"], ids.rows))
        database.register("completions", query.scanner(stages.completions, ["id", "content"], submitted))
        columns = ["id", "response", "answer", "em", "f1"]
        database.register("samples", query.scanner(stages.samples, columns, submitted))
        part = {"rows": rows_per_part, "number": ids.number}
        for batch in query.batches(database, _JOINED, part, rows=_ROWS_PER_BATCH):
            yield from (Answer(**row) for row in batch.to_pylist())


def num_questions(stages: Artifacts, task: str) -> int:
    """Return how many test questions a task has in the run."""
    where = query.cell(task, "test")
    return int(stages.prompts.dataset().count_rows(filter=where))


def question_ids(run: ArtifactStore, task: str) -> Iterator[int]:
    """Yield the ids of a task's test questions, as a run was asked them.

    Raises:
        DataError: The run has no prompts, or they are damaged.
    """
    where = query.cell(task, "test")
    try:
        for batch in query.scanner(run.require_artifact("prompts", PROMPT_SCHEMA), ["id"], where).to_batches():
            yield from batch.column("id").to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{run.path('prompts')} is damaged: {error}. Delete it and run again") from error


def _places(prompts: Artifact, where: pc.Expression) -> Iterator[pa.RecordBatch]:
    """Yield the ids with their place; DuckDB promises no order of what it reads."""
    num_before = 0
    for batch in query.scanner(prompts, ["id"], where).to_batches():
        place = pa.array(range(num_before, num_before + batch.num_rows), pa.int64())
        num_before += batch.num_rows
        yield pa.RecordBatch.from_arrays([place, batch.column("id")], schema=_PLACES)
