"""manifest.json: what a run is, what produced it, and whether it is complete.

The file consists of frozen records; only this module reads and writes them, with `load` and `dump`. A field at its
default is not written, and a field that an older run's file lacks has its default. The file is written atomically and
last, so a reader that accepts only runs with the status `complete` never sees a partial run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError

from pipeline.errors import DataError
from pipeline.records import Counts, MetricChange
from pipeline.storage.artifacts import ARTIFACT_FILE, ArtifactStore

FILE = "manifest.json"
MOST_BYTES = 1 << 24
"""Maximum size of a manifest. A run of many sessions and replicas writes some 100 KB."""
T = TypeVar("T")
Status: TypeAlias = Literal["running", "complete", "failed"]
Json: TypeAlias = dict[str, Any]
"""A JSON object that is read from or written to a file."""

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""The format of the manifest's times, in UTC."""

_REVISION, _WARNING = "dataset_revision.", "warning."
"""Prefixes of the flat keys that `PromptMetadata` is stored under."""


def _nullable() -> Any:
    """Declare a field that is written as null when its value is unknown."""
    return field(default=None, metadata={"written": True})


def parse_time(text: str) -> datetime:
    """Return a time of the manifest.

    Raises:
        ValueError: It has another form.
    """
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)


def _time(text: str) -> str:
    parse_time(text)
    return text


def _counts(counts: Counts) -> Counts:
    for item in fields(counts):
        value = getattr(counts, item.name)
        if value is not None and not 0 <= value < 2**63:  # a larger one would overflow what is computed from it
            raise ValueError(f"{item.name} is no count")
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebase:
    """The commit of this project, and whether files differ from it."""

    commit: str
    modified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The driver's machine, and the GPUs that generated, such as `8 x NVIDIA A100-SXM4-80GB` (None: unknown)."""

    machine: str | None = None
    system: str | None = None
    num_cpus: int | None = None
    gpus: tuple[str, ...] | None = _nullable()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMetadata:
    """The sources of the prompts; stored flat with prompts/ and, without the warnings, in the manifest.

    `dataset_revisions` has for each task the commit of a hub data set, or `sha256:` and a hash of the local files.
    `model_fingerprint` is of a local model, `model_revision` the commit of a hub model. The template's fields are None
    if a server renders the prompts. `warnings` has the lines of the preflight checks by check name.
    """

    dataset_revisions: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)
    model_fingerprint: str | None = None
    chat_template_sha256: str | None = None
    template_fingerprint: str | None = None
    model_revision: str | None = None

    @classmethod
    def from_flat(cls, stored: Mapping[str, Any]) -> Self:
        """Return the record of the stored keys; unknown keys and nulls are ignored.

        Raises:
            ValueError: The value of a key is not a text.
        """
        names = {item.name for item in fields(cls)} - {"dataset_revisions", "warnings"}
        known = {name: value for name, value in stored.items() if name in names}
        parts = {"dataset_revisions": _with_prefix(stored, _REVISION), "warnings": _with_prefix(stored, _WARNING)}
        return TypeAdapter(cls).validate_python(known | parts)

    def to_flat(self) -> Json:
        """Return the keys to store."""
        stored = {f"{_REVISION}{task}": revision for task, revision in self.dataset_revisions.items()}
        stored |= {f"{_WARNING}{name}": line for name, line in self.warnings.items()}
        rest = {name: value for name, value in asdict(self).items() if isinstance(value, str)}
        return stored | rest


