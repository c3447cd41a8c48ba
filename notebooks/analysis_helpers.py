"""The database, the statistics and the figures of analysis.ipynb, whose cells have the queries."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import duckdb
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit
from scipy.stats import hypergeom

DIRECTORY = Path(__file__).absolute().parent

STYLE = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "text.parse_math": False,  # a category or a model may contain a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "font.size": 9,
}
BLUE, RED, DARK, GREY = "#1f6f8b", "#b3442e", "#333333", "#d9d9d9"

CHOICE = """
-- The split with the most questions that have a gold, and the newest run.
SET VARIABLE split = coalesce(getvariable('split'), (
    SELECT split FROM metrics WHERE level = 'task' AND group_by IS NULL AND metric = 'correct'
    GROUP BY split ORDER BY sum(num_scored) DESC, split LIMIT 1));
SET VARIABLE run = coalesce(getvariable('run'), (SELECT run FROM runs ORDER BY started_at DESC, run DESC LIMIT 1));

-- The newest runs, as many as `last`.
CREATE TEMP VIEW recent AS
SELECT * REPLACE (coalesce(model, 'unknown model') AS model)
FROM runs ORDER BY started_at DESC, run DESC LIMIT getvariable('last');

-- Of the recent runs the score `metric` over all domains (level run, task all) and of each domain.
CREATE TEMP VIEW scores AS
SELECT metrics.*, model, started_at, model_revision, model_fingerprint, template_fingerprint
FROM metrics JOIN recent USING (run)
WHERE level IN ('run', 'domain') AND group_by IS NULL AND metric = getvariable('metric')
    AND split = getvariable('split') AND value IS NOT NULL;

-- `correct` of each category of `run`, with the mean and the rows of the whole task, and the repeats of a question.
CREATE TEMP VIEW categories AS
WITH tasks AS (
    SELECT run, task, split, value AS mean, num_scored AS num_rows FROM metrics
    WHERE level = 'task' AND group_by IS NULL AND metric = 'correct'
)
SELECT *,
    (SELECT max(repeat) + 1 FROM samples WHERE run = getvariable('run') AND split = getvariable('split')) AS repeats
FROM metrics JOIN tasks USING (run, task, split)
WHERE run = getvariable('run') AND split = getvariable('split') AND level = 'task' AND metric = 'correct'
    AND group_by IS NOT NULL;

