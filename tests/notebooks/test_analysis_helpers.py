"""notebooks/analysis_helpers.py: what the notebook's queries run on, its statistics and how it displays texts."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from builders import ROOT
from matplotlib import pyplot as plt
from scipy.stats import fisher_exact, t

CHOICE: dict[str, Any] = {"last": 30, "metric": "score", "split": None, "run": None, "price": None}


def module_at(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("analysis_helpers", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mpl.use("agg")
helpers = module_at(ROOT / "notebooks/analysis_helpers.py")


def test_the_newest_run_and_the_split_with_the_most_golds_are_chosen(made: Path) -> None:
    _, split, run = helpers.open_runs(str(made), **CHOICE)
    assert (split, run) == ("test", "large")
    _, split, run = helpers.open_runs(str(made), **CHOICE | {"split": "train", "run": "2026-11-20"})
    assert (split, run) == ("train", "2026-11-20")


def test_only_the_last_runs_are_recent(made: Path) -> None:
    sql, _, _ = helpers.open_runs(str(made), **CHOICE | {"last": 2})
    assert set(sql("FROM recent").run) == set(sql("FROM scores").run) == {"2026-11-21", "large"}
    assert len(sql("FROM runs")) == 3


def test_a_run_without_a_model_has_a_name_for_it(output: Path) -> None:
    file = output / "run=large/manifest.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"config": {', '"older": {'), encoding="utf-8")
    sql, _, _ = helpers.open_runs(str(output), **CHOICE)
    assert set(sql("FROM recent").model) == {"small", "unknown model"}


def test_outputs_is_relative_to_the_module_wherever_the_kernel_runs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    for name in ("analysis_helpers.py", "views.sql"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    (tmp_path / "outputs").symlink_to(made)
    copy = module_at(tmp_path / "notebooks/analysis_helpers.py")
    for directory in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(directory)
        assert len(copy.open_runs("../outputs", **CHOICE)[0]("FROM runs")) == 3


def test_a_directory_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(duckdb.IOException, match=str(tmp_path)):
        helpers.open_runs(str(tmp_path), **CHOICE)


def test_categories_have_the_mean_of_their_task(made: Path) -> None:
    sql, _, _ = helpers.open_runs(str(made), **CHOICE)
    found = sql("SELECT DISTINCT task, mean, num_rows, repeats FROM categories ORDER BY task")
    written = sql("""
        SELECT task, value, num_scored FROM metrics WHERE run = 'large' AND split = 'test' AND level = 'task'
            AND group_by IS NULL AND metric = 'correct' ORDER BY task
    """)
    assert found[["task", "mean", "num_rows"]].to_numpy().tolist() == written.to_numpy().tolist()
    assert set(found.repeats) == {1}


def test_the_band_is_the_prediction_interval_of_the_runs_before() -> None:
    values = [0.61, 0.64, 0.60, 0.63, 0.70]
    before = [pd.Series(values[:place], dtype=float) for place in range(len(values))]
    trend = pd.DataFrame({"mean": [b.mean() for b in before], "sd": [b.std() for b in before], "num": range(5)})
    banded = helpers.add_band(trend)
    assert banded.low.isna().tolist() == banded.high.isna().tolist() == [True, True, False, False, False]
    reach = t.ppf(1 - 0.05 / 2 / 5, df=3) * np.std(values[:4], ddof=1) * (1 + 1 / 4) ** 0.5
    assert (banded.low[4], banded.high[4]) == pytest.approx((np.mean(values[:4]) - reach, np.mean(values[:4]) + reach))
    assert "low" not in trend


def categories(*right_of: tuple[int, int], repeats: int = 1) -> pd.DataFrame:
    """Return the categories of one task of 100 questions, 70 of them right, from (right, questions) of each."""
    rows = [(right / of, of * repeats, 0.7, 100 * repeats, repeats) for right, of in right_of]
    return pd.DataFrame(rows, columns=["value", "num_scored", "mean", "num_rows", "repeats"]).astype(float)


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_category_is_tested_against_the_rest_of_its_task_and_repeats_are_one_question(repeats: int) -> None:
    marked = helpers.mark_certain(categories((2, 10), (8, 10), repeats=repeats))
    for (right, of), p in zip([(2, 10), (8, 10)], marked.p, strict=True):
        table = [[right, of - right], [70 - right, 30 - (of - right)]]
        assert p == pytest.approx(fisher_exact(table, alternative="less").pvalue)
    assert marked.is_certain.tolist() == [True, False]


def test_more_categories_need_more_evidence() -> None:
    hard = (4, 10)  # p = 0.034
    assert helpers.mark_certain(categories(hard)).is_certain.tolist() == [True]
    assert not helpers.mark_certain(categories(hard, (7, 10))).is_certain.any()
    assert helpers.mark_certain(categories()).is_certain.tolist() == []


@pytest.mark.parametrize(
    ("text", "ends", "expected"),
    [
        ("abcdef", (3, 3), "abcdef"),
        ("abcdefg", (3, 3), "abc [...] efg"),
        ("abcdef", (0, 2), "[...] ef"),
        ("abcdef", (0, 0), "[...] "),
        ("", (0, 0), ""),
        (None, (3, 3), None),
    ],
)
def test_a_long_text_is_shortened_to_its_ends(text: str | None, ends: tuple[int, int], expected: str | None) -> None:
    assert helpers.shorten(text, *ends) == expected


def test_a_text_is_displayed_whatever_it_contains_and_null_as_none() -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in helpers.to_html("<script>alert(1)</script>")
    assert helpers.to_html(None) == helpers.to_html(float("nan")) == "<i>none</i>"


def test_one_run_is_drawn_within_a_day() -> None:
    row = {"task": "all", "model": "small", "started_at": pd.Timestamp("2026-11-21"), "statistic": 0.0, "limit": 7.0}
    helpers.plot_over_runs(pd.DataFrame([row]), pd.DataFrame([row | {"share": 0.1}]), "test")
    assert [axes.get_xlim()[1] - axes.get_xlim()[0] for axes in plt.gcf().axes] == [1, 1]
    plt.close("all")


def test_a_wide_band_does_not_hide_the_scores() -> None:
    dates = pd.date_range("2026-11-01", periods=3)
    trend = pd.DataFrame({"task": "all", "model": "small", "started_at": dates, "n": 9, "value": [0.60, 0.62, 0.61]})
    trend = trend.assign(low=[np.nan, np.nan, -8.0], high=[np.nan, np.nan, 9.0])
    helpers.plot_trend(trend, "score", "test")
    low, high = plt.gcf().axes[0].get_ylim()
    assert 0.5 < low < 0.60
    assert 0.62 < high < 0.7
    plt.close("all")


def test_figures_of_no_rows_are_drawn() -> None:
    scores = pd.DataFrame(columns=["run", "task", "model", "n", "value", "low", "high", "started_at"])
    with mpl.rc_context(helpers.STYLE):
        helpers.plot_leaderboard(scores, "score", "test")
        helpers.plot_trend(scores, "score", "test")
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    plt.close("all")