def _with_prefix(stored: Mapping[str, Any], prefix: str) -> Json:
    found = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a replica reported about its engine and its own lifetime; None is unknown.

    The model's shape is as the engine read it from config.json. `num_kv_blocks`, of `kv_block_size` tokens each, are
    the KV cache of one replica, and `kv_concurrency` is the number of sequences of `max_model_len` that fit into it.
    `largest_cuda_graph` and the comma-separated `cuda_graph_sizes` are in sequences. `moe_config` is the file that
    tunes the MoE kernel, or `default` if there is none for the GPU. `gpu_names` and `gpu_uuids` are comma-separated, in
    the same order; `gpu_memory_bytes` is that of the smallest GPU. `session` is the driver's session, `restarts` the
    number of starts after a crash, `gave_up` the reason why the replica stopped for good, `tries_again` the number of
    its tries after it had given up.

    `answered_by` has the names of models, comma-separated, that a server put into its answers.

    `num_preemptions` counts how often a row lost its place in the KV cache and was computed again, and
    `num_preempted_rows` the rows to which that happened. The peaks are of the rows that run and wait in the engine, and
    of the fraction of the KV cache in use. `other` keeps the keys that have no field in this version.
    """

    vllm: str | None = None
    torch: str | None = None
    transformers: str | None = None
    cuda: str | None = None
    device: str | None = None
    dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    prefix_caching: bool | None = None
    async_scheduling: bool | None = None
    largest_cuda_graph: int | None = None
    cuda_graph_mode: str | None = None
    cuda_graph_sizes: str | None = None
    moe_config: str | None = None
    kv_cache_dtype: str | None = None
    kv_block_size: int | None = None
    num_kv_blocks: int | None = None
    num_kv_tokens: int | None = None
    kv_concurrency: float | None = None
    architecture: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_kv_heads: int | None = None
    head_size: int | None = None
    num_experts: int | None = None
    num_experts_per_token: int | None = None
    vocab_size: int | None = None
    quantization: str | None = None
    num_parameters: int | None = None
    gpu_names: str | None = None
    gpu_uuids: str | None = None
    gpu_memory_bytes: int | None = None
    gpu_driver: str | None = None
    gpu_error: str | None = None
    base_url: str | None = None
    served_model: str | None = None
    answered_by: str | None = None
    server: str | None = None
    engine_start_s: float | None = None
    restarts: int | None = None
    num_preemptions: int | None = None
    num_preempted_rows: int | None = None
    peak_running: int | None = None
    peak_waiting: int | None = None
    peak_kv_cache_usage: float | None = None
    session: str | None = None
    gave_up: str | None = None
    tries_again: int | None = None
    other: Mapping[str, bool | str | int | float | None] = field(default_factory=dict)

    @classmethod
    def from_flat(cls, stored: Mapping[str, Any]) -> Self:
        """Return the record of the stored keys.

        Raises:
            pydantic.ValidationError: A value does not have the type of its field.
        """
        names = {item.name for item in fields(cls)} - {"other"}
        known = {name: value for name, value in stored.items() if name in names}
        other = {name: value for name, value in stored.items() if name not in names}
        return TypeAdapter(cls).validate_python(known | {"other": other})

    def to_flat(self) -> Json:
        """Return the keys to store, without unknown values."""
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "other"}
        return {name: value for name, value in known.items() if value is not None} | dict(self.other)


def load_engines(stored: Mapping[str, Any]) -> dict[str, EngineInfo]:
    """Return the engines' records by replica name."""
    return {str(name): EngineInfo.from_flat(info) for name, info in stored.items()}


def _object(stored: Any) -> Mapping[str, Any]:
    if not isinstance(stored, Mapping) or not all(isinstance(name, str) for name in stored):
        raise ValueError("not an object")
    return stored


