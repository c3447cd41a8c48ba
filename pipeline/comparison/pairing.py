"""Pairs the questions of two runs by task, split and id: prompts/ and samples/ in, paired outcomes and flips out.

All repeats of a question form one outcome, as in `pipeline/score/outcomes.py`, so runs with different numbers of
repeats can be compared. DuckDB holds one task and split at a time, with the questions' numbers but not their texts, and
can spill it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.schema import Config
from pipeline.errors import Incomparable
from pipeline.metrics.names import BEHAVIOUR_METRICS, SAMPLE_METRICS, SCORES
from pipeline.metrics.paired_tests import Pairs
from pipeline.records import FLIP_SCHEMA, PROMPT_SCHEMA, RULES_KEY, SAMPLE_SCHEMA, read_doc
from pipeline.runs.environment_diff import RecordedRun
from pipeline.runs.manifest import Manifest
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore
from pipeline.terminal.text import escape_control, one_line

if TYPE_CHECKING:
    import pyarrow.dataset as pads

MOST_NAMED = 3
"""Questions of each kind that the error message names."""

# Only a hash of the data set row is in memory: 16 bytes, however long the question is.
_QUESTIONS_OF_RUN = "SELECT id, md5_number(doc) AS doc, gold, prompt_sha256 FROM prompts"

_DIFFERENCES = """
SELECT
    count(*) FILTER (new.id IS NULL) AS num_base_only,
    (min(base.id, $most) FILTER (new.id IS NULL)) AS base_only,
    count(*) FILTER (base.id IS NULL) AS num_new_only,
    (min(new.id, $most) FILTER (base.id IS NULL)) AS new_only,
    count(*) FILTER (is_other) AS num_other_rows,
    (min(base.id, $most) FILTER (is_other)) AS other_rows,
    count(*) FILTER (base.prompt_sha256 <> new.prompt_sha256) AS num_other_prompts,
    count(*) AS num_questions
FROM (
    SELECT base, new, base.doc <> new.doc
        OR (base.id = new.id AND base.gold IS DISTINCT FROM new.gold) AS is_other
    FROM base_prompts base FULL JOIN new_prompts new ON base.id = new.id
)
"""

_DIGEST = "SELECT count(*), sum(hash(task, split, id, gold, prompt_sha256)::HUGEINT) FROM prompts"

# Failed rows have no score and no length; `failed` is known for every row.
_QUESTIONS = """
SELECT id,
    sum(em) AS em_total, count(em) AS em_scored,
    sum(f1) AS f1_total, count(f1) AS f1_scored,
    sum((em + f1) / 2) AS score_total, count(em + f1) AS score_scored,
    sum(correct) AS correct_total, count(correct) AS correct_scored,
    sum(num_output_tokens)::DOUBLE AS output_tokens_total, count(num_output_tokens) AS output_tokens_scored,
    (count(*) FILTER (error IS NULL AND finish_reason = 'length'))::DOUBLE AS truncated_total,
    count(*) FILTER (error IS NULL) AS truncated_scored,
    (count(*) FILTER (error IS NULL AND answer IS NULL))::DOUBLE AS no_answer_total,
    count(*) FILTER (error IS NULL) AS no_answer_scored,
    count(error)::DOUBLE AS failed_total, count(*) AS failed_scored
FROM samples GROUP BY id
"""

_READ = ["id", *SAMPLE_METRICS, "num_output_tokens", "finish_reason", "answer", "error"]
_TEXTS = ["id", "repeat", "messages", "gold", "answer", "extraction", "finish_reason", "response"]

_OUTCOMES = """
SELECT base.{m}_total AS base_total, base.{m}_scored::DOUBLE AS base_scored,
    new.{m}_total AS new_total, new.{m}_scored::DOUBLE AS new_scored, count(*) AS num
FROM base_questions base JOIN new_questions new USING (id)
WHERE base.{m}_scored > 0 AND new.{m}_scored > 0
GROUP BY ALL ORDER BY ALL
"""

_FLIPPED = """
CREATE OR REPLACE TEMP TABLE flipped AS
FROM (
    SELECT id, unnest([
        {metric: 'em', base: base.em_total / nullif(base.em_scored, 0), new: new.em_total / nullif(new.em_scored, 0)},
        {metric: 'correct', base: base.correct_total / nullif(base.correct_scored, 0),
         new: new.correct_total / nullif(new.correct_scored, 0)}
    ], recursive := true)
    FROM base_questions base JOIN new_questions new USING (id)
) WHERE (base >= 0.5) <> (new >= 0.5)
"""

_FLIPS = """
SELECT $task AS task, $split AS split, flipped.id, metric, if(base < new, 'gained', 'lost') AS flip,
    json_extract_string(new_texts.messages, '$[#-1].content') AS question, new_texts.gold,
    base AS base_value, new AS new_value,
    base_texts.answer AS base_answer, new_texts.answer AS new_answer,
    base_texts.extraction AS base_extraction, new_texts.extraction AS new_extraction,
    base_texts.finish_reason AS base_finish_reason, new_texts.finish_reason AS new_finish_reason,
    base_texts.response AS base_response, new_texts.response AS new_response
