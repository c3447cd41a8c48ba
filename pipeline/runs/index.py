"""The index of output_dir: a small JSON file for each complete run, by which past runs are found without reading all.

In: the manifest, config.yaml and metrics.parquet of a complete run. Out: index/<model>/<ended_at>__<run_id>.json next
to the runs, and `newest`, which yields these records, newest first, from two listings whatever the number of runs. An
entry that is absent or damaged is made again from its run, and one whose run is gone is passed over, so the index holds
nothing of its own and may be deleted. Runs and entries may be those of other people: what cannot be read is reported
and left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter

from pipeline.config import loading, plain_yaml
from pipeline.config.paths import portable_path
from pipeline.config.plain_yaml import value
from pipeline.config.schema import RUN_ID, Config
from pipeline.errors import DataError, GateFailed, RunError, TooManyFailedRows, UserError
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.records import METRIC_SCHEMA
from pipeline.runs.directory import CONFIG_FILE
from pipeline.runs.manifest import GateResult, Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore

DIRECTORY = "index"
RUN_PREFIX = "run="

MOST_RUNS = 20
"""Maximum number of runs that `newest` yields by default; older ones do not improve an estimate."""

MOST_READ = 200
"""Maximum number of entries that one call of `newest` reads."""

NUM_AT_ONCE = 16
"""Entries that are read at the same time."""

MOST_BYTES = 1 << 18
"""Maximum size of an entry. Most have 2 to 4 KB."""

MOST_METRIC_ROWS = 100_000
"""A metrics.parquet with more rows is not read."""

_NAME = re.compile(rf"{DIRECTORY}/([^/]+)/([0-9A-Za-z:.+-]*)__({RUN_ID})\.json")

Text: TypeAlias = Annotated[str, Field(max_length=1_000)]
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]

ScoreNumber: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A score, which is a share or a percentage: what is far outside of these is no score, and cannot be drawn."""

ModelKey: TypeAlias = tuple[Text | None, ...]
"""What identifies a model, without its revision: the engine's kind, then the path, or the server and its model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryGate:
    """The gate's verdict: the baseline's run_id (None: no baseline) and the names of the broken rules.

    `accepts` is the run_id of an earlier run that this one accepts as the new normal.
    """

    baseline: Text | None
    broken: tuple[Text, ...]
    accepts: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryScore:
    """The value of a headline metric over all rows of a task, a domain or the run, with its 95% interval."""

    level: Text
    task: Text
    split: Text
    metric: Text
    value: ScoreNumber | None
    ci_low: ScoreNumber | None
    ci_high: ScoreNumber | None
    num_scored: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A complete run, as the index has it. A field is None if the run did not record it.

    `data` has the fingerprint or commit of each task's data set, `tasks` and `splits` those that ran, `num_slots` the
    completions in flight at once in one replica. `gate` is None where no rule was set, `scores` where metrics.parquet
    cannot be read. `seconds` are those of the last session. `report` is relative to output_dir. `domains` has the
    domain of each task; entries of an older version lack it, and the numbers of scored rows (`is_of_this_version`).
    `pruned_at` is when the run was pruned (pipeline/overview/prune.py). `cost` is in `currency`; with `is_cost_bound`
    it is a lower bound, since the server did not count the tokens of all rows.
    """

    run_id: Annotated[str, Field(pattern=f"^{RUN_ID}$")]
    model: ModelKey
    served_model: Text | None
    conf: Text | None
    started_at: Text | None
    ended_at: Text | None
    rescored_at: Text | None
    status: Literal["complete"]
    exit_code: int
    settings_hash: Text | None
    model_fingerprint: Text | None
    model_revision: Text | None
    template_fingerprint: Text | None
    data: Mapping[Text, Text]
    tasks: Annotated[tuple[Text, ...], Field(min_length=1)]
    splits: tuple[Text, ...]
    limit: Count | None
    repeats: Count | Mapping[Text, Count]
    max_gen_toks: Count
    num_slots: Count
    gate: EntryGate | None
    scores: tuple[EntryScore, ...] | None
    num_rows: Count | None
    num_failed: Count | None
    num_output_tokens: Count | None
    seconds: Number | None
    report: Text | None
    cost: Number | None = None
    currency: Text | None = None
    is_cost_bound: bool = False
    domains: Mapping[Text, Text] | None = None
    pruned_at: Text | None = None

    @property
    def is_of_this_version(self) -> bool:
        """Whether the entry has all fields that this version writes; one of an older version is made again."""
        return self.domains is not None

    @property
    def kept_gate(self) -> bool:
        """Whether no rule of the gate was broken."""
        return self.gate is None or not self.gate.broken

    def is_of(self, manifest: Manifest) -> bool:
        """Return whether the entry was made of this state of the run."""
        return (self.ended_at, self.rescored_at) == (manifest.ended_at, manifest.rescored_at)

    def shares_tasks(self, config: Config) -> bool:
        """Return whether the run has a task of `config`."""
        return bool(set(self.tasks) & set(config.active_tasks))

    def same_tasks(self, revisions: Mapping[str, str]) -> list[str]:
        """Return the run's tasks whose data sets have these revisions: their questions have the same ids."""
        return [task for task in self.tasks if task in self.data and self.data[task] == revisions.get(task)]

    @property
    def model_name(self) -> str:
        """The model as the configuration or the server names it."""
        return self.served_model or name_of(self.model) or "?"

    def covers(self, config: Config) -> bool:
        """Return whether the run has at least the tasks, splits and rows of `config`."""
        rows = self.limit is None or (config.limit is not None and config.limit <= self.limit)
        return rows and set(config.active_tasks) <= set(self.tasks) and set(config.splits) <= set(self.splits)


