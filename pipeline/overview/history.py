"""Orders runs into benchmarks, models and nights, and computes the CUSUM of each score after each run.

In: index entries. Out: for each benchmark (tasks, splits and limit) its models, and for each model its runs from the
oldest to the newest with the state of the CUSUM. Runs of other tasks, splits or limits are never in one table.

The CUSUM is that of the gate (`pipeline/comparison/trend.py`): over the runs that were made alike, and again from the
newest run that was accepted (`gate.accept`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pipeline.comparison import trend
from pipeline.metrics.cusum import Step
from pipeline.metrics.weights import weights_of
from pipeline.runs.index import EntryScore, IndexEntry, ModelKey
from pipeline.storage.artifacts import ArtifactStore

METRIC = trend.METRIC

BenchmarkKey: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], int | None]
"""Tasks, splits and limit, sorted."""

CHANGES = (
    ("model", ("model_revision", "model_fingerprint")),
    ("data", ("data",)),
    ("template", ("template_fingerprint",)),
    ("settings", ("settings_hash",)),
)
"""What a run is made of, by the word for its change: fields of an index entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRun:
    """A complete run: its index entry, its directory, and the address of its report on the page (None: no report)."""

    entry: IndexEntry
    store: ArtifactStore
    link: str | None

    @property
    def order(self) -> tuple[str, str]:
        """Sort key: when the run ended."""
        return self.entry.ended_at or "", self.entry.run_id

    def score(self, split: str, level: str = "run", task: str = "all", metric: str = METRIC) -> EntryScore | None:
        """Return a score of the run, or None if it has none with a value."""
        for each in self.entry.scores or ():
            if (each.level, each.task, each.split, each.metric) == (level, task, split, metric):
                return each if each.value is not None else None
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """A run in the history of its model.

    `changed` are the words for what differs from the run before it. `steps` are the states of the CUSUM after it by
    domain (`all`: the run), for those that have one, and `since` the run_ids with which present declines began.
    """

    run: BoardRun
    changed: tuple[str, ...] = ()
    steps: Mapping[str, Step] = field(default_factory=dict)
    since: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_alarm(self) -> bool:
        """Whether the run broke its gate, or a score has declined by the CUSUM."""
        return not self.run.entry.kept_gate or bool(self.declined)

    @property
    def declined(self) -> dict[str, list[str]]:
        """What has declined by the CUSUM (`all`: the score of the run; domains), by the run_id since when."""
        found: dict[str, list[str]] = {}
        for name, step in self.steps.items():
            if step.is_alarm and name in self.since:
                found.setdefault(self.since[name], []).append(name)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHistory:
    """The nights of a model on a benchmark, oldest first; `split` is the one whose scores are shown."""

    name: str
    split: str | None
    nights: tuple[Night, ...]

    @property
    def newest(self) -> Night:
        """The newest night."""
        return self.nights[-1]

    @property
    def best(self) -> BoardRun | None:
        """The run with the highest score, the newest of equal ones; None if no run has a score."""
        scored = [
            (score.value or 0.0, each.run.order, each.run) for each in self.nights if (score := self.score(each.run))
        ]
        return max(scored, key=lambda each: each[:2])[2] if scored else None

    def score(self, run: BoardRun, domain: str | None = None) -> EntryScore | None:
        """Return the score of a run of this model over all domains, or of one."""
        if self.split is None:
            return None
        return run.score(self.split) if domain is None else run.score(self.split, "domain", domain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark with its models, the best newest score first. `limit` is the number of rows that a task is cut to."""

    tasks: tuple[str, ...]
    splits: tuple[str, ...]
    limit: int | None
    domains: tuple[str, ...]
    models: tuple[ModelHistory, ...]


def benchmarks(runs: Iterable[BoardRun]) -> list[Benchmark]:
    """Return the benchmarks of the runs: those without a limit first, then those with the newest run."""
    groups: dict[BenchmarkKey, list[BoardRun]] = defaultdict(list)
    for run in runs:
        entry = run.entry
        groups[tuple(sorted(entry.tasks)), tuple(sorted(entry.splits)), entry.limit].append(run)
    ordered = sorted(groups.items(), key=lambda item: max(run.order for run in item[1]), reverse=True)
    ordered.sort(key=lambda item: item[0][2] is not None)
    return [_benchmark(key, found) for key, found in ordered]


def _benchmark(key: BenchmarkKey, runs: Sequence[BoardRun]) -> Benchmark:
    tasks, splits, limit = key
    split = _shown_split(runs, splits)
    by_model: dict[ModelKey, list[BoardRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.order):
        by_model[run.entry.model].append(run)
    names = _names(by_model)
    models = [
        ModelHistory(name=names[model], split=split, nights=_nights(each, split)) for model, each in by_model.items()
    ]
    domains = [domain for run in runs for domain in (run.entry.domains or {}).values()]
    return Benchmark(
        tasks=tasks,
        splits=splits,
        limit=limit,
        domains=tuple(dict.fromkeys(domains)),
        models=tuple(sorted(models, key=_rank)),
    )


def _shown_split(runs: Sequence[BoardRun], splits: Sequence[str]) -> str | None:
    """Return the split whose scores are shown: `test` if it was ever scored, else the first that was."""
    scored = [split for split in splits if any(run.score(split) is not None for run in runs)]
    return "test" if "test" in scored else next(iter(scored), None)


def _rank(model: ModelHistory) -> tuple[float, str]:
    score = model.score(model.newest.run)
    return (1.0 if score is None or score.value is None else -score.value), model.name


def _names(models: Mapping[ModelKey, Sequence[BoardRun]]) -> dict[ModelKey, str]:
    """Return a name of each model; models of the same name are distinguished by their server or path."""
    names = {model: runs[-1].entry.model_name for model, runs in models.items()}
    several = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {
        model: f"{name} ({', '.join(str(part) for part in model[1:] if part)})" if name in several else name
        for model, name in names.items()
    }


def _nights(runs: Sequence[BoardRun], split: str | None) -> tuple[Night, ...]:
    steps: dict[str, dict[str, Step]] = defaultdict(dict)  # by the run's directory: run_ids may be alike elsewhere
    since: dict[str, dict[str, str]] = defaultdict(dict)
    if split is not None:
        for alike in _made_alike(runs):
            for name in ("all", *dict.fromkeys((alike[-1].entry.domains or {}).values())):
                for run, step, began in _chart(alike, name, split):
                    steps[run.store.root][name] = step
                    since[run.store.root] |= {name: began} if began is not None else {}
    return tuple(
        Night(
            run=run,
            changed=_changed(runs[number - 1], run) if number else (),
            steps=steps[run.store.root],
            since=since[run.store.root],
        )
        for number, run in enumerate(runs)
    )


def _changed(before: BoardRun, run: BoardRun) -> tuple[str, ...]:
    return tuple(
        word
        for word, names in CHANGES
        if any(getattr(before.entry, name) != getattr(run.entry, name) for name in names)
    )


def _made_alike(runs: Sequence[BoardRun]) -> list[list[BoardRun]]:
    """Return the runs that were made alike together, in their order."""
    groups: list[list[BoardRun]] = []
    for run in runs:
        place = next((group for group in groups if not _changed(group[-1], run)), None)
        if place is None:
            groups.append([run])
        else:
            place.append(run)
    return groups


def _chart(runs: Sequence[BoardRun], name: str, split: str) -> list[tuple[BoardRun, Step, str | None]]:
    """Return the state of the CUSUM of the run (`all`) or a domain after each run, with the run its decline began."""
    domains = dict(runs[-1].entry.domains or {})
    if not domains:  # an entry of an older version whose run cannot be read
        return []
    key: trend.Name = ("run", "all", split) if name == "all" else ("domain", name, split)
    needed = {key, *(("task", task, split) for task in weights_of(domains, None if name == "all" else name))}
    known = [(run, scores) for run in runs if needed <= (scores := _scores(run, split)).values.keys()]
    scores_of_runs = [scores for _, scores in known]
    places = {run.entry.run_id: number for number, (run, _) in enumerate(known)}
    found: list[tuple[BoardRun, Step, str | None]] = []
    start, steps = 0, trend.chart(key, domains, scores_of_runs) if known else []
    for number, (run, _) in enumerate(known):
        accepts = run.entry.gate.accepts if run.entry.gate is not None else None
        begins = places.get(accepts or "", start)
        if begins > start:
            start, steps = begins, trend.chart(key, domains, scores_of_runs[begins:])
        step = steps[number - start]
        began = known[start + step.since][0].entry.run_id if step.since is not None else None
        found.append((run, step, began))
    return found


def _scores(run: BoardRun, split: str) -> trend.RunScores:
    """Return the scores of a run and the numbers of rows that they are over, as `trend.scores_of` reads them."""
    values = {
        (each.level, each.task, each.split): (each.value, each.num_scored)
        for each in run.entry.scores or ()
        if each.metric == METRIC and each.split == split and each.value is not None and each.num_scored
    }
    return trend.RunScores(run_id=run.entry.run_id, values=values)
