"""The records that pass between stages, with their Arrow schemas.

Parquet files with these schemas are the interface between stages: no stage infers a schema. A missing value is None,
never "" or 0. Times are UTC instants; durations are in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from pipeline.errors import DataError

FinishReason: TypeAlias = str
"""`stop`, `length` (cut at the token limit), `error` (failed), or a server's own word for another regular end."""

KEY_COLUMNS = ("task", "split", "id", "repeat")
"""The columns that identify a completion: a question of a split of a task, and which repeat of it."""

CATEGORIES = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
"""The type of `categories`. Older versions wrote a map, which Arrow casts to this type when it reads with a schema."""


def column(
    name: str, kind: pa.DataType, description: str, *, nullable: bool = True, added_later: bool = False
) -> pa.Field:
    """Return a column whose description is stored in the Parquet file, as the key `description` of the field.

    With `added_later`, files of older versions lack it, and it is read as null: it is last and may be null.
    """
    marks = {"added": "later"} if added_later else {}
    return pa.field(name, kind, nullable=nullable, metadata={"description": description, **marks})


PROMPT_SCHEMA = pa.schema(
    [
        column("task", pa.string(), "Name of the task.", nullable=False),
        column("split", pa.string(), "`train` (labelled) or `test` (its golds are hidden).", nullable=False),
        column("id", pa.int64(), "The question's id in the data set, unique in its task and split.", nullable=False),
        column(
            "categories",
            CATEGORIES,
            "The question's categories in the data set: a list of `{key, value}`.",
            nullable=False,
        ),
        column("doc", pa.string(), "The data set's own row, as JSON.", nullable=False),
        column(
            "messages",
            pa.string(),
            "The messages of the request as JSON, each with a role and a content.",
            nullable=False,
        ),
        column("prompt", pa.string(), "The messages rendered by the chat template; null if a server renders them."),
        column(
            "prompt_sha256",
            pa.string(),
            "SHA-256 of what is sent to the engine; it ties a completion to its prompt.",
            nullable=False,
        ),
        column("prompt_token_ids", pa.list_(pa.int32()), "The prompt's tokens; null if a server tokenizes it."),
        column("num_prompt_tokens", pa.int32(), "Number of tokens of the prompt; null if a server tokenizes it."),
        column("gold", pa.string(), "The correct answer; null if it is hidden."),
        column("error", pa.string(), "Why the row cannot be sent to the engine; null if it can."),
    ]
)

COMPLETION_SCHEMA = pa.schema(
    [
        column("task", pa.string(), "Name of the task.", nullable=False),
        column("split", pa.string(), "`train` or `test`.", nullable=False),
        column("id", pa.int64(), "The question's id in the data set.", nullable=False),
        column("repeat", pa.int32(), "Which completion of the question this is, from 0.", nullable=False),
        column("prompt_sha256", pa.string(), "`prompt_sha256` of the prompt that was sent.", nullable=False),
        column("completion", pa.string(), "All generated text, reasoning included; null if the row failed."),
        column(
            "reasoning",
            pa.string(),
            "The part of the completion that the reasoning parser takes for reasoning; null without a parser.",
        ),
        column("content", pa.string(), "The completion after the reasoning; null if the reasoning was never closed."),
        column(
            "finish_reason",
            pa.string(),
            "Why generation ended: `stop`, `length` (cut at the token limit), `error` (the row failed), or the "
            "server's own word.",
            nullable=False,
        ),
        column("num_prompt_tokens", pa.int32(), "Number of tokens of the prompt, as the engine counts them."),
        column("num_output_tokens", pa.int32(), "Number of generated tokens, reasoning included."),
        column("error", pa.string(), "Why the row failed; null if it did not."),
        column(
            "attempts",
            pa.int32(),
            "How often the row was started; more than 1 after a crash or a failed request.",
            nullable=False,
        ),
        column("replica", pa.string(), "Name of the replica that generated it."),
        column(
            "queued_s",
            pa.float64(),
            "Seconds that the row waited for a slot of the engine after it reached its replica.",
        ),
        column("generated_s", pa.float64(), "Seconds that the row spent in the engine, next to others."),
    ]
)

