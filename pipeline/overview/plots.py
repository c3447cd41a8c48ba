"""Geometry of the plot of a model's history: nights in, coordinates out, which the page's template draws as SVG.

The upper panel has the scores with their 95% intervals, the lower one the CUSUM of the score over all domains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from pipeline.comparison.trend import limit_of
from pipeline.overview.history import ModelHistory, Night
from pipeline.runs.manifest import parse_time

WIDTH, LEFT, RIGHT = 1060, 10, 48
SCORES_TOP, SCORES_BOTTOM = 22, 190
CUSUM_TOP, CUSUM_BOTTOM = 214, 268
HEIGHT = 290
"""Sizes in units of the drawing."""

MOST_NAMED = 8
"""Maximum number of nights with a broken gate that have their date in the drawing."""

MANY = 120
"""Nights above which their points are small."""

LIMIT = limit_of(("run", "all", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A night with a score: where it is drawn, and how. `state` is `kept`, `broken` or `none`, that of its gate."""

    x: float
    y: float
    low: float | None
    high: float | None
    state: str
    title: str
    link: str | None
    label: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the grid with its text."""

    place: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What is drawn of a model's history; `band`, `line` and the CUSUM's areas are the paths of SVG."""

    points: tuple[Point, ...]
    radius: float
    line: str
    band: str
    cusum: str
    alarm: str
    limit_y: float
    y_ticks: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    changes: tuple[Tick, ...]
    summary: str


def plots_of(models: Sequence[ModelHistory]) -> list[tuple[ModelHistory, Plot]]:
    """Return the plots of those models that have a score and a date of two nights or more, all over the same time."""
    shown = [(model, _shown(model)) for model in models]
    shown = [(model, nights) for model, nights in shown if len(nights) > 1]
    times = [when for _, nights in shown for when, _ in nights]
    return [(model, _plot(model, nights, min(times), max(times))) for model, nights in shown]


def _shown(model: ModelHistory) -> list[tuple[datetime, Night]]:
    dated = [(when, night) for night in model.nights if (when := _when(night)) is not None]
    return [(when, night) for when, night in dated if model.score(night.run) is not None]


def _plot(model: ModelHistory, shown: Sequence[tuple[datetime, Night]], first: datetime, last: datetime) -> Plot:
    scale_x = _Scale(first.timestamp(), last.timestamp(), LEFT + 8, WIDTH - RIGHT - 8)
    ends = [end for _, night in shown for end in _ends(model, night)]
    ticks = _nice(min(ends), max(ends), 5)
    scale_y = _Scale(ticks[0], ticks[-1], SCORES_BOTTOM, SCORES_TOP)
    points = _points(model, shown, scale_x, scale_y)
    return Plot(
        points=points,
        radius=3.2 if len(points) <= MANY else 1.6,
        line=_path([(point.x, point.y) for point in points]),
        band=_band(points),
        cusum=_area(shown, scale_x, only_alarms=False),
        alarm=_area(shown, scale_x, only_alarms=True),
        limit_y=_cusum_y(LIMIT),
        y_ticks=tuple(Tick(place=scale_y(tick), text=_short(tick, ticks)) for tick in ticks),
        x_ticks=tuple(_dates(first, last, scale_x)),
        changes=tuple(
            Tick(place=scale_x(when.timestamp()), text=", ".join(night.changed))
            for when, night in shown
            if night.changed
        ),
        summary=_summary(model, points),
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values from `low` to `high` to places from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.begin + share * (self.end - self.begin), 1)


def _when(night: Night) -> datetime | None:
    entry = night.run.entry
    try:
        return parse_time(entry.ended_at or entry.started_at or "")
    except ValueError:
        return None


def _ends(model: ModelHistory, night: Night) -> list[float]:
    score = model.score(night.run)
    assert score is not None
    return [each for each in (score.value, score.ci_low, score.ci_high) if each is not None]


def _points(
    model: ModelHistory, shown: Sequence[tuple[datetime, Night]], scale_x: _Scale, scale_y: _Scale
) -> tuple[Point, ...]:
    num_broken = sum(gate_state(night) == "broken" for _, night in shown)
    found: list[Point] = []
    for when, night in shown:
        score, state = model.score(night.run), gate_state(night)
        assert score is not None
        assert score.value is not None
        found.append(
            Point(
                x=scale_x(when.timestamp()),
                y=scale_y(score.value),
                low=None if score.ci_low is None else scale_y(score.ci_low),
                high=None if score.ci_high is None else scale_y(score.ci_high),
                state=state,
                title=_title(model, night),
                link=night.run.link,
                label=f"{when:%m-%d}" if state == "broken" and num_broken <= MOST_NAMED else None,
            )
        )
    return tuple(found)