-- The samples of `run` that failed, one row for each kind of failure that a sample has.
CREATE TEMP VIEW failures AS
SELECT * FROM (
    SELECT *, unnest([
        CASE WHEN finish_reason = 'length' THEN 'cut' END,
        CASE WHEN answer IS NULL AND error IS NULL AND finish_reason <> 'length' AND trim(response, e' \\n\\t') <> ''
            THEN 'no letter' END,
        CASE WHEN error IS NOT NULL THEN 'failed' END,
        CASE WHEN em = 1 AND trim(coalesce(response, ''), e' \\n\\t') = '' THEN 'empty, and right by accident' END,
        CASE WHEN em = 0 AND correct = 1 THEN 'right, but not exact' END
    ]) AS kind
    FROM samples WHERE run = getvariable('run')
) WHERE kind IS NOT NULL;
"""
"""Sets the choice that the parameters leave open; views of what is shown, in addition to those of views.sql."""


def open_runs(outputs: str, **choice: Any) -> tuple[Callable[[str], pd.DataFrame], str | None, str | None]:
    """Open the views over the runs in `outputs`.

    Args:
        outputs: The directory of the runs, relative to this module's directory, or a URL.
        choice: Variables of the queries: `last`, `metric`, `split` (None: that with the most questions that have a
            gold), `run` (None: the newest) and any others.

    Returns:
        A function that runs a query and returns its rows, the split and the run.

    Raises:
        duckdb.IOException: There is no run in `outputs`.
    """
    database = duckdb.connect()
    # A kernel may run in the project's root.
    place = outputs if "://" in outputs else str(DIRECTORY / outputs)
    for name, value in {"outputs": place, **choice}.items():
        database.execute(f"SET VARIABLE {name} = $value", {"value": value})
    database.execute((DIRECTORY / "views.sql").read_text(encoding="utf-8"))
    database.execute(CHOICE)
    [(split, run)] = database.execute("SELECT getvariable('split'), getvariable('run')").fetchall()
    return lambda query: database.sql(query).df(), split, run


def set_style() -> None:
    """Set the style of all figures; after `%matplotlib inline`, which has one of its own."""
    mpl.rcParams |= STYLE


def add_band(trend: pd.DataFrame) -> pd.DataFrame:
    """Add the simultaneous 95% prediction interval of each run, from the runs before it.

    It is Student's t interval of a new observation, mean +- t sd sqrt(1 + 1/num), with Bonferroni's level of
    0.05 / len(trend) for each row; runs are taken as independent and normal.

    Args:
        trend: A row for each run, with `mean`, `sd` and `num` of the runs before it.

    Returns:
        The rows with `low` and `high`, which are NaN for fewer than two runs before.
    """
    reach = stdtrit(trend.num - 1.0, 1 - 0.05 / 2 / max(1, len(trend))) * trend.sd * (1 + 1 / trend.num) ** 0.5
    return trend.assign(low=trend["mean"] - reach, high=trend["mean"] + reach)


def mark_certain(categories: pd.DataFrame) -> pd.DataFrame:
    """Mark the categories that are harder than the rest of their task, at a family-wise error rate of 5%.

    One-sided Fisher's exact test of each category against its task, adjusted by Holm over all rows.

    Args:
        categories: Rows of the view `categories`.

    Returns:
        The rows with `p` and `is_certain`.
    """
    of_task = (categories.num_rows / categories.repeats).round()
    of_group = (categories.num_scored / categories.repeats).round()
    right = (categories.value * of_group).round()
    p = pd.Series(hypergeom.cdf(right, of_task, (categories["mean"] * of_task).round(), of_group), categories.index)
    ordered = p.sort_values()
    adjusted = (ordered * np.arange(len(ordered), 0, -1)).cummax()
    return categories.assign(p=p, is_certain=adjusted < 0.05)


def plot_leaderboard(board: pd.DataFrame, metric: str, split: str) -> None:
    """Plot the scores of the runs with intervals and bounds, a panel for each domain."""
    columns = board.task.unique()
    width, height = 2.2 + 2.7 * max(1, len(columns)), 1.4 + 0.28 * board.run.nunique()
    figure, panels = plt.subplots(
        1, max(1, len(columns)), sharex=True, sharey=True, squeeze=False, figsize=(width, height)
    )
    for axes, column in zip(panels[0], columns, strict=False):
        rows = board[board.task == column]
        label = "bounds: all cut, empty and failed rows wrong, or right"
        axes.barh(rows.run, rows.bound_high - rows.bound_low, left=rows.bound_low, height=0.5, color=GREY, label=label)
        _plot_intervals(axes, rows, rows.run, color=BLUE, label="value and 95% interval")
        axes.set(title=_title(column), xlabel=f"{metric}, {split}, n = {rows.n.max()}")
    panels[0][0].invert_yaxis()
    _add_legend(figure, panels[0][0], "upper right")


def plot_trend(trend: pd.DataFrame, metric: str, split: str) -> None:
    """Plot the scores of each model over time with the bands of `add_band`, a panel for each domain."""
    columns = trend.task.unique()
    count = max(1, len(columns))
    figure, panels = plt.subplots(count, 1, sharex=True, squeeze=False, figsize=(8.5, 0.8 + 1.9 * count))
    for axes, column in zip(panels[:, 0], columns, strict=False):
        of_column = trend[trend.task == column]
        of_models = {model: of_column[of_column.model == model] for model in sorted(trend.model.unique())}
        for place, (model, rows) in enumerate(of_models.items()):
            axes.plot(rows.started_at, rows.value, "o-", markersize=4, color=f"C{place}", label=f" {model}")
        # The scores set the axis: a band of two runs is so wide that nothing else would be seen.
        axes.margins(y=0.5)
        axes.set_ylim(axes.get_ylim())
        for place, rows in enumerate(of_models.values()):
            axes.fill_between(rows.started_at, rows.low, rows.high, color=f"C{place}", alpha=0.15, linewidth=0)
        axes.set(title=_title(column), ylabel=f"{metric}, {split}, n = {of_column.n.max()}")
    panels[-1, 0].set_xlabel("start of the run, UTC")
    _set_dates(panels[-1, 0], trend.started_at)
    _add_legend(figure, panels[0, 0], "upper center")


def plot_over_runs(trends: pd.DataFrame, changes: pd.DataFrame, split: str) -> None:
    """Plot the CUSUM of each score with its limit, and the share of changed answers of each model."""
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8.5, 4.2))
    for place, ((task, model), rows) in enumerate(trends.groupby(["task", "model"], sort=False)):
        above.plot(rows.started_at, rows.statistic, "o-", markersize=3, color=f"C{place}", label=f" {task}, {model}")
        above.axhline(rows["limit"].iloc[-1], color=f"C{place}", linewidth=0.8, linestyle="--")
    for place, (_, rows) in enumerate(changes.groupby("model")):
        below.plot(rows.started_at, rows.share, "o-", markersize=3, color=f"C{place}")
    above.set(ylabel=f"CUSUM of score, {split}", ylim=(0, None))
    below.set(ylabel="share of changed answers", ylim=(0, None))
    _set_dates(below, pd.concat([trends.started_at, changes.started_at]))
    _add_legend(figure, above, "upper center")


def plot_hardest(hardest: pd.DataFrame, split: str, run: str) -> None:
    """Plot categories with intervals and the mean of their task; those of `mark_certain` filled."""
    figure, axes = plt.subplots(figsize=(8.5, 1 + 0.3 * len(hardest)))
    _plot_intervals(axes, hardest, hardest.label, color=RED, markerfacecolor="white")
    certain = hardest[hardest.is_certain]
    axes.plot(certain.value, certain.label, "o", markersize=4, color=RED, label="hard for sure")
    axes.plot(hardest["mean"], hardest.label, "|", color=DARK, markersize=11, label="the whole task")
    axes.set(xlim=(-0.02, 1.02), xlabel=f"correct, {split}, run {run}")
    axes.invert_yaxis()
    figure.legend(loc="outside upper right", frameon=False)


def plot_wordings(wordings: pd.DataFrame, split: str, run: str) -> None:
    """Plot the wordings of the instruction with intervals and the mean of the task (dashed), a panel for each task."""
    columns = wordings.task.unique()
    across = max(1, min(3, len(columns)))
    down = max(1, -(-len(columns) // across))  # rounded up
    height = 1.2 + 0.25 * max(wordings.task.value_counts(), default=1)
    _, panels = plt.subplots(down, across, squeeze=False, figsize=(3.6 * across, down * height))
    for axes in panels.flat[len(columns) :]:
        axes.remove()
    for axes, column in zip(panels.flat, columns, strict=False):
        rows = wordings[wordings.task == column]
        _plot_intervals(axes, rows, rows.label, color=BLUE)
        axes.axvline(rows["mean"].iloc[0], color=DARK, linewidth=0.9, linestyle="--")
        axes.set(title=column, xlim=(-0.02, 1.02), xlabel=f"correct, {split}, run {run}")
        axes.margins(y=0.12)


def plot_cost(cost: pd.DataFrame, run: str) -> None:
    """Plot the output tokens and the engine's seconds per question of each task: mean and 95th percentile."""
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(8.5, 1.3 + 0.35 * len(cost)))
    units = {"tokens": "output tokens a question", "engine_s": "engine's seconds a question"}
    for axes, (column, unit) in zip(panels, units.items(), strict=True):
        axes.barh(cost.task, cost[column], color=BLUE, height=0.6, label="mean")
        axes.plot(cost[f"{column}_p95"], cost.task, "|", color=DARK, markersize=12, label="95th percentile")
        axes.set(xlabel=f"{unit}, run {run}", xlim=(0, None))
    panels[0].invert_yaxis()
    _add_legend(figure, panels[1], "upper right")