Engines: TypeAlias = Annotated[Mapping[str, EngineInfo], BeforeValidator(lambda stored: load_engines(_object(stored)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The past run whose output lengths ordered the rows (None: no run), and how many of the rows it has answered.

    `model` is the run's model if that is another one.
    """

    history: str | None
    model: str | None = None
    num_known: int
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionMetadata:
    """What is stored with completions/: the order of the rows, and the engines by replica name."""

    schedule: Schedule | None = None
    engine: Engines = field(default_factory=dict)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the record of the stored keys; older versions stored both as JSON strings.

        Raises:
            ValueError: A value does not have the type of its field.
        """
        found = {name: json.loads(value) if isinstance(value, str) else value for name, value in stored.items()}
        return TypeAdapter(cls).validate_python({name: value for name, value in found.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Differences when a fraction `share` of the questions is generated twice; see `pipeline/comparison/noise.py`.

    `variance` has the variance of one question's change by metric, `variance_by_task` that of `score` by task, `spread`
    the standard deviation of the change of the run's score by split. `changed_upper` and `spread_upper` are upper 95%
    bounds of the share of changed responses and of the spread. Older runs recorded none of the bounds.
    """

    share: float
    num_questions: int
    num_changed: int
    num_failed: int | None = None
    variance: Mapping[str, float]
    spread: Mapping[str, float]
    changed_upper: float | None = None
    spread_upper: Mapping[str, float] = field(default_factory=dict)
    variance_by_task: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRule:
    """A rule of the gate: the measured value (None: nothing to measure), its limit, and a line to print."""

    name: str
    value: float | None
    limit: float | None
    broken: bool
    line: str

    @property
    def verdict(self) -> str:
        """The verdict in a word: `broken` or `kept`."""
        return "broken" if self.broken else "kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A run whose broken gate was accepted as the new normal, with the user of the system who did it, and when."""

    run: str
    by: str
    at: Annotated[str, AfterValidator(_time)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTrend:
    """The CUSUM of a domain's or the run's score over `num_runs` runs; see `pipeline/metrics/cusum.py`.

    `value` is this run's score, `mean` that of the earlier runs and `sigma` their standard deviation (None: unknown
    yet). The decline, if there is one (`statistic` above 0), began with the run `since`. `has_declined` is the verdict.
    """

    level: str
    task: str
    split: str
    num_runs: int
    value: float
    mean: float | None
    sigma: float | None
    statistic: float
    limit: float
    since: str | None
    has_declined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedAnswers:
    """How many of `num_questions` answers changed since the run `since`, and between the run `before` and that one.

    `before`, `num_before` and `p_value` are None if there is no such earlier pair.
    """

    since: str
    before: str | None
    num_questions: int
    num_changed: int
    num_before: int | None
    p_value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """The gate's result: the baseline's run_id (None: no baseline), the names of broken rules, all rules, notes.

    `verdict` is the line that `compare` begins with, of the comparison with the baseline. `baseline` is the newest of
    the pooled `baselines`; a run made before they were pooled has only the former.
    `trends` and `changed` compare more than two runs.
    """

    baseline: str | None
    broken: tuple[str, ...]
    rules: tuple[GateRule, ...]
    notes: tuple[str, ...]
    baselines: tuple[str, ...] = ()
    accepted: Acceptance | None = None
    trends: tuple[ScoreTrend, ...] = ()
    changed: ChangedAnswers | None = None
    verdict: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRecord:
    """The leaderboard's archive; `num_extracted` counts the answers that are letters extracted from the response."""

    file: str
    mode: Literal["reference", "extracted"]
    num_tasks: int
    num_answers: int
    num_extracted: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoArchive:
    """The reason why a run has no archive that the server would accept."""

    file: None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRecord:
    """The submission form, and the names of the fields left to fill in."""

    file: str
    todo: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRecord:
    """The report, the directory of its samples (None: they are inside the report), and their number."""

    file: str
    chunks: str | None
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The products of a run; None: not made by the version that ran. `answers` are the warnings about the answers."""

    answers: tuple[str, ...] = ()
    submission: ArchiveRecord | NoArchive | None = None
    card: CardRecord | None = None
    report: ReportRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the tokens of a run cost, second pass included; see `pipeline/runs/cost.py`.

    `amount` is in `currency`; None if no row has a token count. With `num_unknown` rows that have none it is a lower
    bound.
    """

    amount: float | None
    currency: str
    num_prompt_tokens: int
    num_output_tokens: int
    num_unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReason:
    """A reason why `num` rows failed, as one of them has it; `example` names that row."""

    num: int
    reason: str
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReproductionRecord:
    """The run that this one reproduces, the overridden keys, the differences, and how many completions agree."""

    run: str
    overridden: tuple[str, ...]
    differences: tuple[str, ...]
    agreement: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A run's manifest.

    `model` is the model that was evaluated: model.path, or the one that an endpoint's server serves (None: an older
    run, see pipeline/runs/evaluated.py). `packed` has the overrides of `pack`. `config` is the resolved configuration;
    `settings_hash` is computed in runs/identity.py; `failures` are the commonest reasons of failed rows; `other` keeps
    the keys that have no field in this version.
    """

    status: Status
    run_id: str | None = None
    conf: str | None = None
    started_at: Annotated[str, AfterValidator(_time)] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    codebase: Codebase | None = _nullable()
    hardware: Hardware = field(default_factory=Hardware)
    model: str | None = None
    model_fingerprint: str | None = _nullable()
    settings_hash: str | None = None
    config: Json = field(default_factory=dict)
    warnings: tuple[str, ...] = field(default=(), metadata={"written": True})
    datasets: Annotated[PromptMetadata, BeforeValidator(lambda stored: PromptMetadata.from_flat(_object(stored)))] = (
        field(default_factory=PromptMetadata)
    )
    template_fingerprint: str | None = _nullable()
    engine: Engines = field(default_factory=dict)
    again: ReproductionRecord | None = None
    schedule: Schedule | None = _nullable()
    counts: Annotated[Counts, AfterValidator(_counts)] | None = None
    cost: Cost | None = None
    failures: tuple[FailureReason, ...] = ()
    noise: Noise | None = None
    gate: GateResult | None = None
    compare: tuple[MetricChange, ...] | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    packed: tuple[str, ...] = ()
    published: Published | None = None
    ended_at: str | None = None
    rescored_at: str | None = None
    reason: str | None = None
    other: Json = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether the run finished."""
        return self.status == "complete"

    @property
    def was_complete(self) -> bool:
        """Whether the run finished and its rescore was stopped: a run that starts has no results."""
        return self.status == "running" and (self.ended_at, self.published, self.counts) != (None, None, None)

    @property
    def num_failed(self) -> int:
        """Number of failed rows, including those of the noise pass, as far as they were counted."""
        return sum(part.num_failed or 0 for part in (self.counts, self.noise) if part is not None)


_ADAPTER = TypeAdapter(Manifest)


def load(stored: Any) -> Manifest:
    """Return the manifest of a JSON value.

    Raises:
        ValueError: The value is not a manifest.
    """
    names = {item.name for item in fields(Manifest)} - {"other"}
    values = _object(stored)
    known = {name: value for name, value in values.items() if name in names}
    return _ADAPTER.validate_python(known | {"other": {name: values[name] for name in values.keys() - names}})


def dump(record: Any) -> Any:
    """Return a record, or a value inside one, as JSON values; fields at their defaults are left out, except nulls."""
    if isinstance(record, PromptMetadata):
        return replace(record, warnings={}).to_flat()
    if isinstance(record, EngineInfo):
        return record.to_flat()
    if isinstance(record, Manifest) and record.other:
        return dump(replace(record, other={})) | record.other
    if is_dataclass(record):
        return {item.name: dump(getattr(record, item.name)) for item in fields(record) if _is_written(record, item)}
    if isinstance(record, Mapping):
        return {name: dump(value) for name, value in record.items()}
    return [dump(value) for value in record] if isinstance(record, (tuple, list)) else record


def _is_written(record: Any, item: Field[Any]) -> bool:
    value = getattr(record, item.name)
    default = item.default if item.default_factory is MISSING else item.default_factory()
    return value != default or "written" in item.metadata


def write_manifest(run: ArtifactStore, manifest: Manifest) -> None:
    """Write a run's manifest.

    Raises:
        RunError: The disk is full or cannot be written.
    """
    run.write_text(FILE, json.dumps(dump(manifest), ensure_ascii=False, indent=2) + "\n")


def read_manifest(run: ArtifactStore, *, finite: bool = False) -> Manifest | None:
    """Return a run's manifest, or None if it does not exist yet.

    Args:
        run: The run's directory.
        finite: Whether a number that is infinite or not a number makes the manifest damaged.

    Raises:
        DataError: The manifest is damaged.
    """
    if not run.exists(FILE):
        return None
    number = _finite if finite else float
    try:
        return load(json.loads(run.read_text(FILE, MOST_BYTES), parse_float=number, parse_constant=number))
    except (ValueError, RecursionError) as error:  # the latter is of json, at thousands of nested lists
        raise DataError(f"{run.shown(FILE)} is damaged: delete it to resume the run{_where(error)}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def prompt_metadata(store: ArtifactStore, stored: Mapping[str, Any]) -> PromptMetadata:
    """Return what is `stored` as metadata with prompts/, which is `store`.

    Raises:
        DataError: It is damaged.
    """
    return _validated(store, stored, PromptMetadata.from_flat)


def completion_metadata(store: ArtifactStore, stored: Mapping[str, Any]) -> CompletionMetadata:
    """Return what is `stored` as metadata with completions/, which is `store`.

    Raises:
        DataError: It is damaged.
    """
    return _validated(store, stored, CompletionMetadata.from_stored)


def _validated(store: ArtifactStore, stored: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        return read(stored)
    except (ValueError, RecursionError) as error:  # the latter is of json, at thousands of nested lists
        raise DataError(
            f"{store.shown(ARTIFACT_FILE)} is damaged: delete {store.shown()} and run again{_where(error)}"
        ) from error


def _where(error: Exception) -> str:
    """Return the place of the first invalid value and what is wrong with it, in parentheses."""
    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_input=False)[0]
    return f" ({'.'.join(str(part) for part in first['loc'])}: {first['msg']})"
