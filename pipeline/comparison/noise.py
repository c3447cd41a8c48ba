"""Measures the engine's noise in a score: generates a share of the questions a second time.

A run's prompts, its samples and those of the second pass in; the run's directory `noise/`, laid out like a run, with
the chosen prompts, and the manifest's record `noise` out. The second pass uses the same seeds but another order of
questions, so batch composition changes: differences come from floating-point rounding and its consequences. Results of
the second pass are neither submitted nor averaged into a score.

Questions with a reference answer are chosen first: only they show how much a score changes. For an unchanged model a
question's change e has expectation 0, so its variance is the mean of e^2 over the questions of its task that were
generated twice. Between two runs, a mean over n questions of r repeats then changes with that variance divided by n r.
A few dozen questions may all stay the same by chance, so there are upper bounds: of a share by Clopper and Pearson
1934, Biometrika 26:404, and, since |e| is at most 1, of E[e^2] by that of the share of questions whose score changed.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.comparison.pairing import ComparedRun, SplitQuestions, pair
from pipeline.config.schema import Config
from pipeline.metrics.confidence import LEVEL
from pipeline.metrics.names import SCORES
from pipeline.metrics.paired_tests import Pairs
from pipeline.metrics.weights import weights_of
from pipeline.records import PROMPT_SCHEMA
from pipeline.runs.manifest import Manifest, Noise
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

DIRECTORY = "noise"
ROWS_PER_FILE = 20_000

_COLUMNS = ["task", "split", "id", "repeat", "response", "error"]

# A failed row has no response; it does not count as a changed one.
_CHANGED = """
SELECT second.task, second.split, count(*) FILTER (first.error IS NULL AND second.error IS NULL) AS num_questions,
    count(*) FILTER (first.error IS NULL AND second.error IS NULL
        AND first.response IS DISTINCT FROM second.response) AS num_changed,
    count(second.error) AS num_failed
