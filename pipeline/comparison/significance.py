"""Tests whether scores have changed: paired outcomes in, a row for each task, domain and the run out.

    a binary metric of a task, one repeat in both runs    McNemar's exact test
    a domain or run of a single task                      as that task
    all else                                              the paired bootstrap, each task resampled independently

With several repeats a question's mean is not binary, and different numbers of repeats alone cause flips, so McNemar's
test would not be valid. All rows of a metric, over tasks, domains, the run and splits, are one family of Holm's method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.comparison.pairing import ComparedRun, PairedOutcomes, SplitQuestions
from pipeline.metrics.confidence import generator
from pipeline.metrics.names import BEHAVIOUR_METRICS, BINARY_METRICS, SCORES
from pipeline.metrics.paired_tests import Pairs, detectable, holm, mcnemar, paired_bootstrap
from pipeline.metrics.weights import weights_of
from pipeline.records import MetricChange
from pipeline.runs.environment_diff import Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What has changed between two runs.

    `flipped` is the first rows of flips.parquet, those that the page shows, `num_flips` the number of all.
    """

    base: ComparedRun
    new: ComparedRun
    split_questions: Sequence[SplitQuestions]
    rows: Sequence[MetricChange]
    differences: Sequence[Difference]
    flipped: pa.Table
    num_flips: int


def changes(found: Sequence[PairedOutcomes], domains: Mapping[str, str], *, single: bool) -> list[MetricChange]:
    """Return the changes: the run first, then domains, then tasks, each sorted by name, split and metric.

    If a task of a domain has no questions with this metric in a split, the domain and the run have no row: a mean over
    the remaining tasks would be mistaken for the mean over all.

    Args:
        found: Paired outcomes of the tasks and splits of both runs.
        domains: Domain of every task.
        single: Whether each question has one repeat in both runs.
    """
    cells: dict[tuple[str, str], dict[str, PairedOutcomes]] = defaultdict(dict)
    for each in found:
        for metric in each.pairs:
            cells[each.split, metric][each.task] = each
    rows = [_of_task(each, metric, single) for each in found for metric in each.pairs]
    for (split, metric), tasks in cells.items():
        if metric in SCORES:
            for name in [*dict.fromkeys(domains.values()), None]:
                weights = weights_of(domains, name)
                if all(task in tasks for task in weights):
                    rows.append(_of_tasks(name, split, metric, tasks, weights, domains, single))
    rows = _adjusted(rows)
    levels, metrics = ["run", "domain", "task"], [*SCORES, *BEHAVIOUR_METRICS]
    return sorted(rows, key=lambda row: (levels.index(row.level), row.task, row.split, metrics.index(row.metric)))


def means(pairs: Pairs) -> tuple[float, float]:
    """Return the means over the base run's rows and over the new run's rows."""
    base = pairs.num @ pairs.base_totals / (pairs.num @ pairs.base_scored)
    return float(base), float(pairs.num @ pairs.new_totals / (pairs.num @ pairs.new_scored))


def _of_task(found: PairedOutcomes, metric: str, single: bool) -> MetricChange:
    pairs = found.pairs[metric]
    is_exact = single and metric in BINARY_METRICS
    lost, gained = _flips(pairs) if metric in BINARY_METRICS else (None, None)
    row = _row("task", found.task, found.split, metric, [pairs], [1.0])
    row = replace(row, num_lost=lost, num_gained=gained)
    if is_exact and lost is not None and gained is not None:
        return replace(row, test="mcnemar", p_value=mcnemar(lost, gained))
    return row


def _of_tasks(
    domain: str | None,
    split: str,
    metric: str,
    tasks: Mapping[str, PairedOutcomes],
    weights: Mapping[str, float],
    domains: Mapping[str, str],
    single: bool,
) -> MetricChange:
    pairs = [tasks[name].pairs[metric] for name in weights]
    level, name = ("run", "all") if domain is None else ("domain", domain)
    if len(weights) == 1:  # the task's own test has more power
        (only,) = weights
        return replace(_of_task(tasks[only], metric, single), level=level, task=name)
    row = _row(level, name, split, metric, pairs, list(weights.values()))
    num_parts = len(weights) if domain is not None else len(set(domains.values()))
    if metric not in BINARY_METRICS:
        return replace(row, num_parts=num_parts)
    flipped = [_flips(each) for each in pairs]
    lost, gained = (sum(numbers) for numbers in zip(*flipped, strict=True))
    return replace(row, num_parts=num_parts, num_lost=lost, num_gained=gained)


def _row(
    level: str, name: str, split: str, metric: str, pairs: Sequence[Pairs], weights: Sequence[float]
) -> MetricChange:
    change = paired_bootstrap(pairs, generator(name, split, metric, "change"), weights)
    base, new = (
        sum(weight * mean for weight, mean in zip(weights, of_run, strict=True))
        for of_run in zip(*map(means, pairs), strict=True)
    )
    return MetricChange(
        level=level,
        task=name,
        split=split,
        metric=metric,
        base=base,
        new=new,
        difference=change.difference,
        stderr=change.stderr,
        ci_low=change.ci_low,
        ci_high=change.ci_high,
        test="bootstrap",
        p_value=change.p_value,
        p_holm=1.0,
        num_questions=sum(int(each.num.sum()) for each in pairs),
        num_lost=None,
        num_gained=None,
        detectable=detectable(change.stderr),
    )


def _flips(pairs: Pairs) -> tuple[int, int]:
    """Return the number of questions whose mean over repeats falls below one half, and of those that rise to it."""
    base = pairs.base_totals / pairs.base_scored >= 0.5
    new = pairs.new_totals / pairs.new_scored >= 0.5
    return int(pairs.num[base & ~new].sum()), int(pairs.num[~base & new].sum())


def _adjusted(rows: Sequence[MetricChange]) -> list[MetricChange]:
    found: list[MetricChange] = []
    for metric in dict.fromkeys(row.metric for row in rows):
        family = [row for row in rows if row.metric == metric]
        adjusted = holm([row.p_value for row in family])
        found += [replace(row, p_holm=p) for row, p in zip(family, adjusted, strict=True)]
    return found