SAMPLE_SCHEMA = pa.schema(
    [
        PROMPT_SCHEMA.field("id"),
        COMPLETION_SCHEMA.field("repeat"),
        PROMPT_SCHEMA.field("categories"),
        column(
            "instruction",
            pa.string(),
            "Names the wording of the question: 8 hexadecimal digits of the hash of the data set's instruction "
            "without its list of options. Null if the row has no instruction.",
        ),
        column("num_options", pa.int32(), "Number of options that have text; null if there are none."),
        column(
            "answer_kind",
            pa.string(),
            "`single` or `multiple` correct letters; null if the gold is hidden or is not letters.",
        ),
        PROMPT_SCHEMA.field("messages"),
        column(
            "prompt",
            pa.string(),
            "The messages rendered by the chat template, as the engine got them; null if a server renders them.",
        ),
        column(
            "prompt_sha256",
            pa.string(),
            "SHA-256 of what is sent to the engine; equal in runs that sent the same.",
            nullable=False,
        ),
        column("num_prompt_tokens", pa.int32(), "Number of tokens of the prompt."),
        PROMPT_SCHEMA.field("gold"),
        COMPLETION_SCHEMA.field("completion"),
        COMPLETION_SCHEMA.field("reasoning"),
        column(
            "response",
            pa.string(),
            "The text that is scored and submitted: the completion after the reasoning, without leading white space; "
            "empty if the reasoning was never closed, null if the row failed.",
        ),
        column("answer", pa.string(), "The letters that were read from the response; null if no rule reads them."),
        column(
            "extraction",
            pa.string(),
            "The rule that read `answer`, or the reason why there is none: see [extraction](extraction.md).",
        ),
        COMPLETION_SCHEMA.field("finish_reason"),
        COMPLETION_SCHEMA.field("num_output_tokens"),
        column(
            "em",
            pa.float64(),
            "Exact match of response and gold, 0 or 1; null if the gold is hidden or the row failed.",
        ),
        column(
            "f1",
            pa.float64(),
            "F1 of the tokens of response and gold, from 0 to 1; null if the gold is hidden or the row failed.",
        ),
        column(
            "correct",
            pa.float64(),
            "1 if `answer` has the letters of the gold, 0 if not; null if the gold is hidden or is not letters, or "
            "the row failed.",
        ),
        COMPLETION_SCHEMA.field("error"),
        COMPLETION_SCHEMA.field("attempts"),
        COMPLETION_SCHEMA.field("replica"),
        COMPLETION_SCHEMA.field("queued_s"),
        COMPLETION_SCHEMA.field("generated_s"),
        column(
            "seen_letters",
            pa.string(),
            "The letters that an `extraction` of `conflict` or `unknown_option` is about; null for others, and in "
            "rows that older versions scored.",
            added_later=True,
        ),
    ]
)
"""One row per question and repeat; `task` and `split` are the directories `task=<t>/split=<s>/` above the file.

`instruction` (`wording_name` in score/row_scores.py), `num_options` and `answer_kind` are columns because metrics are
grouped by them.
"""

RULES_KEY = "extraction_rules"
"""Key of the samples' metadata: the version of the rules that read the answers' letters."""

METRICS_FILE = "metrics.parquet"

METRIC_SCHEMA = pa.schema(
    [
        column(
            "task",
            pa.string(),
            "Name of the task; of the domain for the level `domain`; `all` for the level `run`.",
            nullable=False,
        ),
        column(
            "level",
            pa.string(),
            "`task`, `domain` (the mean of its tasks) or `run` (the mean of the domains).",
            nullable=False,
        ),
        column("split", pa.string(), "`train` or `test`.", nullable=False),
        column(
            "group_by",
            pa.string(),
            "What the rows of a task are grouped by: see [scores](scores.md); null for all rows.",
        ),
        column("group", pa.string(), "The group's value of `group_by`; null for all rows."),
        column("metric", pa.string(), "Name of the metric.", nullable=False),
        column("value", pa.float64(), "The metric over the scored rows; null if none is scored."),
        column("stderr", pa.float64(), "Standard error of `value`; null if unknown."),
        column("ci_low", pa.float64(), "Lower end of the 95% interval."),
        column("ci_high", pa.float64(), "Upper end of the 95% interval."),
        column("bound_low", pa.float64(), "The value if all rows of `num_doubtful` were wrong."),
        column("bound_high", pa.float64(), "The value if all rows of `num_doubtful` were right."),
        column("num_total", pa.int64(), "Number of rows.", nullable=False),
        column(
            "num_scored",
            pa.int64(),
            "Number of values in the mean: of rows or, for metrics of several repeats, of questions.",
            nullable=False,
        ),
        column("num_truncated", pa.int64(), "Number of rows that were cut at the token limit.", nullable=False),
        column(
            "num_no_answer",
            pa.int64(),
            "Number of rows whose `answer` is null although they did not fail.",
            nullable=False,
        ),
        column("num_failed", pa.int64(), "Number of rows that failed.", nullable=False),
        column(
            "num_doubtful",
            pa.int64(),
            "Number of rows that were cut, are empty outside their reasoning, or failed.",
            nullable=False,
        ),
    ]
)
"""One row per task (or domain, or `all`), split, group and metric."""

