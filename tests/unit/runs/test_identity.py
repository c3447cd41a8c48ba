"""The settings that completions depend on, and their hash."""

from __future__ import annotations

import pytest
from builders import settings

from pipeline.runs.identity import identity, settings_hash

pytestmark = pytest.mark.usefixtures("at_root")


def test_repeats_that_are_alike_in_the_splits_of_a_run_are_one_number() -> None:
    assert identity(settings("generation.repeats=2"))["generation.repeats"] == 2
    alike = [
        settings("generation.repeats={train: 2, test: 2}"),
        settings("generation.repeats=2"),
    ]
    assert len({settings_hash(config) for config in alike}) == 1
    train_alone = [settings("splits=[train]", f"generation.repeats={value}") for value in ("4", "{train: 4, test: 1}")]
    assert len({settings_hash(config) for config in train_alone}) == 1


def test_other_repeats_of_one_split_are_other_settings() -> None:
    values = ("1", "{train: 4, test: 1}", "{train: 4, test: 2}")
    assert len({settings_hash(settings(f"generation.repeats={value}")) for value in values}) == 3


def test_the_gate_changes_no_completion() -> None:
    rules = ["gate.baseline=latest", "gate.cusum=true", "gate.accept=one", "gate.num_baselines=3"]
    assert settings_hash(settings(*rules)) == settings_hash(settings())