FROM flipped
JOIN (SELECT * FROM base_samples WHERE repeat = 0) base_texts USING (id)
JOIN (SELECT * FROM new_samples WHERE repeat = 0) new_texts USING (id)
ORDER BY flipped.id, metric
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the two runs: its directory, configuration, manifest, prompts and samples.

    Only the repeat `repeat` is compared, or all when it is None. `pooled` are the samples of further runs over the same
    prompts, whose repeats count as repeats of this run; texts are those of this run alone.
    """

    store: ArtifactStore
    config: Config
    manifest: Manifest
    prompts: Artifact
    samples: Artifact
    repeat: int | None = None
    pooled: tuple[Artifact, ...] = ()

    @classmethod
    def of(cls, store: ArtifactStore, config: Config, manifest: Manifest) -> ComparedRun:
        """Open a run that has been scored.

        Raises:
            DataError: Its prompts or samples are missing, damaged, or of another version.
        """
        prompts = store.require_artifact("prompts", PROMPT_SCHEMA)
        samples = store.require_artifact("samples", SAMPLE_SCHEMA)
        return cls(store=store, config=config, manifest=manifest, prompts=prompts, samples=samples)

    @property
    def recorded(self) -> RecordedRun:
        """The run's record of how it was made."""
        return RecordedRun(config=self.config, manifest=self.manifest)

    @property
    def rules_version(self) -> str | None:
        """The version of the rules that read its letters; None if it was not recorded."""
        return rules_version(self.samples)

    @property
    def name(self) -> str:
        """The run's id, and the number of runs that are pooled with it."""
        others = f" and {len(self.pooled)} before it" if self.pooled else ""
        return f"{self.config.run_id}{others}"

    @property
    def is_single(self) -> bool:
        """Whether each question has one response."""
        return max(self.config.generation.repeats_by_split.values()) == 1 and not self.pooled

    def scanner(self, columns: list[str], where: pc.Expression) -> pads.Scanner:
        """Return a scanner over the samples of this run and of those pooled with it."""
        return query.pooled_scanner([self.samples, *self.pooled], columns, where)


