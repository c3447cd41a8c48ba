"""Simulates nights of a model with the gate's own code, and prints its false alarms and its power; see NOTES.md.

    PYTHONPATH=tests .venv/bin/python -m bench.gate              # all tables
    PYTHONPATH=tests .venv/bin/python -m bench.gate power        # or nights, years, steps, cusum, changed

The questions are those of MERA's train splits: 293, 110 and 510. Each has a probability of being answered right, the
same every night of an unchanged model: 0, 1, or, for a share of unstable ones, something between. This share is chosen
for a share of answers that flip between right and wrong from one night to the next. 70% of the answers are right.

    half      an unstable question is right with probability 0.5
    skewed    its probability is Beta(1.5, 0.5): mostly right, and most flips are a lost answer
    weak      the mirror image: mostly wrong, 30% of the answers are right

A regression by d points

    lost      turns the right answers to d% of a task's questions wrong for good
    each      multiplies all probabilities of a task by the same factor
    odds      multiplies the odds of all unstable questions of a task by the same factor
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.comparison import drops, gate, trend
from pipeline.comparison.changed_answers import sign_test
from pipeline.comparison.drops import TaskScores
from pipeline.config.schema import Config, GateConfig, ModelConfig, TaskConfig
from pipeline.metrics.max_t import TaskChanges
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.metrics.weights import weights_of
from pipeline.records import MetricChange

Floats = npt.NDArray[np.float64]
Night = list[Floats]
"""Scores of one night: for each task an array of 0 and 1, shape [questions]."""

SIZES = {"agro_bench": 293, "aqua_bench": 110, "med_bench": 510}
DOMAINS = {"agro_bench": "agriculture", "aqua_bench": "agriculture", "med_bench": "medicine"}
ACCURACY = 0.7
NUM_BASELINES = GateConfig().num_baselines
DEFAULT_ALPHA = GateConfig().alpha
ALPHAS = (0.05, 0.02, 0.01, 0.005)
YEAR = 365
NUM_QUESTIONS = 9_137
"""All questions of MERA's three tasks, of which those above have a known gold answer."""