_ENTRY = TypeAdapter(IndexEntry)


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """The place of an entry, sorted by age."""

    ended_at: str
    run_id: str
    slug: str

    @classmethod
    def of(cls, entry: IndexEntry) -> _Place:
        ended_at = re.sub(r"[^0-9A-Za-z:.+-]", "-", entry.ended_at or "")[:40]
        return cls(ended_at, entry.run_id, _slug(entry.model))

    @property
    def file(self) -> str:
        return f"{DIRECTORY}/{self.slug}/{self.ended_at}__{self.run_id}.json"


def newest(
    output: ArtifactStore,
    *,
    model: ModelKey | None = None,
    other_than: ModelKey | None = None,
    before: str | None = None,
    without: str = "",
    is_match: Callable[[IndexEntry], bool] = lambda _: True,
    limit: int = MOST_RUNS,
    most_read: int = MOST_READ,
    unread: list[str] | None = None,
    incomplete: list[str] | None = None,
) -> Iterator[IndexEntry]:
    """Yield the entries of complete runs, newest first. Entries that are missing are made and written first.

    A run may have changed since its entry was written: `past_runs.opened` checks it when it opens the run.

    Args:
        output: The directory of the runs.
        model: Only runs of this model (`model_key`).
        other_than: No runs of this model.
        before: Only runs that ended at this time or earlier, in the manifest's format.
        without: A run_id to leave out: that of the run itself.
        is_match: A condition for an entry.
        limit: Maximum number of entries to yield.
        most_read: Maximum number of entries to read.
        unread: Receives a line for each run that is left out because it cannot be read.
        incomplete: Receives the run_id of each directory of a run that has no entry: it is not complete, or damaged.

    Raises:
        RunError: `output` cannot be reached.
    """
    lines = [] if unread is None else unread
    places, made = _all(output, without, lines, [] if incomplete is None else incomplete)
    chosen = [
        place
        for place in sorted(places, reverse=True)
        if _suits(place.slug, model, other_than) and (before is None or place.ended_at <= before)
    ][:most_read]
    num_found = 0

    def read(place: _Place) -> IndexEntry | None:
        return made.get(place.run_id) or _read(output, place) or make(output, place.run_id, lines)

    for entry in _read_ahead(read, chosen):
        if entry is not None and _suits(_slug(entry.model), model, other_than) and is_match(entry):
            yield entry
            num_found += 1
            if num_found == limit:
                return


def _read_ahead(read: Callable[[_Place], IndexEntry | None], places: Sequence[_Place]) -> Iterator[IndexEntry | None]:
    """Yield what `read` returns for each place: object storage takes tens of milliseconds a request.

    Most callers take the first one or two, so one is read first, then two at a time, then four, and so on.
    """
    start, step = 0, 1
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        while start < len(places):
            yield from list(pool.map(read, places[start : start + step]))
            start, step = start + step, min(2 * step, NUM_AT_ONCE)


