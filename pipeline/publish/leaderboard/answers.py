"""The submitted answers of the test split: prompts/, completions/ and samples/ in, one row per question out.

Repeat 0 is submitted. Rows are joined in parts, in the order of the data set, so memory does not grow with the number
of rows. Nothing here knows the archive's layout.
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

NUM_LISTED = 20
"""Maximum number of ids of a task to list."""

ROWS_PER_PART = 20_000
"""Number of questions joined and sorted at a time."""

_ROWS_PER_BATCH = 512

_LACKING = """
WITH requested AS (SELECT task, id FROM prompts),
answered AS (SELECT task, id, error FROM samples)
SELECT requested.task, count(*) AS num_questions,
    count(*) FILTER (answered.id IS NULL) AS num_missing,
    (min(requested.id, $num_listed) FILTER (answered.id IS NULL)) AS missing,
    count(answered.error) AS num_failed,
    (min(requested.id, $num_listed) FILTER (answered.error IS NOT NULL)) AS failed
FROM requested LEFT JOIN answered USING (task, id)
GROUP BY requested.task ORDER BY requested.task
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
    """The artifacts of a run that an archive is made of."""

    prompts: Artifact
    completions: Artifact
    samples: Artifact

    @classmethod
    def open(cls, run: ArtifactStore) -> Artifacts:
        """Open the artifacts of a run.

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
    """Counts of a task's test ids: those without a sample, those with an error; `missing`, `failed`: the first 20."""

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
    """The answer to a question of the test split.

    `place` is the question's position in the data set, from 0. `content` is what the server would have sent, None if
    the reasoning is not terminated; `response` is `content`, lstripped, "" for None; `answer` is the letters extracted
    from it, or None.
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
        """Return the text to submit in this `submission.mode`; if no letters were extracted, it is the response."""
        return self.answer if mode == "extracted" and self.answer is not None else self.response


def count_test_ids(database: duckdb.DuckDBPyConnection, artifacts: Artifacts) -> list[KeyCounts]:
    """Return the counts of the test ids of every task; only key columns and errors are read."""
    test = pc.field("split") == "test"
    submitted = test & (pc.field("repeat") == REPEAT)
    database.register("prompts", query.scanner(artifacts.prompts, ["task", "id"], test))
    database.register("samples", query.scanner(artifacts.samples, ["task", "id", "error"], submitted))
    return [KeyCounts(**row) for row in query.rows(database, _LACKING, {"num_listed": NUM_LISTED})]


def answers(
    database: duckdb.DuckDBPyConnection, artifacts: Artifacts, task: str, rows_per_part: int = ROWS_PER_PART
) -> Iterator[Answer]:
    """Yield a task's answers in the order of the data set; every test id must have a response."""
    places = pa.RecordBatchReader.from_batches(_PLACES, _places(artifacts.prompts, query.cell(task, "test")))
    database.register("numbered", places)
    database.execute("CREATE OR REPLACE TEMP TABLE places AS SELECT * FROM numbered")
    for row in query.rows(database, _PARTS, {"rows": rows_per_part}):
        ids = IdRange(task=task, split="test", **row)
        submitted = ids.rows & (pc.field("repeat") == REPEAT)
        database.register("prompts", query.scanner(artifacts.prompts, ["id", "doc", "messages", "gold"], ids.rows))
        database.register("completions", query.scanner(artifacts.completions, ["id", "content"], submitted))
        columns = ["id", "response", "answer", "em", "f1"]
        database.register("samples", query.scanner(artifacts.samples, columns, submitted))
        part = {"rows": rows_per_part, "number": ids.number}
        for batch in query.batches(database, _JOINED, part, rows=_ROWS_PER_BATCH):
            yield from (Answer(**row) for row in batch.to_pylist())


def num_questions(artifacts: Artifacts, task: str) -> int:
    """Return the number of a task's test questions in the run."""
    where = query.cell(task, "test")
    return int(artifacts.prompts.dataset().count_rows(filter=where))


def question_ids(run: ArtifactStore, task: str) -> Iterator[int]:
    """Yield the ids of a task's test questions in a run.

    Raises:
        DataError: The run has no prompts, or they are damaged.
    """
    where = query.cell(task, "test")
    try:
        for batch in query.scanner(run.require_artifact("prompts", PROMPT_SCHEMA), ["id"], where).to_batches():
            yield from batch.column("id").to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{run.shown('prompts')} is damaged: {error}. Delete it and run again") from error


def _places(prompts: Artifact, where: pc.Expression) -> Iterator[pa.RecordBatch]:
    """Yield the ids with their position; DuckDB does not guarantee the order in which it reads rows."""
    num_before = 0
    for batch in query.scanner(prompts, ["id"], where).to_batches():
        place = pa.array(range(num_before, num_before + batch.num_rows), pa.int64())
        num_before += batch.num_rows
        yield pa.RecordBatch.from_arrays([place, batch.column("id")], schema=_PLACES)