def rules_version(samples: Artifact) -> str | None:
    """Return the version of the rules that read the letters of these samples; None if it was not recorded."""
    found = samples.metadata.get(RULES_KEY)
    return None if found is None else str(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitQuestions:
    """A task and split of both runs: the number of its questions, and of those whose prompts differ."""

    task: str
    split: str
    num_questions: int
    num_other_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedOutcomes:
    """Outcomes of a task and split in both runs, by metric; metrics that no question has are omitted."""

    task: str
    split: str
    pairs: dict[str, Pairs]


def require_same(base: ComparedRun, new: ComparedRun) -> list[SplitQuestions]:
    """Return the tasks and splits of the two runs, sorted, if their questions are the same.

    Raises:
        Incomparable: Ids differ, or an id has another data set row or another gold; the message names both runs and a
            few of these questions.
    """
    found: list[SplitQuestions] = []
    reasons: list[str] = []
    with query.connection() as database:
        for task, split in sorted(_cells(database, base.prompts) | _cells(database, new.prompts)):
            row = _differences(database, base, new, query.cell(task, split))
            counted = {name: int(row[name]) for name in ("num_questions", "num_other_prompts")}
            found.append(SplitQuestions(task=task, split=split, **counted))
            reasons += _reasons(f"{task} {split}", row)
    if reasons:
        raise Incomparable(
            f"base={base.store.shown()} and new={new.store.shown()} do not have the same questions: "
            f"{'; '.join(reasons)}. Compare runs of the same data sets, tasks, splits and limit"
        )
    return found


def _differences(
    database: duckdb.DuckDBPyConnection, base: ComparedRun, new: ComparedRun, where: pc.Expression
) -> dict[str, Any]:
    """Return the row of `_DIFFERENCES`, and as `field` what differs in the first of the other rows.

    Rows are compared as texts; where these differ, they are compared by their values: the same rows have other texts
    if they come from JSON Lines and from Parquet.
    """
    for is_parsed in (False, True):
        for name, run in (("base", base), ("new", new)):
            prompts = query.scanner(run.prompts, PROMPT_COLUMNS, where)
            database.register("prompts", _normalized(prompts) if is_parsed else prompts)
            database.execute(f"CREATE OR REPLACE TEMP TABLE {name}_prompts AS {_QUESTIONS_OF_RUN}")
        (row,) = query.rows(database, _DIFFERENCES, {"most": MOST_NAMED})
        if not row["num_other_rows"]:
            break
    if row["num_other_rows"]:
        one = where & (pc.field("id") == row["other_rows"][0])
        docs = [query.scanner(run.prompts, ["doc"], one).head(1).column("doc")[0].as_py() for run in (base, new)]
        row["field"] = differing_field(read_doc(docs[0]), read_doc(docs[1])) or "gold"
    return row


def _normalized(prompts: pads.Scanner) -> pa.RecordBatchReader:
    """Return the prompts with data set rows whose text does not depend on the format of the data set."""

    def read() -> Iterator[pa.RecordBatch]:
        for batch in prompts.to_batches():
            docs = [json.dumps(_plain(read_doc(doc)), sort_keys=True) for doc in batch.column("doc").to_pylist()]
            yield batch.set_column(batch.schema.get_field_index("doc"), "doc", pa.array(docs, pa.string()))

    return pa.RecordBatchReader.from_batches(prompts.projected_schema, read())


def _plain(value: Any) -> Any:
    """Return a JSON value in which whole numbers are integers: Parquet has one type for all numbers of a column."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def differing_field(base: Any, new: Any, name: str = "") -> str | None:
    """Return the dotted name of the first field in which two JSON values differ, or None if they are equal."""
    if isinstance(base, dict) and isinstance(new, dict):
        fields = (
            differing_field(base.get(key), new.get(key), f"{name}.{key}" if name else key)
            for key in sorted({*base, *new})
        )
        return next((field for field in fields if field is not None), None)
    return None if _plain(base) == _plain(new) else name


def prompts_digest(database: duckdb.DuckDBPyConnection, prompts: Artifact) -> str:
    """Return a digest of a run's questions and their prompts: equal for runs with exactly the same.

    The order of the rows does not matter. The digest is that of this version of DuckDB, so it is not to be stored.
    """
    database.register("prompts", query.scanner(prompts, ["task", "split", "id", "gold", "prompt_sha256"]))
    return str(database.execute(_DIGEST).fetchall())


def pair(
    database: duckdb.DuckDBPyConnection, base: ComparedRun, new: ComparedRun, split_questions: SplitQuestions
) -> PairedOutcomes:
    """Count the outcomes of the questions of one task and split in both runs.

    Args:
        database: A connection; the function replaces the temporary tables that `flips` reads.
        base: The baseline run.
        new: The new run.
        split_questions: The task and split.
    """
    database.execute("SET threads = 1")  # a fixed summation order makes the results reproducible to the last digit
    for name, run in (("base", base), ("new", new)):
        where = query.cell(split_questions.task, split_questions.split)
        if run.repeat is not None:
            where &= pc.field("repeat") == run.repeat
        database.register("samples", run.scanner(_READ, where))
        database.execute(f"CREATE OR REPLACE TEMP TABLE {name}_questions AS {_QUESTIONS}")
    pairs = {metric: _pairs(database, metric) for metric in (*SCORES, *BEHAVIOUR_METRICS)}
    database.execute(_FLIPPED)
    return PairedOutcomes(
        task=split_questions.task,
        split=split_questions.split,
        pairs={metric: each for metric, each in pairs.items() if each is not None},
    )


def flips(
    database: duckdb.DuckDBPyConnection, base: ComparedRun, new: ComparedRun, split_questions: SplitQuestions
) -> Iterator[pa.RecordBatch]:
    """Yield the flipped questions of the task and split last passed to `pair`, sorted by id, with `FLIP_SCHEMA`."""
    for name, run in (("base", base), ("new", new)):
        database.register(
            f"{name}_samples",
            query.scanner(run.samples, _TEXTS, query.cell(split_questions.task, split_questions.split)),
        )
    reader = query.batches(
        database, _FLIPS, {"task": split_questions.task, "split": split_questions.split}, rows=query.BATCH_ROWS
    )
    for batch in reader:
        yield batch.cast(FLIP_SCHEMA)


PROMPT_COLUMNS = ["id", "doc", "gold", "prompt_sha256"]


def _cells(database: duckdb.DuckDBPyConnection, prompts: Artifact) -> set[tuple[str, str]]:
    database.register("prompts", query.scanner(prompts, ["task", "split"]))
    return set(database.execute("SELECT DISTINCT task, split FROM prompts").fetchall())


def _reasons(cell: str, row: dict[str, Any]) -> list[str]:
    field = f", which differs in {escape_control(one_line(row['field'], 100))}" if "field" in row else ""
    kinds = (
        ("base_only", "only in base", ""),
        ("new_only", "only in new", ""),
        ("other_rows", "with another row or gold", field),
    )
    return [
        f"{cell}: {row[f'num_{name}']} {what} (id {', '.join(map(str, row[name]))}"
        f"{', ...' if row[f'num_{name}'] > MOST_NAMED else ''}){rest}"
        for name, what, rest in kinds
        if row[f"num_{name}"]
    ]


def _pairs(database: duckdb.DuckDBPyConnection, metric: str) -> Pairs | None:
    found = database.execute(_OUTCOMES.format(m=metric)).fetchnumpy()
    if not len(found["num"]):
        return None
    totals = {name: np.asarray(found[name], float) for name in ("base_total", "base_scored", "new_total", "new_scored")}
    return Pairs(
        base_totals=totals["base_total"],
        base_scored=totals["base_scored"],
        new_totals=totals["new_total"],
        new_scored=totals["new_scored"],
        num=np.asarray(found["num"], np.int64),
    )