def record(run: ArtifactStore, manifest: Manifest) -> None:
    """Write the entry of a complete run whose manifest is written, in place of its earlier entries.

    A run that is not in a directory `run=<run_id>` has no entry.

    Raises:
        RunError: The index cannot be written or reached.
        DataError: What the run recorded cannot be read.
    """
    output, run_id = _parent(run)
    if run_id is None:
        return
    entry = entry_of(run, run_id, manifest)
    _write(output, entry)
    _remove(output, run_id, keep=_Place.of(entry))


def make(output: ArtifactStore, run_id: str, unread: list[str]) -> IndexEntry | None:
    """Write the entry of a run, in place of its earlier entries; None if it is not complete or cannot be read.

    `unread` receives a line for what cannot be read or written. No error is raised, whatever the run holds.
    """
    entry, lines = _make(output, run_id)
    unread += (line for line in lines if line not in unread)
    with suppress(RunError):  # `_make` has reported an index that cannot be written
        _remove(output, run_id, keep=_Place.of(entry) if entry is not None else None)
    return entry


def remove(run: ArtifactStore) -> None:
    """Remove the entries of a run that is no longer complete.

    Raises:
        RunError: The index cannot be written or reached.
    """
    output, run_id = _parent(run)
    if run_id is not None:
        _remove(output, run_id)


def model_key(config: Config | Mapping[str, Any]) -> ModelKey:
    """Return what identifies the model of a configuration, or of the plain values of a config.yaml."""
    values = loading.plain(config) if isinstance(config, Config) else config
    if value(values, "engine", "kind", default="vllm") == "vllm":
        return "vllm", portable_path(value(values, "model", "path"))
    endpoint = value(values, "engine", "endpoint")
    return "endpoint", value(endpoint, "base_url"), value(endpoint, "model")


def name_of(model: ModelKey) -> str | None:
    """Return how the configuration names a model; None if it names none."""
    return next((part for part in reversed(model) if part), None)


def run_scores(scores: Iterable[EntryScore] | None, metric: str = "score") -> list[EntryScore]:
    """Return the values of a metric over all domains, one for each split that has it."""
    return [each for each in scores or () if (each.level, each.metric) == ("run", metric) and each.value is not None]


def left_out(place: str, error: Exception) -> str:
    """Return the line for what cannot be read; what the error quotes may be of any length."""
    line = f"{place} is left out: {error}"
    return line if len(line) <= 400 else line[:397] + "..."


def _all(
    output: ArtifactStore, without: str, unread: list[str], incomplete: list[str]
) -> tuple[list[_Place], dict[str, IndexEntry]]:
    """Return the place of each complete run's newest entry, and by run_id the entries that had to be made."""
    names = run_ids(output) - {without}
    if not names:
        return [], {}
    try:
        found = sorted(place for place in _places(output) if place.run_id in names)
    except RunError as error:  # the storage responds, so it is `index` that is no directory
        unread.append(left_out(output.path(DIRECTORY), error))
        found = []
    places = {place.run_id: place for place in found}  # the newest of each run wins
    made = {}
    with ThreadPoolExecutor(8) as pool:
        for entry, lines in pool.map(lambda run_id: _make(output, run_id), sorted(names - places.keys())):
            unread += (line for line in lines if line not in unread)
            if entry is not None:
                made[entry.run_id], places[entry.run_id] = entry, _Place.of(entry)
    incomplete += sorted(names - places.keys())
    return list(places.values()), made


def run_ids(output: ArtifactStore) -> set[str]:
    """Return the run_ids that directories of output_dir are named after.

    Raises:
        RunError: `output` cannot be reached.
    """
    names = [name.removeprefix(RUN_PREFIX) for name in output.directories() if name.startswith(RUN_PREFIX)]
    return {name for name in names if re.fullmatch(RUN_ID, name)}


def _require_no_link(output: ArtifactStore, name: str) -> None:
    """Check that a directory of the index is no link: what is written or removed there would be elsewhere.

    Raises:
        RunError: It is one; in a shared output_dir another user may have made it.
    """
    if output.local is not None and Path(output.path(name)).is_symlink():
        raise RunError(f"{output.shown(name)} is a symbolic link, and what is written would go elsewhere: remove it")


