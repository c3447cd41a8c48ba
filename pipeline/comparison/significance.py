"""Tests whether scores have changed: paired outcomes in, a row for each task, domain and the run out.

p-value     sign flips of the questions' differences; McNemar's test, its special case, for binary metrics of one
            repeat in both runs
interval    Tango's for binary metrics of a task, else the percentiles of the paired bootstrap
adjusted    Holm's method over the different tests of a metric: a domain of one task, and a run of one domain, have
            the values of what they consist of. Each metric is a family of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.comparison.pairing import ComparedRun, PairedOutcomes, SplitQuestions
from pipeline.metrics.confidence import generator
from pipeline.metrics.names import BEHAVIOUR_METRICS, BINARY_METRICS, SCORES
from pipeline.metrics.paired_tests import Pairs, detectable, holm, paired_bootstrap
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
    tested = [_of_task(each, metric, single) for each in found for metric in each.pairs]
    for (split, metric), tasks in cells.items():
        if metric in SCORES:
            for name in [*dict.fromkeys(domains.values()), None]:
                weights = weights_of(domains, name)
                if all(task in tasks for task in weights):
                    tested.append(_of_tasks(name, split, metric, tasks, weights, domains, single))
    rows = [
        row
        for metric in dict.fromkeys(each.row.metric for each in tested)
        for row in _adjusted([each for each in tested if each.row.metric == metric], domains)
    ]
    levels, metrics = ["run", "domain", "task"], [*SCORES, *BEHAVIOUR_METRICS]
    return sorted(rows, key=lambda row: (levels.index(row.level), row.task, row.split, metrics.index(row.metric)))


def means(pairs: Pairs) -> tuple[float, float]:
    """Return the means over the base run's rows and over the new run's rows."""
    base = pairs.num @ pairs.base_totals / (pairs.num @ pairs.base_scored)
    return float(base), float(pairs.num @ pairs.new_totals / (pairs.num @ pairs.new_scored))


@dataclass(frozen=True, slots=True)
class _Tested:
    """A row before its adjustment, with the arguments of `detectable`."""

    row: MetricChange
    variance: float
    share: float


def _of_task(found: PairedOutcomes, metric: str, single: bool) -> _Tested:
    pairs = found.pairs[metric]
    tested = _tested("task", found.task, found.split, metric, [pairs], [1.0])
    if metric not in BINARY_METRICS:
        return tested
    lost, gained = _flips(pairs)
    test = "mcnemar" if single else tested.row.test
    return replace(tested, row=replace(tested.row, test=test, num_lost=lost, num_gained=gained))


def _of_tasks(
    domain: str | None,
    split: str,
    metric: str,
    tasks: Mapping[str, PairedOutcomes],
    weights: Mapping[str, float],
    domains: Mapping[str, str],
    single: bool,
) -> _Tested:
    level, name = ("run", "all") if domain is None else ("domain", domain)
    if len(weights) == 1:
        tested = _of_task(tasks[next(iter(weights))], metric, single)
        return replace(tested, row=replace(tested.row, level=level, task=name))
    pairs = [tasks[each].pairs[metric] for each in weights]
    tested = _tested(level, name, split, metric, pairs, list(weights.values()))
    num_parts = len(weights) if domain is not None else len(set(domains.values()))
    row = replace(tested.row, num_parts=num_parts)
    if metric in BINARY_METRICS:
        lost, gained = (sum(numbers) for numbers in zip(*map(_flips, pairs), strict=True))
        row = replace(row, num_lost=lost, num_gained=gained)
    return replace(tested, row=row)


def _tested(
    level: str, name: str, split: str, metric: str, pairs: Sequence[Pairs], weights: Sequence[float]
) -> _Tested:
    change = paired_bootstrap(pairs, generator(name, split, metric, "change"), weights)
    base, new = (
        sum(weight * mean for weight, mean in zip(weights, of_run, strict=True))
        for of_run in zip(*map(means, pairs), strict=True)
    )
    squares = [weight**2 / each.num.sum() for weight, each in zip(weights, pairs, strict=True)]
    spreads = [float(each.num @ each.changes**2) / each.num.sum() for each in pairs]
    row = MetricChange(
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
        test="sign_flips",
        p_value=change.p_value,
        p_holm=1.0,
        num_questions=sum(int(each.num.sum()) for each in pairs),
        num_lost=None,
        num_gained=None,
        detectable=None,
    )
    return _Tested(row, float(np.dot(squares, spreads)), float(sum(squares)))


def _flips(pairs: Pairs) -> tuple[int, int]:
    """Return the number of questions whose mean over repeats falls below one half, and of those that rise to it."""
    base = pairs.base_totals / pairs.base_scored >= 0.5
    new = pairs.new_totals / pairs.new_scored >= 0.5
    return int(pairs.num[base & ~new].sum()), int(pairs.num[~base & new].sum())


def _adjusted(tested: Sequence[_Tested], domains: Mapping[str, str]) -> list[MetricChange]:
    """Return the rows of one metric with their adjusted p-values and detectable changes."""
    distinct = [each for each in tested if each.row.level == "task" or each.row.num_parts > 1]
    adjusted = dict(
        zip(
            ((each.row.split, each.row.task) for each in distinct),
            holm([each.row.p_value for each in distinct]),
            strict=True,
        )
    )
    found: list[MetricChange] = []
    for each in tested:
        row = each.row
        source = row.task if (row.split, row.task) in adjusted else _only_part(row, domains)
        size = detectable(each.variance, each.share, num_tests=len(distinct)) if row.metric != "output_tokens" else None
        found.append(replace(row, p_holm=adjusted[row.split, source], detectable=size))
    return found


def _only_part(row: MetricChange, domains: Mapping[str, str]) -> str:
    """Return the name of what a domain of one task, or a run of one domain, consists of."""
    tasks = [task for task, domain in domains.items() if row.level == "run" or domain == row.task]
    return tasks[0] if len(tasks) == 1 else domains[tasks[0]]
