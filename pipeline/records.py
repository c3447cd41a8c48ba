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

ADDED_LATER = {"added": "later"}
"""Marks a column that files of older versions lack; it is read as null. It is last and may be null."""

PROMPT_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("categories", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("doc", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32())),
        pa.field("num_prompt_tokens", pa.int32()),
        pa.field("gold", pa.string()),
        pa.field("error", pa.string()),
    ]
)

COMPLETION_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("repeat", pa.int32(), nullable=False),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("completion", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("content", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("num_prompt_tokens", pa.int32()),
        pa.field("num_output_tokens", pa.int32()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("replica", pa.string()),
        pa.field("queued_s", pa.float64()),
        pa.field("generated_s", pa.float64()),
    ]
)

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("repeat", pa.int32(), nullable=False),
        pa.field("categories", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("instruction", pa.string()),
        pa.field("num_options", pa.int32()),
        pa.field("answer_kind", pa.string()),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("num_prompt_tokens", pa.int32()),
        pa.field("gold", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("response", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("extraction", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("num_output_tokens", pa.int32()),
        pa.field("em", pa.float64()),
        pa.field("f1", pa.float64()),
        pa.field("correct", pa.float64()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("replica", pa.string()),
        pa.field("queued_s", pa.float64()),
        pa.field("generated_s", pa.float64()),
        pa.field("seen_letters", pa.string(), metadata=ADDED_LATER),
    ]
)
"""One row per question and repeat; `task` and `split` are the directories `task=<t>/split=<s>/` above the file.

`instruction` names the wording of the question: 8 hexadecimal digits of the hash of the data set's instruction without
its list of options (`wording_name` in score/row_scores.py). `num_options` counts the options that have text.
`answer_kind` is `single` or `multiple`, null if the gold is hidden or is not letters. They are columns because metrics
are grouped by them. `extraction` is the rule that read `answer`, or the reason why there is none; `seen_letters` holds
the letters that a `conflict` or `unknown_option` is about, and is null in rows that older versions scored.
"""

RULES_KEY = "extraction_rules"
"""Key of the samples' metadata: the version of the rules that read the answers' letters."""

METRIC_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("level", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group_by", pa.string()),
        pa.field("group", pa.string()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("stderr", pa.float64()),
        pa.field("ci_low", pa.float64()),
        pa.field("ci_high", pa.float64()),
        pa.field("bound_low", pa.float64()),
        pa.field("bound_high", pa.float64()),
        pa.field("num_total", pa.int64(), nullable=False),
        pa.field("num_scored", pa.int64(), nullable=False),
        pa.field("num_truncated", pa.int64(), nullable=False),
        pa.field("num_no_answer", pa.int64(), nullable=False),
        pa.field("num_failed", pa.int64(), nullable=False),
        pa.field("num_doubtful", pa.int64(), nullable=False),
    ]
)
"""One row per task (or domain, or `all`), split, group and metric; `group_by` and `group` are null for all rows.

`ci_low` and `ci_high` are the ends of the 95% interval. `num_doubtful` counts the rows that were truncated, empty or
failed; `bound_low` and `bound_high` are the value if all of these were wrong, and if all were right.
"""

FLIP_SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("flip", pa.string(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("base_value", pa.float64(), nullable=False),
        pa.field("new_value", pa.float64(), nullable=False),
        pa.field("base_answer", pa.string()),
        pa.field("new_answer", pa.string()),
        pa.field("base_extraction", pa.string()),
        pa.field("new_extraction", pa.string()),
        pa.field("base_finish_reason", pa.string()),
        pa.field("new_finish_reason", pa.string()),
        pa.field("base_response", pa.string()),
        pa.field("new_response", pa.string()),
    ]
)
"""One row per flipped question and metric, em or correct.

A question is flipped if it is right, that is, its mean over the repeats is at least one half, in only one of the two
runs. `question` is the user's message, `flip` is `lost` or `gained`, the values are means over the repeats, the texts
are those of the first repeat.
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
        pa.field("level", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("base", pa.float64(), nullable=False),
        pa.field("new", pa.float64(), nullable=False),
        pa.field("difference", pa.float64(), nullable=False),
        pa.field("stderr", pa.float64()),
        pa.field("ci_low", pa.float64(), nullable=False),
        pa.field("ci_high", pa.float64(), nullable=False),
        pa.field("test", pa.string(), nullable=False),
        pa.field("p_value", pa.float64(), nullable=False),
        pa.field("p_holm", pa.float64(), nullable=False),
        pa.field("num_questions", pa.int64(), nullable=False),
        pa.field("num_lost", pa.int64()),
        pa.field("num_gained", pa.int64()),
        pa.field("detectable", pa.float64()),
    ]
)
"""One row per task (or domain, or `all`), split and metric.

`base` and `new` are means over the questions that both runs scored, `detectable` is the smallest true difference that
is detected 8 times in 10 (null if no question differs). `num_lost` and `num_gained` are null for metrics that are not
binary.
"""


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
