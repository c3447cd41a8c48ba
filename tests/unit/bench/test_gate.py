"""A small simulation of the gate: `python -m bench.gate` is the large one, with its figures in tests/bench/NOTES.md."""

from __future__ import annotations

import numpy as np
import pytest
from bench.gate import Model, Setting, broken_nights, config_of, shares

from pipeline.metrics import max_t


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw less often than the gate does; the p-values vary by 0.002 around 0.005 then."""
    monkeypatch.setattr(max_t, "NUM_DRAWS", 1_000)
    monkeypatch.setattr(max_t, "num_draws", lambda _: 1_000)
    monkeypatch.setattr("pipeline.comparison.drops.num_draws", lambda _: 1_000)


def test_a_model_flips_and_drops_as_configured() -> None:
    rng = np.random.default_rng(1)
    for kind in ("half", "skewed", "weak"):
        model = Model.drawn(rng, kind, 0.07, [200_000])
        (p,) = model.p
        assert (2 * p * (1 - p)).mean() == pytest.approx(0.07, abs=0.002)
        assert p.mean() == pytest.approx(0.3 if kind == "weak" else 0.7, abs=0.005)
        for how in ("lost", "each", "odds"):
            assert p.mean() - model.worse(rng, how, 2).p[0].mean() == pytest.approx(0.02, abs=0.001)


@pytest.mark.parametrize("setting", [Setting(), Setting(kind="weak"), Setting(repeats=True), Setting(num_baselines=1)])
def test_an_unchanged_model_breaks_the_gate_at_most_as_often_as_promised(setting: Setting) -> None:
    at_5_percent, *_, at_default = shares(setting.p_values(np.random.default_rng(2), 200, config_of(0.005)))
    assert at_5_percent <= 0.09  # 2.6 standard deviations above 0.05
    assert at_default <= 0.02


def test_a_regression_is_found_with_the_promised_power() -> None:
    rng = np.random.default_rng(3)
    found = [shares(Setting(points=points).p_values(rng, 60, config_of(0.005)))[-1] for points in (1, 2, 3)]
    assert [share >= wanted for share, wanted in zip(found, (0.25, 0.65, 0.90), strict=True)] == [True] * 3


def test_a_pooled_baseline_finds_more_than_one_night() -> None:
    rng, found = np.random.default_rng(4), []
    for num in (1, 14):
        found.append(shares(Setting(points=2, num_baselines=num).p_values(rng, 60, config_of(0.005)))[-1])
    assert found[1] > found[0] + 0.3


def test_nights_of_a_regression_break_the_gate_until_it_is_gone() -> None:
    rng = np.random.default_rng(5)
    model = Model.drawn(rng, "half", 0.07)
    worse = model.worse(rng, "lost", 5)
    made = [model.night(rng) for _ in range(8)] + [worse.night(rng) for _ in range(6)] + [model.night(rng)]
    assert broken_nights(made, config_of(0.005)) == [False] * 8 + [True] * 6 + [False]