def _places(output: ArtifactStore) -> Iterator[_Place]:
    """Yield the places of all entries.

    Raises:
        RunError: The index cannot be reached, or is a link.
    """
    _require_no_link(output, DIRECTORY)
    if output.local is None:
        files = output.files(DIRECTORY, ".json")
    else:  # two levels and no more: a link in a shared directory may lead anywhere
        whole = output.child(DIRECTORY)
        slugs = [slug for slug in whole.directories() if not Path(whole.path(slug)).is_symlink()]
        files = [file for slug in slugs for file in output.files(f"{DIRECTORY}/{slug}", ".json", recursive=False)]
    for file in files:
        match = _NAME.fullmatch(file)
        if match is not None:
            yield _Place(slug=match[1], ended_at=match[2], run_id=match[3])


def _suits(slug: str, model: ModelKey | None, other_than: ModelKey | None) -> bool:
    return (model is None or slug == _slug(model)) and (other_than is None or slug != _slug(other_than))


def _slug(model: ModelKey) -> str:
    """Return the name of a model's directory: readable, and different for different models."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", (model[-1] or "").rstrip("/").rpartition("/")[2]).strip(".-")[:48]
    digits = hashlib.sha256(json.dumps(model).encode()).hexdigest()[:8]
    return f"{readable or 'model'}-{digits}".lower()


def _read(output: ArtifactStore, place: _Place) -> IndexEntry | None:
    """Return the entry at a place, or None if it is damaged, is another run's, or was removed since."""
    try:
        entry = _ENTRY.validate_python(json.loads(output.read_text(place.file, MOST_BYTES)))
    except (DataError, ValueError, RecursionError):
        return None
    return entry if _Place.of(entry) == place else None


def _make(output: ArtifactStore, run_id: str) -> tuple[IndexEntry | None, list[str]]:
    """Return what `make` returns, and the lines for `unread`."""
    run = output.child(f"{RUN_PREFIX}{run_id}")
    try:
        manifest = read_manifest(run, finite=True)
        if manifest is None or not manifest.is_complete:
            return None, []
        entry = entry_of(run, run_id, manifest)
    except UserError as error:
        return None, [left_out(run.root, error)]
    try:
        _write(output, entry)
    except UserError as error:
        return entry, [f"{output.path(DIRECTORY)} cannot be written, so that past runs are read each time: {error}"]
    return entry, []