def config_of(alpha: float, max_drop: float = 0.01) -> Config:
    """Return a configuration of the tasks with this gate."""
    tasks = {name: TaskConfig(dataset="d", domain=domain) for name, domain in DOMAINS.items()}
    rules = GateConfig(baseline="latest", alpha=alpha, max_drop=max_drop)
    return Config(tasks=tasks, model=ModelConfig(path="m", context_size=100_000), gate=rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The probability of a right answer of each question, by task."""

    p: Night

    @classmethod
    def drawn(cls, rng: np.random.Generator, kind: str, flips: float, sizes: Sequence[int] = ()) -> Model:
        """Draw a model of which a share `flips` of the answers flips between two nights."""
        return cls(p=[_probabilities(rng, kind, flips, num) for num in (sizes or SIZES.values())])

    def night(self, rng: np.random.Generator) -> Night:
        """Return one night."""
        return [(rng.random(len(p)) < p).astype(float) for p in self.p]

    def worse(self, rng: np.random.Generator, how: str, points: float) -> Model:
        """Return the model after a regression of every task by this many points."""
        return Model(p=[_WORSE[how](rng, p, points / 100) for p in self.p])


def _probabilities(rng: np.random.Generator, kind: str, flips: float, num: int) -> Floats:
    if kind == "weak":
        return 1 - _probabilities(rng, "skewed", flips, num)
    a, b = {"half": (1e9, 1e9), "skewed": (1.5, 0.5)}[kind]
    share = flips / (2 * a * b / ((a + b) * (a + b + 1)))  # of unstable questions; 2 p (1 - p) of one flips
    right = (ACCURACY - share * a / (a + b)) / (1 - share)
    return np.where(rng.random(num) < share, rng.beta(a, b, num), rng.random(num) < right)


def _lost(rng: np.random.Generator, p: Floats, share: float) -> Floats:
    found = p.copy()
    right = np.flatnonzero(p > 0.99)
    found[rng.choice(right, min(len(right), rng.binomial(len(p), share)), replace=False)] = 0
    return found


def _each(rng: np.random.Generator, p: Floats, share: float) -> Floats:  # noqa: ARG001
    return p * (1 - share / p.mean())


def _odds(rng: np.random.Generator, p: Floats, share: float) -> Floats:  # noqa: ARG001
    def with_factor(factor: float) -> Floats:
        return np.where((p > 0) & (p < 1), p / (p + (1 - p) / factor), p)

    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if (p - with_factor(middle)).mean() < share else (middle, high)
    return with_factor(low)


_WORSE: dict[str, Callable[[np.random.Generator, Floats, float], Floats]] = {
    "lost": _lost,
    "each": _each,
    "odds": _odds,
}


def rows_of(new: Night, base: Sequence[Night]) -> list[MetricChange]:
    """Return the rows that the gate tests: tasks, the domain of two tasks, the run, each by both headline metrics."""
    now, before = (
        [scores.mean() for scores in new],
        np.mean([[scores.mean() for scores in night] for night in base], axis=0),
    )
    of_task = {task: float(x - y) for task, x, y in zip(SIZES, now, before, strict=True)}
    means = [("task", name, change) for name, change in of_task.items()]
    for level, name, domain in (("domain", "agriculture", "agriculture"), ("run", "all", None)):
        weights = weights_of(DOMAINS, domain)
        means.append((level, name, sum(weight * of_task[task] for task, weight in weights.items())))
    return [_row(level, name, metric, change) for level, name, change in means for metric in HEADLINE_METRICS]


def _row(level: str, name: str, metric: str, change: float) -> MetricChange:
    numbers = {"base": 0.0, "new": change, "difference": change, "stderr": None, "ci_low": 0.0, "ci_high": 0.0}
    tests = {"test": "", "p_value": 1.0, "p_holm": 1.0, "detectable": None}
    counts = {"num_questions": 1, "num_lost": None, "num_gained": None, "num_parts": 2}
    return MetricChange(level=level, task=name, split="train", metric=metric, **numbers, **tests, **counts)  # type: ignore[arg-type]


def judged(new: Night, base: Sequence[Night], config: Config) -> tuple[list[MetricChange], list[float]]:
    """Return the tested rows of a night against these nights, with their p-values."""
    tasks = {}
    for place, task in enumerate(SIZES):
        values = np.column_stack([new[place], *(night[place] for night in base)])
        changes = TaskChanges(num_metrics=len(HEADLINE_METRICS))
        differing = values[np.ptp(values, axis=1) > 0]
        changes.add(np.repeat(differing[:, :, None], len(HEADLINE_METRICS), axis=2))
        tasks[task, "train"] = TaskScores(changes=changes, num_questions=dict.fromkeys(HEADLINE_METRICS, len(values)))
    rows = rows_of(new, base)
    return rows, drops.p_values(tasks, rows, DOMAINS, config.gate.alpha)


def has_large_drop(new: Night, base: Sequence[Night], config: Config) -> bool:
    """Return whether a drop is larger than the limit: only then are p-values needed."""
    return any(_is_large(row, config) for row in rows_of(new, base))


def _is_large(row: MetricChange, config: Config) -> bool:
    return -row.difference > config.gate.max_drop + gate.ROUNDING


def smallest_p(new: Night, base: Sequence[Night], config: Config) -> float:
    """Return the smallest p-value of a drop that is larger than the limit: the gate breaks at any larger alpha."""
    if not has_large_drop(new, base, config):
        return 1.0
    rows, p_values = judged(new, base, config)
    large = [p for row, p in zip(rows, p_values, strict=True) if _is_large(row, config)]
    return min(large, default=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of the simulation of single nights; `repeats` is whether all baseline nights are the same."""

    kind: str = "half"
    flips: float = 0.07
    num_baselines: int = NUM_BASELINES
    repeats: bool = False
    how: str = "lost"
    points: float = 0.0

    def p_values(self, rng: np.random.Generator, num: int, config: Config) -> Floats:
        """Return the smallest p-value of each of `num` nights, each of another model."""
        found = []
        for _ in range(num):
            model = Model.drawn(rng, self.kind, self.flips)
            base = [model.night(rng) for _ in range(1 if self.repeats else self.num_baselines)]
            base = base * self.num_baselines if self.repeats else base
            worse = model.worse(rng, self.how, self.points) if self.points else model
            found.append(smallest_p(worse.night(rng), base, config))
        return np.array(found)


def shares(p_values: Floats) -> list[float]:
    """Return the shares of nights that break the gate at each of `ALPHAS`."""
    return [float((p_values < alpha).mean()) for alpha in ALPHAS]


def nights(num: int = 2_000) -> Iterator[str]:
    """Yield the table of false alarms of single nights."""
    yield f"False alarms: share of {num:,} nights of an unchanged model; wanted: at most alpha"
    yield "| unstable questions | flips | baseline | " + " | ".join(f"alpha {alpha}" for alpha in ALPHAS) + " |"
    rng = np.random.default_rng(1)
    for kind, flips, num_baselines, repeats in (
        ("half", 0.07, NUM_BASELINES, False),
        ("half", 0.026, NUM_BASELINES, False),
        ("skewed", 0.07, NUM_BASELINES, False),
        ("weak", 0.07, NUM_BASELINES, False),
        ("weak", 0.026, NUM_BASELINES, False),
        ("half", 0.07, NUM_BASELINES, True),
        ("half", 0.07, 1, False),
    ):
        setting = Setting(kind=kind, flips=flips, num_baselines=num_baselines, repeats=repeats)
        found = shares(setting.p_values(rng, num, config_of(min(ALPHAS))))
        base = f"{num_baselines} nights" + (", all the same" if repeats else "")
        yield f"| {kind} | {flips:.1%} | {base} | " + " | ".join(f"{share:.4f}" for share in found) + " |"


def power(num: int = 400) -> Iterator[str]:
    """Yield the table of power."""
    yield f"Power: share of {num:,} nights that break the gate, every task worse by 1, 2 and 3 points"
    titles = [f"{points} at {alpha}" for alpha in ALPHAS for points in (1, 2, 3)]
    yield "| unstable questions | regression | flips | baseline | " + " | ".join(titles) + " |"
    rng = np.random.default_rng(2)
    for kind, how, flips, num_baselines in (
        *((kind, how, 0.07, NUM_BASELINES) for kind in ("half", "skewed") for how in ("lost", "each", "odds")),
        ("half", "lost", 0.026, NUM_BASELINES),
        ("half", "lost", 0.07, 1),
    ):
        found = []
        for points in (1, 2, 3):
            setting = Setting(kind=kind, flips=flips, num_baselines=num_baselines, how=how, points=points)
            found.append(shares(setting.p_values(rng, num, config_of(min(ALPHAS)))))
        cells = [f"{each[place]:.2f}" for place in range(len(ALPHAS)) for each in found]
        yield f"| {kind} | {how} | {flips:.1%} | {num_baselines} | " + " | ".join(cells) + " |"


def broken_nights(
    made: Sequence[Night], config: Config, *, earlier: Sequence[Night] = (), is_fixed: bool = False
) -> list[bool]:
    """Return for each night whether it breaks the gate, against the newest nights before it that did not.

    The `earlier` nights have kept the gate. With `is_fixed` the first night is the baseline of all.
    """
    pool: deque[Night] = deque(reversed(earlier), maxlen=NUM_BASELINES)
    found = []
    for night in made:
        is_judged = bool(pool) and has_large_drop(night, pool, config)
        found.append(is_judged and gate.drop_rule(config, *judged(night, pool, config)).broken)
        if not found[-1] and not (is_fixed and pool):
            pool.appendleft(night)
    return found


def alarms(made: Sequence[Night]) -> npt.NDArray[np.bool_]:
    """Return for each night whether the CUSUM of the run, and of each domain, has an alarm; shape [nights, scores]."""
    runs = [trend.RunScores(run_id="", values=values_of(night)) for night in made]
    names = [("run", "all", "train"), ("domain", "agriculture", "train"), ("domain", "medicine", "train")]
    charts = [trend.chart(name, DOMAINS, runs) for name in names]
    return np.array([[step.is_alarm for step in steps] for steps in zip(*charts, strict=True)])


def values_of(night: Night) -> dict[trend.Name, tuple[float, int]]:
    """Return the scores of a night as metrics.parquet has them."""
    means = {task: (float(scores.mean()), len(scores)) for task, scores in zip(SIZES, night, strict=True)}
    found: dict[trend.Name, tuple[float, int]] = {("task", task, "train"): mean for task, mean in means.items()}
    for level, name, domain in (
        ("domain", "agriculture", "agriculture"),
        ("domain", "medicine", "medicine"),
        ("run", "all", None),
    ):
        weights = weights_of(DOMAINS, domain)
        found[level, name, "train"] = (
            sum(weight * means[task][0] for task, weight in weights.items()),
            sum(SIZES.values()),
        )
    return found


def years(num: int = 60) -> Iterator[str]:
    """Yield the false alarms of whole years, each of another model."""
    yield f"Whole years of an unchanged model, 7% flips; latest: {NUM_BASELINES} nights pooled, fixed: the first night"
    yield "| baseline | alpha | years | promised red nights a year | red nights a year | most | years without one |"
    rng = np.random.default_rng(3)
    for alpha, number, is_fixed in (
        (DEFAULT_ALPHA, num, False),
        (max(ALPHAS), num // 3, False),
        (DEFAULT_ALPHA, num // 3, True),
    ):
        config = config_of(alpha)
        red = []
        for _ in range(number):
            model = Model.drawn(rng, "half", 0.07)
            red.append(sum(broken_nights([model.night(rng) for _ in range(YEAR)], config, is_fixed=is_fixed)))
        cells = [f"{alpha * YEAR:.1f}", f"{np.mean(red):.2f}", max(red), f"{np.mean(np.array(red) == 0):.0%}"]
        yield f"| {'fixed' if is_fixed else 'latest'} | {alpha} | {number} | " + " | ".join(map(str, cells)) + " |"


def steps(num: int = 200, before: int = 120, after: int = 30) -> Iterator[str]:
    """Yield how soon a step of 1 point is found by the gate and by the CUSUM."""
    yield f"A step of 1 point in every task after {before} nights, {num} times: found within 7 and {after} nights"
    yield "| unstable questions | flips | gate, 7 | CUSUM, 7 | CUSUM, 30 | either, 7 |"
    rng, config = np.random.default_rng(4), config_of(DEFAULT_ALPHA)
    for kind, flips in (("half", 0.07), ("half", 0.05), ("half", 0.026), ("skewed", 0.07)):
        by_gate, by_cusum = [], []
        for _ in range(num):
            model = Model.drawn(rng, kind, flips)
            worse = model.worse(rng, "lost", 1)
            made = [model.night(rng) for _ in range(before)] + [worse.night(rng) for _ in range(after)]
            charts = alarms(made).any(axis=1)
            if not charts[before - 1]:  # else it is a false alarm
                by_cusum.append(charts[before:])
                week, earlier = made[before : before + 7], made[before - NUM_BASELINES : before]
                by_gate.append(broken_nights(week, config, earlier=earlier))
        found = [
            np.array(each)[:, :most].any(axis=1) for each, most in ((by_gate, 7), (by_cusum, 7), (by_cusum, after))
        ]
        either = found[0] | found[1]
        yield f"| {kind} | {flips:.1%} | " + " | ".join(f"{share.mean():.2f}" for share in (*found, either)) + " |"


def cusum(num: int = 2_000) -> Iterator[str]:
    """Yield the false alarms of the CUSUM over whole years."""
    yield f"CUSUM: share of {num:,} years of an unchanged model with any alarm; wanted: at most 5%"
    yield "| unstable questions | flips | sd of a night | run | agriculture | medicine | any |"
    rng = np.random.default_rng(5)
    for kind, flips in (("half", 0.07), ("half", 0.026), ("skewed", 0.07)):
        found, nights_sd = [], []
        for _ in range(num):
            model = Model.drawn(rng, kind, flips)
            made = [model.night(rng) for _ in range(YEAR)]
            nights_sd.append(np.std([values_of(night)["run", "all", "train"][0] for night in made]))
            found.append(alarms(made).any(axis=0))
        year = np.array(found)
        cells = [*year.mean(axis=0), year.any(axis=1).mean()]
        yield (
            f"| {kind} | {flips:.1%} | {np.mean(nights_sd):.4f} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |"
        )


def changed(num: int = 2_000) -> Iterator[str]:
    """Yield false alarms and power of the share of changed answers, over all questions and over the labelled ones."""
    titles = [f"{what} at {alpha}" for alpha in ALPHAS for what in ("false alarms", "power, 1 point")]
    yield f"Changed answers: shares of {num:,} nights; power for a step of 1 point (lost) that night"
    yield "| unstable questions | flips | questions | " + " | ".join(titles) + " |"
    rng = np.random.default_rng(6)
    for kind, flips in (("half", 0.07), ("half", 0.026), ("skewed", 0.07)):
        for questions in (NUM_QUESTIONS, sum(SIZES.values())):
            p_values = np.array([_changed_p_values(rng, kind, flips, questions) for _ in range(num)])
            cells = [f"{(p_values[:, place] < alpha).mean():.3f}" for alpha in ALPHAS for place in (0, 1)]
            yield f"| {kind} | {flips:.1%} | {questions:,} | " + " | ".join(cells) + " |"


def _changed_p_values(rng: np.random.Generator, kind: str, flips: float, questions: int) -> tuple[float, float]:
    """Return the p-values of an unchanged night, and of one of a model that has lost a point."""
    model = Model.drawn(rng, kind, flips, [questions])
    (before,), (last,), (same,) = (model.night(rng) for _ in range(3))
    (worse,) = model.worse(rng, "lost", 1).night(rng)
    old = before != last
    pairs = [(now != last, old) for now in (same, worse)]
    first, second = (sign_test(int((new & ~old).sum()), int((old & ~new).sum())) for new, old in pairs)
    return first, second


TABLES = {"nights": nights, "power": power, "years": years, "steps": steps, "cusum": cusum, "changed": changed}


def main(names: Sequence[str]) -> None:
    """Print the tables with these names, or all."""
    for name in names or TABLES:
        for line in TABLES[name]():
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
