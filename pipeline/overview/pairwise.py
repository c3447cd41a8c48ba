"""Compares the newest runs of models with each other, question by question: which differences are significant.

In: runs of one benchmark. Out: for each pair the difference of the score over all domains, with its interval and its
p-value, adjusted by Holm's method over all pairs, or the reason why the two cannot be compared. The statistics are
those of `compare` (`pipeline/comparison/significance.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from pipeline.comparison.pairing import ComparedRun, pair, require_same
from pipeline.comparison.significance import changes
from pipeline.errors import Incomparable, UserError
from pipeline.metrics.paired_tests import ALPHA, holm
from pipeline.overview.history import METRIC, Benchmark, BoardRun
from pipeline.records import SAMPLE_SCHEMA, MetricChange
from pipeline.runs.directory import recorded, require_complete
from pipeline.storage import query

MOST_MODELS = 8
"""Maximum number of models that are compared with each other: 28 pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """The difference between two models, the first minus the second, or why they cannot be compared.

    `reason` is a few words, `detail` the error behind it.
    """

    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    num_questions: int = 0
    reason: str | None = None
    detail: str = ""

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant after its adjustment."""
        return self.p_value is not None and self.p_value < ALPHA and self.difference != 0

    @property
    def reversed(self) -> PairResult:
        """The same of the second model minus the first."""
        if self.difference is None or self.ci_low is None or self.ci_high is None:
            return self
        return replace(self, difference=-self.difference, ci_low=-self.ci_high, ci_high=-self.ci_low)


def compare_models(benchmark: Benchmark) -> dict[tuple[int, int], PairResult]:
    """Return the results of all pairs of the first `MOST_MODELS` models, by their places in the benchmark."""
    models = benchmark.models[:MOST_MODELS]
    opened = [_open(model.newest.run) for model in models]
    found: dict[tuple[int, int], PairResult] = {}
    for first, second in combinations(range(len(models)), 2):
        found[first, second] = _compare(opened[first], opened[second], models[first].split)
    tested = [places for places, result in found.items() if result.p_value is not None]
    adjusted = holm([found[places].p_value or 0.0 for places in tested])
    for places, p_value in zip(tested, adjusted, strict=True):
        found[places] = replace(found[places], p_value=p_value)
    return found | {(second, first): result.reversed for (first, second), result in found.items()}


def _open(run: BoardRun) -> ComparedRun | PairResult:
    """Return the run to compare, or why it cannot be."""
    if run.entry.pruned_at is not None:
        return PairResult(reason=f"{run.entry.run_id} was pruned")
    try:
        run.store.require_artifact("samples", SAMPLE_SCHEMA)  # before the configuration, which takes longer to read
        return ComparedRun.of(run.store, recorded(run.store), require_complete(run.store))
    except UserError as error:
        return PairResult(reason=f"the samples of {run.entry.run_id} cannot be read", detail=str(error))


def _compare(first: ComparedRun | PairResult, second: ComparedRun | PairResult, split: str | None) -> PairResult:
    if isinstance(first, PairResult):
        return first
    if isinstance(second, PairResult):
        return second
    if _other_data(first, second):
        return PairResult(reason="their data sets differ")
    try:
        row = _change(first, second, split)
    except Incomparable as error:
        return PairResult(reason="their questions differ", detail=str(error))
    except UserError as error:
        return PairResult(reason="their samples cannot be read", detail=str(error))
    if row is None:
        return PairResult(reason="no reference answers")
    return PairResult(
        difference=row.difference,
        ci_low=row.ci_low,
        ci_high=row.ci_high,
        p_value=row.p_value,
        num_questions=row.num_questions,
    )


def _other_data(first: ComparedRun, second: ComparedRun) -> bool:
    revisions: list[Mapping[str, str]] = [each.manifest.datasets.dataset_revisions for each in (first, second)]
    return any(revisions[0][task] != revisions[1][task] for task in revisions[0].keys() & revisions[1].keys())


def _change(first: ComparedRun, second: ComparedRun, split: str | None) -> MetricChange | None:
    """Return the change of the score over all domains from the second run to the first; None if there is none."""
    questions = [each for each in require_same(second, first) if each.split == split]
    with query.connection() as database:
        found = [pair(database, second, first, each) for each in questions]
    scores = [replace(each, pairs={METRIC: each.pairs[METRIC]}) for each in found if METRIC in each.pairs]
    domains = {name: task.domain for name, task in first.config.active_tasks.items()}
    rows: Sequence[MetricChange] = changes(scores, domains, single=first.is_single and second.is_single)
    return next((row for row in rows if row.level == "run"), None)