def entry_of(run: ArtifactStore, run_id: str, manifest: Manifest) -> IndexEntry:
    """Return the entry of a complete run.

    Raises:
        DataError: Its config.yaml cannot be read, or a recorded value is of a wrong type or no finite number.
        ConfigError: Its config.yaml is not what a run writes.
    """
    config = plain_yaml.read(run.read_text(CONFIG_FILE, plain_yaml.MOST_BYTES), run.path(CONFIG_FILE))
    try:
        recorded = {**_of_config(config), **_of_manifest(manifest), "run_id": run_id, "scores": _scores(run)}
        recorded["exit_code"] = _exit_code(manifest, value(config, "max_failed_rows", default=0))
        recorded["pruned_at"] = run.pruned_at()
        if recorded["pruned_at"] is not None:
            recorded["report"] = None
        if recorded["report"] is not None:
            recorded["report"] = f"{RUN_PREFIX}{run_id}/{recorded['report']}"
        return _ENTRY.validate_python(recorded)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{run.path(CONFIG_FILE)} or a file next to it is damaged: {error}") from error


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an entry has of the configuration; a key that an older version did not record has its default."""
    only, tasks = value(config, "only", default=()), value(config, "tasks", default={})
    announced = value(config, "announced", default=False)
    active = [name for name, task in tasks.items() if announced or not value(task, "announced", default=False)]
    names = tuple(only or active)
    is_vllm = value(config, "engine", "kind", default="vllm") == "vllm"
    slots = ("engine", "max_num_seqs") if is_vllm else ("engine", "endpoint", "concurrency")
    return {
        "model": model_key(config),
        "tasks": names,
        "domains": {name: value(tasks, name, "domain", default="") for name in names},
        "splits": tuple(value(config, "splits", default=("train", "test"))),
        "limit": value(config, "limit"),
        "repeats": value(config, "generation", "repeats", default=1),
        "max_gen_toks": value(config, "generation", "max_gen_toks", default=10_000),
        "num_slots": value(config, *slots, default=64),
    }


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    counts, gate, data, published = manifest.counts, manifest.gate, manifest.datasets, manifest.published
    names = sorted({info.served_model for info in manifest.engine.values() if info.served_model is not None})
    return {
        "served_model": ", ".join(names) or None,
        "conf": manifest.conf,
        "started_at": manifest.started_at,
        "ended_at": manifest.ended_at,
        "rescored_at": manifest.rescored_at,
        "status": manifest.status,
        "settings_hash": manifest.settings_hash,
        "model_fingerprint": manifest.model_fingerprint,
        "model_revision": data.model_revision,
        "template_fingerprint": manifest.template_fingerprint or data.template_fingerprint,
        "data": dict(data.dataset_revisions),
        "gate": _gate(gate) if gate is not None else None,
        "num_rows": counts.num_samples if counts is not None else None,
        "num_failed": counts.num_failed if counts is not None else None,
        "num_output_tokens": counts.num_output_tokens if counts is not None else None,
        "seconds": manifest.timings_s.get("total"),
        "cost": manifest.cost.amount if manifest.cost is not None else None,
        "currency": manifest.cost.currency if manifest.cost is not None else None,
        "is_cost_bound": manifest.cost is not None and manifest.cost.num_unknown > 0,
        "report": published.report.file if published is not None and published.report is not None else None,
    }


def _gate(gate: GateResult) -> dict[str, Any]:
    accepts = gate.accepted.run if gate.accepted is not None else None
    return {"baseline": gate.baseline, "broken": gate.broken, "accepts": accepts}


def _exit_code(manifest: Manifest, max_failed_rows: int) -> int:
    """Return the exit code that the run ended with: see `_require_good` of pipeline/orchestrator.py."""
    num_failed = manifest.counts.num_failed if manifest.counts is not None else None
    if num_failed is not None and num_failed > max_failed_rows:
        return TooManyFailedRows.exit_code
    return GateFailed.exit_code if manifest.gate is not None and manifest.gate.broken else 0


def _scores(run: ArtifactStore) -> list[dict[str, Any]] | None:
    """Return the headline metrics over all rows, or None if metrics.parquet is missing or cannot be read."""
    name, columns = "metrics.parquet", [*EntryScore.__dataclass_fields__, "group_by"]
    try:
        if run.num_rows(name, METRIC_SCHEMA) > MOST_METRIC_ROWS:
            return None
        with run.fs.open_input_file(run.path(name)) as source:
            table = pq.ParquetFile(source, page_checksum_verification=True).read(columns=columns)
        is_headline = pc.is_in(table["metric"], value_set=pa.array(HEADLINE_METRICS))
        table = table.filter(pc.and_(pc.is_null(table["group_by"]), is_headline)).drop_columns(["group_by"])
        found: list[dict[str, Any]] = table.to_pylist()
    except (DataError, OSError, ValueError, pa.ArrowException):
        return None
    return found


def _write(output: ArtifactStore, entry: IndexEntry) -> None:
    text = json.dumps(asdict(entry), allow_nan=False)  # ASCII, so that no character of a foreign text is refused
    place = _Place.of(entry)
    for name in (DIRECTORY, f"{DIRECTORY}/{place.slug}"):
        _require_no_link(output, name)
    output.write_text(place.file, text + "\n")


def _remove(output: ArtifactStore, run_id: str, keep: _Place | None = None) -> None:
    for place in list(_places(output)):
        if place.run_id == run_id and place != keep:
            output.remove(place.file)


def _parent(run: ArtifactStore) -> tuple[ArtifactStore, str | None]:
    """Return the directory that holds a run, and the run's id; None if its directory is not that of a run_id."""
    parent, _, name = run.root.rpartition("/")
    run_id = name.removeprefix(RUN_PREFIX)
    is_run = name.startswith(RUN_PREFIX) and re.fullmatch(RUN_ID, run_id)
    return ArtifactStore(run.fs, parent or "/"), run_id if is_run else None