FROM second JOIN first USING (task, split, id, repeat) GROUP BY ALL ORDER BY ALL
"""

_GOLDS = """
SELECT task, split, count(em) FROM samples WHERE repeat = 0 GROUP BY ALL HAVING count(em) > 0 ORDER BY ALL
"""


def second(config: Config) -> Config:
    """Return the configuration of the second pass: one completion per question, with the seed of the first repeat.

    Its questions are taken as independent: there may be too few of a category, and their errors are not used.
    """
    tasks = {name: replace(task, cluster=None) for name, task in config.tasks.items()}
    return replace(config, tasks=tasks, generation=replace(config.generation, repeats=1))


def is_chosen(task: str, split: str, row_id: int, *, share: float) -> bool:
    """Return whether a question is generated twice; stable between runs, and a larger share is a superset."""
    digest = hashlib.sha256(f"{task}\0{split}\0{row_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _shares(run: ArtifactStore, share: float) -> tuple[float, float]:
    """Return the shares to choose of the questions with and without a reference answer, `share` of all together."""
    with query.connection() as database:
        database.register("prompts", query.scanner(run.require_artifact("prompts", PROMPT_SCHEMA), ["gold"]))
        num, num_labelled = database.execute("SELECT count(*), count(gold) FROM prompts").fetchall()[0]
    wanted = share * num
    labelled = min(1.0, wanted / num_labelled) if num_labelled else 0.0
    others = num - num_labelled
    return labelled, (max(0.0, wanted - num_labelled) / others if others else 0.0)


def choose(config: Config, run: ArtifactStore) -> ArtifactStore:
    """Return the directory of the second pass, with its prompts; one with another share is replaced.

    Raises:
        DataError: The run has no prompts.
        RunError: The directory cannot be written.
    """
    store, share = run.child(DIRECTORY), config.noise.share
    if store.metadata("prompts") != {"share": str(share)}:
        store.remove()
        store.create()
        scanned = query.scanner(run.require_artifact("prompts", PROMPT_SCHEMA), PROMPT_SCHEMA.names).to_batches()
        with store.publish("prompts", PROMPT_SCHEMA, {"share": str(share)}) as written:
            written.write_parts("chosen", PROMPT_SCHEMA, _chosen(scanned, *_shares(run, share)), ROWS_PER_FILE)
    return store


def _chosen(batches: Iterator[pa.RecordBatch], labelled: float, others: float) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        columns = (batch.column(name).to_pylist() for name in ("task", "split", "id", "gold"))
        chosen = [
            is_chosen(task, split, row_id, share=others if gold is None else labelled)
            for task, split, row_id, gold in zip(*columns, strict=True)
        ]
        kept = batch.filter(pa.array(chosen, pa.bool_()))
        if kept.num_rows:
            yield kept


def measure(config: Config, run: ArtifactStore, manifest: Manifest) -> Noise:
    """Return the manifest's record of the noise; both passes must have been scored.

    Returns:
        `share`, `num_questions` (answered in both passes), `num_changed` (with different responses) and `num_failed`
        (failed rows of the second pass); `variance`, by metric, of a question's change; `spread`, by split, one
        standard deviation of the change of the run's score between two runs; and upper bounds of both.

    Raises:
        DataError: Samples of one pass are missing or damaged.
    """
    first = replace(ComparedRun.of(run, config, manifest), repeat=0)
    repeated = ComparedRun.of(run.child(DIRECTORY), second(config), manifest)
    squares: dict[str, float] = defaultdict(float)
    numbers: dict[str, int] = defaultdict(int)
    of_tasks: dict[str, _TaskNoise] = defaultdict(_TaskNoise)
    num_questions = num_changed = num_failed = 0
    with query.connection() as database:
        database.register("first", query.scanner(first.samples, _COLUMNS, pc.field("repeat") == 0))
        database.register("second", query.scanner(repeated.samples, _COLUMNS))
        for task, split, num, changed, failed in database.execute(_CHANGED).fetchall():
            num_questions, num_changed, num_failed = num_questions + num, num_changed + changed, num_failed + failed
            split_questions = SplitQuestions(task=task, split=split, num_questions=num, num_other_prompts=0)
            for metric, pairs in pair(database, first, repeated, split_questions).pairs.items():
                if metric in SCORES:
                    squares[metric] += float(pairs.num @ np.square(pairs.changes))
                    numbers[metric] += int(pairs.num.sum())
                if metric == "score":
                    of_tasks[task].add(pairs)
        database.register("samples", query.scanner(first.samples, ["task", "split", "repeat", "em"]))
        golds = database.execute(_GOLDS).fetchall()
    variance = {metric: squares[metric] / num for metric, num in numbers.items()}
    return Noise(
        share=config.noise.share,
        num_questions=num_questions,
        num_changed=num_changed,
        num_failed=num_failed,
        variance=variance,
        spread=_spread(config, golds, {task: each.variance for task, each in of_tasks.items()}),
        changed_upper=upper_bound(num_changed, num_questions) if num_questions else None,
        spread_upper=_spread(config, golds, {task: each.variance_upper for task, each in of_tasks.items()}),
        variance_by_task={task: each.variance for task, each in of_tasks.items()},
    )


@dataclass(slots=True)
class _TaskNoise:
    """The changes of `score` of a task: the sum of their squares, how many are not 0, and how many there are."""

    squares: float = 0.0
    num_changed: int = 0
    num: int = 0

    def add(self, pairs: Pairs) -> None:
        self.squares += float(pairs.num @ np.square(pairs.changes))
        self.num_changed += sum(pairs.num_flipped)
        self.num += int(pairs.num.sum())

    @property
    def variance(self) -> float:
        return self.squares / self.num

    @property
    def variance_upper(self) -> float:
        return upper_bound(self.num_changed, self.num)


def upper_bound(num_changed: int, num: int) -> float:
    """Return the upper one-sided 95% bound of a share, of which `num_changed` of `num` were seen."""
    from scipy.stats import beta

    return float(beta.ppf(LEVEL, num_changed + 1, num - num_changed)) if num_changed < num else 1.0


def _spread(config: Config, golds: list[tuple[str, str, int]], variances: Mapping[str, float]) -> dict[str, float]:
    """Return the standard deviation of the change of the run's score, by split, where every task has golds.

    A split is left out if no question of one of its tasks was scored twice.
    """
    weights = weights_of({name: task.domain for name, task in config.active_tasks.items()}, None)
    found: dict[str, float] = {}
    for split in dict.fromkeys(split for _, split, _ in golds):
        numbers = {task: num for task, of_split, num in golds if of_split == split}
        if set(numbers) == set(weights) and set(weights) <= set(variances):
            squares = [weight**2 * variances[task] / numbers[task] for task, weight in weights.items()]
            found[split] = math.sqrt(sum(squares) / config.generation.repeats_by_split[split])
    return found


def _moves(spread: float, upper: float | None, split: str) -> str:
    if upper is None:
        return f"{spread:.4f} ({split})"
    return f"{spread:.4f}, at most {upper:.4f} ({split})" if spread else f"at most {upper:.4f} ({split})"


def line(noise: Noise) -> str:
    """Return the noise as a line for the user."""
    num, changed, failed = noise.num_questions, noise.num_changed, noise.num_failed or 0
    if not num:
        fix = f"all {failed:,} of the second pass failed" if failed else "none was chosen, raise noise.share"
        return f"noise: no question was answered twice: {fix}"
    most = f", at most {noise.changed_upper:.1%}" if noise.changed_upper is not None else ""
    text = (
        f"noise: of {num:,} questions generated a second time {changed:,} ({changed / num:.1%}{most}) have another "
        "response"
    )
    spreads = [_moves(spread, noise.spread_upper.get(split), split) for split, spread in noise.spread.items()]
    if spreads:
        text += f"; between two runs of this model the score moves by {', '.join(spreads)}, one standard deviation"
    return f"{text}; {failed:,} rows of the second pass failed" if failed else text
