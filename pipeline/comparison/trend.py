"""A decline of the score over many runs, which no comparison of two runs shows.

In: the runs that were made alike. Out: the CUSUM (`pipeline/metrics/cusum.py`) of the score of the run and of each
domain, computed from the metrics.parquet of all these runs, and a line for the user.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow.parquet as pq

from pipeline.config.schema import Config
from pipeline.errors import DataError, UserError
from pipeline.metrics.cusum import DOMAIN_LIMIT, LIMIT, NUM_REFERENCE, Step, cusum
from pipeline.metrics.weights import weights_of
from pipeline.runs.manifest import ScoreTrend
from pipeline.runs.past_runs import PastRun
from pipeline.storage.artifacts import ArtifactStore

MOST_RUNS = 400
"""Maximum number of runs of a CUSUM: more than a year of nightly runs."""

METRIC = "score"

_COLUMNS = ["level", "task", "split", "group_by", "metric", "value", "num_scored"]

Name: TypeAlias = tuple[str, str, str]
"""Level, task (or domain, or all) and split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScores:
    """A run's scores and the numbers of rows that they are over; those without a value are left out."""

    run_id: str
    values: Mapping[Name, tuple[float, int]]


def scores_of(run: ArtifactStore, run_id: str) -> RunScores:
    """Read the scores of a run from its metrics.parquet.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = run.path("metrics.parquet")
    try:
        rows = pq.read_table(path, filesystem=run.fs, columns=_COLUMNS).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise DataError(f"{path} cannot be read: {error}. Rescore the run") from error
    kept = [row for row in rows if row["group_by"] is None and row["metric"] == METRIC and row["value"] is not None]
    return RunScores(
        run_id=run_id,
        values={(row["level"], row["task"], row["split"]): (row["value"], row["num_scored"]) for row in kept},
    )


def read(config: Config, new: RunScores, earlier: Sequence[PastRun], unread: list[str]) -> list[ScoreTrend]:
    """Return the CUSUM of the run's score and of each domain's, for each split in which the run has one.

    Args:
        config: The run's configuration.
        new: Its scores.
        earlier: The runs that were made alike, newest first.
        unread: Receives a line for each run whose metrics cannot be read.
    """
    runs = [new]
    for each in earlier[: MOST_RUNS - 1]:
        try:
            runs.append(scores_of(each.store, each.run_id))
        except UserError as error:
            unread.append(str(error))
    domains = {name: task.domain for name, task in config.active_tasks.items()}
    is_only = len(set(domains.values())) == 1  # then the run's score is the domain's
    levels = ("run",) if is_only else ("run", "domain")
    names = [name for name in new.values if name[0] in levels and _tasks_of(name, domains).keys() <= new.values.keys()]
    return [_trend(name, domains, runs[::-1]) for name in sorted(names, key=lambda name: (name[0] != "run", *name))]


def chart(name: Name, domains: Mapping[str, str], runs: Sequence[RunScores]) -> list[Step]:
    """Return the CUSUM of one score after each run.

    Args:
        name: The score of the run or of a domain.
        domains: Domain of every task.
        runs: The runs in their order, at least one; all have the score and those of its tasks.
    """
    parts = [(key, runs[-1].values[key][1], weight) for key, weight in _tasks_of(name, domains).items()]
    # The standard deviation of the score in units of that of one question, as questions are independent.
    unit = math.sqrt(sum(weight**2 / num for _, num, weight in parts))
    return cusum(
        [run.values[name][0] for run in runs],
        parts=[[run.values[key][0] * math.sqrt(num) * unit for key, num, _ in parts] for run in runs],
        floor=math.sqrt(sum((weight / num) ** 2 for _, num, weight in parts)),  # one question of each task
        limit=limit_of(name),
    )


def _tasks_of(name: Name, domains: Mapping[str, str]) -> dict[Name, float]:
    """Return the scores of the tasks that a score is the mean of, with their weights."""
    weights = weights_of(domains, name[1] if name[0] == "domain" else None)
    return {("task", task, name[2]): weight for task, weight in weights.items()}


def limit_of(name: Name) -> float:
    """Return the limit of a score's CUSUM."""
    return LIMIT if name[0] == "run" else DOMAIN_LIMIT


def _trend(name: Name, domains: Mapping[str, str], runs: Sequence[RunScores]) -> ScoreTrend:
    level, task, split = name
    names = {name, *_tasks_of(name, domains)}
    known = [run for run in runs if names <= run.values.keys()]
    last = chart(name, domains, known)[-1]
    return ScoreTrend(
        level=level,
        task=task,
        split=split,
        num_runs=len(known),
        value=known[-1].values[name][0],
        mean=last.mean,
        sigma=last.sigma,
        statistic=last.statistic,
        limit=limit_of(name),
        since=known[last.since].run_id if last.since is not None else None,
        has_declined=last.is_alarm,
    )


def line(found: Sequence[ScoreTrend]) -> str:
    """Return the CUSUMs as a line for the user."""
    declined = [each for each in found if each.has_declined]
    if declined:
        return "; ".join(
            f"the score of {each.task} {each.split} has declined since run {each.since}: {each.value:.3f}, "
            f"{_mean(each)} before"
            for each in declined
        )
    most = max((each.num_runs for each in found), default=0)
    if most <= NUM_REFERENCE:
        return f"{most} of the {NUM_REFERENCE + 1} runs that a trend needs have a score"
    highest = max(found, key=lambda each: each.statistic / each.limit)
    state = f"{highest.statistic:.1f} of {highest.limit:g} for {highest.task} {highest.split}"
    return f"no score has declined over {most} runs (CUSUM, at most {state})"


def _mean(trend: ScoreTrend) -> str:
    return "unknown" if trend.mean is None else f"{trend.mean:.3f}"
