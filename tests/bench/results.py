"""Computes medians, ratios and targets from measurements; runs nothing.

In: a `Measurement` per round and way. Out: a `Summary` per size and way, and `Target`s; both as a table and as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.settings import BASELINE, CEILING, WAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One way in one round. `seconds` is from the first request's start to the last row on disk.

    `steps_s` of these seconds passed within the model's `num_steps` steps, which took `steps_cpu_s` of CPU time; the
    rest is the way's own. `after_last_row_s` of them come after the engine's last row. `engine_end_s`, the time of the
    engine's shutdown, is not part of `seconds`. Both are None if they were not measured separately.
    """

    size: str
    way: str
    round: int
    seconds: float
    num_rows: int
    num_tokens: int
    engine_start_s: float | None
    num_steps: int
    steps_s: float
    steps_cpu_s: float
    engine_end_s: float | None = None
    after_last_row_s: float | None = None

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second."""
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One way over its rounds.

    `ratio` is the median over the rounds of this way's tokens/s divided by plain vLLM's in the same round, `ratio_low`
    and `ratio_high` are the smallest and largest of these ratios. `to` has the median ratio to each other way. A ratio
    is None or missing if no round has the other way. `step_ms` is the CPU time per step, `outside_s` the time outside
    of steps.
    """

    size: str
    way: str
    rounds: int
    seconds: float
    tokens_per_s: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    to: dict[str, float]
    engine_start_s: float | None
    num_steps: float
    step_ms: float
    outside_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target: `value` of `what` must be at least `wanted`, or at most `wanted` if `is_most`."""

    size: str
    what: str
    value: float
    wanted: float
    is_most: bool = False

    @property
    def is_met(self) -> bool:
        """Return whether the target is met."""
        return self.value <= self.wanted if self.is_most else self.value >= self.wanted

    def __str__(self) -> str:
        """Return the target as a line of text."""
        bound = f"at {'most' if self.is_most else 'least'} {self.wanted:,.5g}"
        return f"{self.size}: {self.what} = {self.value:,.5g}, wanted {bound}: {'met' if self.is_met else 'MISSED'}"


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
    """Return a summary per size and way, in the order of the measurements' sizes and of `WAYS`."""
    sizes = list(dict.fromkeys(each.size for each in measurements))
    summaries = []
    for size in sizes:
        for way in WAYS:
            own = [each for each in measurements if (each.size, each.way) == (size, way)]
            if own:
                summaries.append(_summary(own, measurements))
    return summaries


def _summary(own: Sequence[Measurement], all_of_them: Sequence[Measurement]) -> Summary:
    ratios = _ratios(own, all_of_them, BASELINE)
    to = {way: _ratios(own, all_of_them, way) for way in WAYS}
    starts = [each.engine_start_s for each in own if each.engine_start_s is not None]
    return Summary(
        size=own[0].size,
        way=own[0].way,
        rounds=len(own),
        seconds=median(each.seconds for each in own),
        tokens_per_s=median(each.tokens_per_s for each in own),
        ratio=median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        to={way: median(each) for way, each in to.items() if each},
        engine_start_s=median(starts) if starts else None,
        num_steps=median(each.num_steps for each in own),
        step_ms=median(1000 * each.steps_cpu_s / each.num_steps for each in own),
        outside_s=median(each.seconds - each.steps_s for each in own),
    )


def _ratios(own: Sequence[Measurement], all_of_them: Sequence[Measurement], other: str) -> list[float]:
    """Return the ratios of tokens/s to the other way's in the same round, where a disturbance affects both."""
    others = {(each.size, each.round): each.tokens_per_s for each in all_of_them if each.way == other}
    return [each.tokens_per_s / others[each.size, each.round] for each in own if (each.size, each.round) in others]


TO_PLAIN = {"large": 0.98, "demo": 0.95}
TO_CEILING = {"large": 0.98, "demo": 0.90}
HISTORY_TO_PLAIN = 1.05
TO_ONE_AT_A_TIME = 15.0


def targets(summaries: Sequence[Summary]) -> list[Target]:
    """Return the pipeline's targets with the measured values, for the ways that were run.

    The ceiling knows the lengths, so it is compared with the way that knows them from history.
    """
    found: list[Target] = []
    for size in dict.fromkeys(each.size for each in summaries):
        ways = {each.way: each for each in summaries if each.size == size}

        def add(what: str, value: float | None, least: float, size: str = size) -> None:
            if value is not None:
                found.append(Target(size=size, what=what, value=value, wanted=least))

        pipeline, history = ways.get("pipeline"), ways.get("history")
        if pipeline is not None:
            add("pipeline / plain vLLM", pipeline.ratio, TO_PLAIN[size])
            for other in ("ray_llm", "server_64"):
                add(f"pipeline / {WAYS[other]}", pipeline.to.get(other), 1.0)
            if size == "demo":
                add(f"pipeline / {WAYS['server_1']}", pipeline.to.get("server_1"), TO_ONE_AT_A_TIME)
        if history is not None:
            add("pipeline with history / plain vLLM", history.ratio, HISTORY_TO_PLAIN)
            add("pipeline with history / ceiling", history.to.get(CEILING), TO_CEILING[size])
    return found


def as_json(measurements: Sequence[Measurement], about: dict[str, Any]) -> dict[str, Any]:
    """Return the measurements, summaries and targets together with `about`, for bench.json."""
    summaries = summarize(measurements)
    return {
        **about,
        "summaries": [asdict(each) for each in summaries],
        "targets": [{**asdict(each), "is_met": each.is_met} for each in targets(summaries)],
        "measurements": [asdict(each) for each in measurements],
    }


HEAD = ("way", "tokens/s", "seconds", "/ plain", "least", "most", "/ ceiling", "steps", "ms a step", "outside", "start")


def table(summaries: Sequence[Summary]) -> str:
    """Return the summaries as Markdown, one table per size."""
    lines: list[str] = []
    for size in dict.fromkeys(each.size for each in summaries):
        own = [each for each in summaries if each.size == size]
        lines += ["", f"**{size}**, median of {own[0].rounds}", "", f"| {' | '.join(HEAD)} |"]
        lines.append("|---|" + "---:|" * (len(HEAD) - 1))
        lines += [f"| {' | '.join(_cells(each))} |" for each in own]
    return "\n".join(lines[1:])


def _cells(summary: Summary) -> tuple[str, ...]:
    start = "" if summary.engine_start_s is None else f"{summary.engine_start_s:.1f} s"
    ratios = (summary.ratio, summary.ratio_low, summary.ratio_high, summary.to.get(CEILING))
    cells = ("" if each is None else f"{each:.2f}" for each in ratios)
    steps = (f"{summary.num_steps:,.0f}", f"{summary.step_ms:.1f}", f"{summary.outside_s:.1f} s")
    return WAYS[summary.way], f"{summary.tokens_per_s:,.0f}", f"{summary.seconds:.1f}", *cells, *steps, start