def gate_state(night: Night) -> str:
    """Return the state of a night's gate: `kept`, `broken`, or `none` if no rule was set."""
    gate = night.run.entry.gate
    return "none" if gate is None else "broken" if gate.broken else "kept"


def _title(model: ModelHistory, night: Night) -> str:
    entry, score = night.run.entry, model.score(night.run)
    assert score is not None
    lines = [entry.run_id, f"score {score.value:.3f}"]
    if score.ci_low is not None and score.ci_high is not None:
        lines.append(f"95% interval {score.ci_low:.3f} to {score.ci_high:.3f}")
    if entry.gate is not None:
        lines.append(f"gate broken: {', '.join(entry.gate.broken)}" if entry.gate.broken else "gate kept")
    step = night.steps.get("all")
    if step is not None:
        lines.append(f"CUSUM {step.statistic:.1f} of {LIMIT:g}")
    lines += [f"declined: {declines(night)}"] if night.declined else []
    return "\n".join(lines)


def declines(night: Night) -> str:
    """Return what has declined and since which run, such as "score, medicine since 2026-11-10"."""
    names = {since: ["score" if name == "all" else name for name in names] for since, names in night.declined.items()}
    return "; ".join(f"{', '.join(each)} since {since}" for since, each in names.items())


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places) if places else ""


def _band(points: Sequence[Point]) -> str:
    known = [point for point in points if point.low is not None and point.high is not None]
    upper = [(point.x, point.high or 0.0) for point in known]
    lower = [(point.x, point.low or 0.0) for point in reversed(known)]
    return f"{_path(upper + lower)}Z" if known else ""


def _cusum_y(statistic: float) -> float:
    return _Scale(0.0, LIMIT * 1.15, CUSUM_BOTTOM, CUSUM_TOP)(min(statistic, LIMIT * 1.15))


def _area(shown: Sequence[tuple[datetime, Night]], scale_x: _Scale, *, only_alarms: bool) -> str:
    """Return bars of the CUSUM, a night each, as wide as fit."""
    places = [scale_x(when.timestamp()) for when, _ in shown]
    gaps = [after - before for before, after in pairwise(places) if after > before]
    half = max(0.6, min(7.0, 0.4 * min(gaps, default=7.0)))
    bars = []
    for when, night in shown:
        step = night.steps.get("all")
        if step is not None and step.statistic > 0 and (step.is_alarm or not only_alarms):
            x, y = scale_x(when.timestamp()), _cusum_y(step.statistic)
            bars.append(f"M{x - half:.1f} {CUSUM_BOTTOM}V{y:g}h{2 * half:.1f}V{CUSUM_BOTTOM}Z")
    return "".join(bars)


def _nice(low: float, high: float, num: int) -> list[float]:
    """Return about `num` round numbers, the first at most `low` and the last at least `high`."""
    span = max(high - low, 0.01)
    size = 10 ** math.floor(math.log10(span / num))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size * num >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 6) for number in range(first, max(last, first + 1) + 1)]


def _short(tick: float, ticks: Sequence[float]) -> str:
    return f"{tick:.{2 if all(abs(each * 100 - round(each * 100)) < 1e-6 for each in ticks) else 3}f}"


def _dates(first: datetime, last: datetime, scale: _Scale, num: int = 7) -> list[Tick]:
    """Return the days at which the axis of time has a tick; the first and the last are days of a night."""
    days = max(1, (last - first).days)
    step = max(1, math.ceil(days / num))
    ticks = [first + timedelta(days=step * number) for number in range(days // step + 1)]
    return [Tick(place=scale(tick.timestamp()), text=f"{tick:%Y-%m-%d}") for tick in ticks if tick <= last]


def _summary(model: ModelHistory, points: Sequence[Point]) -> str:
    """Return the plot in words, for those who do not see it."""
    newest = model.score(model.newest.run)
    value = "unknown" if newest is None else f"{newest.value:.3f}"
    num_broken = sum(point.state == "broken" for point in points)
    text = f"Score of {model.name} over {len(points)} runs; the newest is {value}; {num_broken} broke their gate"
    return f"{text}; declined: {declines(model.newest)}" if model.newest.declined else text