def show_failures(failures: pd.DataFrame, most_characters: int) -> None:
    """Display each row as text: the end of its prompt, both ends of what was generated and of the response, the error.

    Args:
        failures: Rows with kind, task, split, id, repeat, prompt, generated, response and error.
        most_characters: Of each text; the error is shown whole.
    """
    for row in failures.itertuples():
        title = f"{row.kind}: {row.task}, {row.split}, id {row.id}, repeat {row.repeat}"
        display(HTML(f"<h4>{escape(title)}</h4>"))
        texts = {
            "prompt": shorten(row.prompt, 0, most_characters),
            "generated": shorten(row.generated, most_characters // 2, most_characters // 2),
            "response": shorten(row.response, most_characters // 2, most_characters // 2),
            "error": row.error,
        }
        for name, text in texts.items():
            display(HTML(f"<b>{name}</b> {to_html(text)}"))


def shorten(text: Any, at_start: int, at_end: int) -> Any:
    """Return the first `at_start` and the last `at_end` characters of a longer text; NULL stays NULL."""
    if not isinstance(text, str) or len(text) <= at_start + at_end:
        return text
    start = f"{text[:at_start]} " if at_start else ""
    return f"{start}[...] {text[len(text) - at_end :]}"


def to_html(text: Any) -> str:
    """Return foreign text as HTML that displays it, whatever it contains; NULL as the word none."""
    if not isinstance(text, str):
        return "<i>none</i>"
    return f"<pre dir='auto' style='white-space: pre-wrap; overflow-wrap: anywhere'>{escape(text)}</pre>"


def _plot_intervals(axes: Axes, rows: pd.DataFrame, places: pd.Series, **style: Any) -> None:
    """Plot a point for each row at its value, with the 95% interval where there is one."""
    reach = [(rows.value - rows.ci_low).clip(lower=0).fillna(0), (rows.ci_high - rows.value).clip(lower=0).fillna(0)]
    axes.errorbar(rows.value, places, xerr=reach, fmt="o", markersize=4, capsize=2.5, elinewidth=1.2, **style)


def _set_dates(axes: Axes, dates: pd.Series) -> None:
    """Give the horizontal axis these dates with half a day on both sides: the default around one run is four years."""
    if dates.notna().any():
        margin = pd.Timedelta(hours=12)
        axes.set_xlim(dates.min() - margin, dates.max() + margin)
    ticks = mpl.dates.AutoDateLocator(minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(mpl.dates.ConciseDateFormatter(ticks))


def _add_legend(figure: Figure, axes: Axes, place: str) -> None:
    """Add one legend above all panels, with the labels of this one."""
    figure.legend(*axes.get_legend_handles_labels(), loc=f"outside {place}", ncols=2, frameon=False)


def _title(task: str) -> str:
    return "all domains" if task == "all" else task