FLIP_SCHEMA = pa.schema(
    [
        column("task", pa.string(), "Name of the task.", nullable=False),
        column("split", pa.string(), "`train` or `test`.", nullable=False),
        column("id", pa.int64(), "The question's id in the data set.", nullable=False),
        column("metric", pa.string(), "`em` or `correct`.", nullable=False),
        column(
            "flip",
            pa.string(),
            "`lost` (right in the baseline only) or `gained` (right in the new run only).",
            nullable=False,
        ),
        column("question", pa.string(), "The user's message."),
        column("gold", pa.string(), "The correct answer."),
        column("base_value", pa.float64(), "Mean of the metric over the baseline's repeats.", nullable=False),
        column("new_value", pa.float64(), "Mean of the metric over the new run's repeats.", nullable=False),
        column("base_answer", pa.string(), "The baseline's `answer`, of its first repeat."),
        column("new_answer", pa.string(), "The new run's `answer`, of its first repeat."),
        column("base_extraction", pa.string(), "The baseline's `extraction`, of its first repeat."),
        column("new_extraction", pa.string(), "The new run's `extraction`, of its first repeat."),
        column("base_finish_reason", pa.string(), "The baseline's `finish_reason`, of its first repeat."),
        column("new_finish_reason", pa.string(), "The new run's `finish_reason`, of its first repeat."),
        column("base_response", pa.string(), "The baseline's `response`, of its first repeat."),
        column("new_response", pa.string(), "The new run's `response`, of its first repeat."),
    ]
)
"""One row per flipped question and metric, em or correct.

A question is flipped if it is right, that is, its mean over the repeats is at least one half, in only one of the two
runs.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One rendered question. Columns: `PROMPT_SCHEMA`.

    `doc` is the data set's own row as JSON, for the leaderboard's logs. `prompt` and `prompt_token_ids` are None
    when a remote endpoint renders the chat template. A row that cannot be sent to the engine has `error` set.
    """

    task: str
    split: str
    id: int
    categories: dict[str, str]
    doc: str
    messages: str
    prompt: str | None
    prompt_sha256: str
    prompt_token_ids: list[int] | None
    num_prompt_tokens: int | None
    gold: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One generated completion. Columns: `COMPLETION_SCHEMA`.

    `completion` is the whole generated text; the reasoning parser splits it into `reasoning` and `content`.
    `content` is None if the reasoning never closed. `queued_s` is the wait in seconds for a slot of the engine after
    the row reached its replica, `generated_s` the time in the engine.
    """

    task: str
    split: str
    id: int
    repeat: int
    prompt_sha256: str
    completion: str | None
    reasoning: str | None
    content: str | None
    finish_reason: FinishReason
    num_prompt_tokens: int | None
    num_output_tokens: int | None
    error: str | None
    attempts: int
    replica: str | None
    queued_s: float | None
    generated_s: float | None


CHANGE_SCHEMA = pa.schema(
    [
        column("level", pa.string(), "`task`, `domain` or `run`.", nullable=False),
        column("task", pa.string(), "Name of the task or domain, or `all`.", nullable=False),
        column("split", pa.string(), "`train` or `test`.", nullable=False),
        column("metric", pa.string(), "Name of the metric.", nullable=False),
        column("base", pa.float64(), "The baseline's mean over the questions that both runs scored.", nullable=False),
        column("new", pa.float64(), "The new run's mean over the same questions.", nullable=False),
        column("difference", pa.float64(), "`new` minus `base`.", nullable=False),
        column("stderr", pa.float64(), "Standard error of the difference; null if unknown."),
        column("ci_low", pa.float64(), "Lower end of the difference's 95% interval.", nullable=False),
        column("ci_high", pa.float64(), "Upper end of the difference's 95% interval.", nullable=False),
        column(
            "test",
            pa.string(),
            "Name of the paired test: see [comparing runs](comparing-runs.md).",
            nullable=False,
        ),
        column("p_value", pa.float64(), "The test's p-value.", nullable=False),
        column("p_holm", pa.float64(), "The p-value adjusted for all tests of the comparison (Holm).", nullable=False),
        column("num_questions", pa.int64(), "Number of questions that both runs scored.", nullable=False),
        column(
            "num_lost",
            pa.int64(),
            "Number of questions that are right in the baseline only; null if the metric is not binary.",
        ),
        column(
            "num_gained",
            pa.int64(),
            "Number of questions that are right in the new run only; null if the metric is not binary.",
        ),
        column(
            "detectable",
            pa.float64(),
            "The smallest true difference that is detected 8 times in 10; null if no question differs.",
        ),
    ]
)
"""One row per task (or domain, or `all`), split and metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """A row of compare.parquet. Columns: `CHANGE_SCHEMA`.

    `num_parts` is the number of tasks in a domain, or of domains in a run.
    """

    level: str
    task: str
    split: str
    metric: str
    base: float
    new: float
    difference: float
    stderr: float | None
    ci_low: float
    ci_high: float
    test: str
    p_value: float
    p_holm: float
    num_questions: int
    num_lost: int | None
    num_gained: int | None
    detectable: float | None
    num_parts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of rows of samples/ by kind, and of tokens. None for a count that an older run did not record."""

    num_samples: int | None = None
    num_scored: int | None = None
    num_truncated: int | None = None
    num_no_answer: int | None = None
    num_failed: int | None = None
    num_prompt_tokens: int | None = None
    num_output_tokens: int | None = None


def is_added_later(field: pa.Field) -> bool:
    """Return whether files of older versions may lack a column."""
    return field.metadata is not None and field.metadata.get(b"added") == b"later"


def to_table(records: Iterable[Prompt | Completion | MetricChange], schema: pa.Schema) -> pa.Table:
    """Return the records as a table with exactly `schema`.

    Args:
        records: Records of one type; fields that are not columns of `schema` are dropped.
        schema: One of this module's schemas.

    Raises:
        pyarrow.ArrowInvalid: A value does not fit its column.
    """
    rows: list[dict[str, Any]] = [{f.name: getattr(r, f.name) for f in fields(r)} for r in records]
    for row in rows:
        if "categories" in row:
            row["categories"] = [{"key": key, "value": value} for key, value in row["categories"].items()]
    return pa.Table.from_pylist(rows, schema=schema)


def read_doc(doc: str) -> dict[str, Any]:
    """Return a data set row that is stored in prompts/ as JSON.

    Raises:
        DataError: It is not a JSON object: nothing of this pipeline wrote it.
    """
    try:
        row = json.loads(doc)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a row of prompts/ has a doc that is not JSON: {doc[:100]!r}: restore prompts/") from error
    if not isinstance(row, dict):
        raise DataError(f"a row of prompts/ has a doc that is no JSON object: {doc[:100]!r}: restore prompts/")
    return row


def read_messages(messages: str) -> list[dict[str, Any]]:
    """Return the messages that are stored in prompts/ as JSON: each has a role and a content.

    Raises:
        DataError: They are not: nothing of this pipeline wrote them.
    """
    try:
        found = json.loads(messages)
        if all(isinstance(each["role"], str) and isinstance(each["content"], str) for each in found):
            return list(found)
    except (ValueError, RecursionError, TypeError, LookupError):
        pass
    raise DataError(f"a row of prompts/ has messages that are none: {messages[:100]!r}: restore prompts/")


def without_nulls(value: Any) -> Any:
    """Return a data set's value without dict keys whose value is None: Arrow gives every row the keys of all rows."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


ReplicaEventKind: TypeAlias = Literal[
    "engine_starting",
    "start_failed",
    "replica_ready",
    "server_changed",
    "replicas_joined",
    "restart",
    "gave_up",
    "tries_again",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaEvent:
    """Something that has happened to a replica.

    `kind` is its name in logs/events.jsonl, where `details` is written with it; `line` is for the terminal, None if
    that shows it anyway.
    """

    kind: ReplicaEventKind
    replica: str
    line: str | None
    details: Mapping[str, str | int | float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """What a replica is doing at a moment.

    `phase` is what its start is at, with `percent` of it where the engine reports that, for `phase_s` seconds; None
    once its engine is ready, and then `num_in_flight` is how many rows the engine has. With `is_final` the replica will
    not generate again. The rest are counters of its engine: requests running and waiting now, tokens generated and
    requests preempted since it started, the used fraction of the KV cache; None is unknown.
    """

    replica: str
    phase: str | None = None
    percent: int | None = None
    phase_s: float = 0.0
    is_final: bool = False
    num_in_flight: int | None = None
    num_running: int | None = None
    num_waiting: int | None = None
    num_output_tokens: int | None = None
    num_preemptions: int | None = None
    kv_cache_usage: float | None = None
