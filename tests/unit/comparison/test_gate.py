"""The gate passes an unchanged model, fails a regression, and names the broken rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import MakeRun, Scored, completion
from builders import command, record_manifest, settings
from pairs import train, wrong

from pipeline import rescore
from pipeline.comparison import gate
from pipeline.comparison.pairing import PairedOutcomes
from pipeline.comparison.significance import changes
from pipeline.config import loading
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, GateFailed, RunError
from pipeline.metrics.paired_tests import Pairs, power_of_mcnemar
from pipeline.records import MetricChange
from pipeline.runs.manifest import load

STARTED_AT = "2026-11-21T22:38:40Z"


def judged(run: Scored, *overrides: str) -> gate.Verdict:
    """Return the verdict of the gate on a run, with these overrides of its configuration."""
    config = loading.load(loading.dump(run.config), "config.yaml", overrides)
    num_truncated, num_failed, num_no_answer = 3, 2, 4
    counts = {"num_samples": 20, "num_truncated": num_truncated, "num_failed": num_failed}
    content = {"started_at": STARTED_AT, "counts": counts | {"num_no_answer": num_no_answer}, **run.content}
    verdict = gate.judge(config, run.store, load(content))
    assert verdict is not None
    return verdict


def test_a_large_and_significant_drop_fails_the_gate_and_names_the_rule(make_run: MakeRun) -> None:
    prompts = train(40)
    make_run("base", prompts)
    verdict = judged(make_run("new", prompts, reply=wrong(*range(20))), "gate.baseline=base")
    assert (verdict.baseline, verdict.broken) == ("base", ["max_drop"])
    line = verdict.lines[-1]
    assert line.startswith("gate: broken: max_drop: ")
    assert "correct of agro_bench train fell from 1.000 to 0.500 (adjusted p <0.001)" in line


def test_identical_runs_pass_the_gate(make_run: MakeRun) -> None:
    prompts = train(40)
    make_run("base", prompts)
    verdict = judged(make_run("new", prompts), "gate.baseline=base")
    assert verdict.broken == []
    assert verdict.lines[-1].startswith("gate: kept: max_drop: no drop above 0.01 is significant; nothing dropped")


@pytest.mark.parametrize("overrides", [["gate.max_drop=0.6"], ["gate.alpha=0.0000001"]])
def test_a_drop_must_be_both_large_and_significant(make_run: MakeRun, overrides: list[str]) -> None:
    prompts = train(40)
    make_run("base", prompts)
    assert judged(make_run("new", prompts, reply=wrong(*range(20))), "gate.baseline=base", *overrides).broken == []


def test_a_drop_beyond_all_resamples_fails_a_gate_with_a_very_small_alpha(make_run: MakeRun) -> None:
    prompts = train(60) + train(60, "med_bench")
    make_run("base", prompts)
    run = make_run("new", prompts, reply=wrong(*range(40)))
    verdict = judged(run, "gate.baseline=base", "gate.alpha=0.00001")
    assert verdict.broken == ["max_drop"]
    assert "score of all train fell from" in verdict.lines[-1]  # tested by the bootstrap only


def test_a_gain_passes_the_gate(make_run: MakeRun) -> None:
    prompts = train(40)
    make_run("base", prompts, reply=wrong(*range(20)))
    assert judged(make_run("new", prompts), "gate.baseline=base").broken == []


def test_limits_on_shares_are_rules_without_a_baseline(make_run: MakeRun) -> None:
    run = make_run("new", train(3))
    kept = judged(run, "gate.max_truncated=0.15", "gate.max_failed=0.1", "gate.max_no_answer=0.2")
    assert (kept.broken, kept.baseline) == ([], None)
    broken = judged(run, "gate.max_truncated=0.1", "gate.max_failed=0", "gate.max_no_answer=0.19")
    assert broken.broken == ["max_truncated", "max_failed", "max_no_answer"]
    assert (
        broken.lines[0]
        == "gate: broken: max_truncated: 3 of 20 rows (15.0%) were cut at the token limit, at most 10.0%"
    )


def test_without_golds_the_gate_reports_that_there_is_nothing_to_compare(make_run: MakeRun) -> None:
    prompts = train(4, gold=None)
    make_run("base", prompts)
    verdict = judged(make_run("new", prompts), "gate.baseline=base")
    (rule,) = verdict.rules
    assert (rule.name, rule.value, rule.broken) == ("max_drop", None, False)
    assert rule.line == "nothing to compare: no question of both runs has a gold, or none was scored"


def test_other_questions_fail_the_gate_with_the_reason(make_run: MakeRun) -> None:
    make_run("base", train(4))
    verdict = judged(make_run("new", train(5)), "gate.baseline=base")
    assert verdict.broken == ["baseline"]
    assert "1 only in new (id 4)" in verdict.lines[-1]


def test_a_damaged_baseline_fails_the_gate_with_the_reason(make_run: MakeRun) -> None:
    base = make_run("base", train(4))
    base.store.write_text("samples/_stage.json", "{")
    verdict = judged(make_run("new", train(4)), "gate.baseline=base")
    assert verdict.broken == ["baseline"]
    assert "_stage.json is damaged" in verdict.lines[-1]


def test_a_write_error_is_not_a_broken_rule(make_run: MakeRun) -> None:
    make_run("base", train(4))
    run = make_run("new", train(4))
    Path(run.store.path(gate.DIRECTORY)).symlink_to("/nowhere/at/all")  # cannot be created as a directory
    with pytest.raises(RunError, match="compare cannot be written"):
        judged(run, "gate.baseline=base")


def test_latest_is_the_newest_past_run_of_the_same_model_and_tasks(make_run: MakeRun) -> None:
    prompts = train(4)
    make_run("older", prompts, ended_at="2026-11-19T00:00:00Z")
    make_run("newer", prompts, ended_at="2026-11-20T00:00:00Z")
    make_run("later", prompts, ended_at="2026-11-22T00:00:00Z")
    make_run("other", prompts, "engine.endpoint.model=m", ended_at="2026-11-21T00:00:00Z")
    make_run("less", prompts, "limit=2", ended_at="2026-11-21T00:00:00Z")
    make_run("more", prompts + train(1, "med_bench"), ended_at="2026-11-21T00:00:00Z")
    torn = make_run("torn", prompts, ended_at="2026-11-21T00:00:00Z")
    record_manifest(torn.store, "failed", **torn.content)
    assert judged(make_run("new", prompts), "gate.baseline=latest").baseline == "newer"


def test_without_a_past_run_latest_reports_that_there_is_nothing_to_compare_with(make_run: MakeRun) -> None:
    verdict = judged(make_run("new", train(4)), "gate.baseline=latest")
    assert (verdict.baseline, verdict.broken) == (None, [])
    assert verdict.lines == [
        "gate: there is no earlier complete run of this model, tasks and splits: nothing to compare with"
    ]


def test_without_rules_there_is_no_verdict(make_run: MakeRun) -> None:
    run = make_run("new", train(4))
    assert gate.judge(run.config, run.store, run.manifest) is None


def test_a_missing_baseline_is_rejected_before_generation(make_run: MakeRun, tmp_path: Path) -> None:
    record_manifest(make_run("torn", train(1)).store, "failed")
    for name, reason in (("gone", "there is no run "), ("torn", "is failed"), ("self", "is the run itself")):
        config = settings(f"output_dir={tmp_path}", "run_id=self", f"gate.baseline={name}")
        with pytest.raises(ConfigError, match=rf"gate\.baseline='{name}'.*{reason}"):
            gate.check(config)


@pytest.mark.parametrize("override", ["gate.baseline=../x", "gate.alpha=0", "gate.max_drop=1", "gate.max_failed=1.5"])
def test_invalid_values_name_their_key(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        settings(override)


def test_rescoring_applies_the_gate_and_the_run_stays_complete(make_run: MakeRun) -> None:
    prompts = train(40)
    make_run("base", prompts)
    run = make_run("new", prompts, "gate.baseline=base", "gate.max_truncated=0.5", reply=wrong(*range(20)))
    with pytest.raises(GateFailed, match="run new is complete, and breaks rules of its gate: max_drop"):
        rescore.main([f"run={run.store.root}"])
    recorded = run.content
    assert (recorded["status"], recorded["gate"]["baseline"], recorded["gate"]["broken"]) == (
        "complete", "base", ["max_drop"],
    )  # fmt: skip
    assert [rule["broken"] for rule in recorded["gate"]["rules"]] == [True, False]
    assert {row["level"] for row in recorded["compare"]} == {"run", "domain", "task"}
    assert run.store.exists("compare/flips.parquet")
    done = command("pipeline.rescore", f"run={run.store.root}")
    assert done.returncode == 3
    assert "gate: broken: max_drop: " in done.stdout
    assert done.stderr == "error: run new is complete, and breaks rules of its gate: max_drop\n"


def test_the_gate_of_a_rescored_run_counts_truncated_responses(make_run: MakeRun) -> None:
    def cut(prompt: dict[str, Any], repeat: int) -> Any:
        return replace(completion(prompt, repeat, "hm"), finish_reason="length")

    run = make_run("new", train(4), "gate.max_truncated=0.5", reply=cut)
    with pytest.raises(GateFailed, match="max_truncated"):
        rescore.main([f"run={run.store.root}"])


TASKS = {"agro_bench": 400, "aqua_bench": 150, "med_bench": 60}


def simulated(
    rng: np.random.Generator, config: Config, drop: float, correlation: float, sizes: dict[str, int]
) -> list[MetricChange]:
    """Return a simulated comparison: questions per task, a true drop from 0.65 right answers, and a correlation."""
    base, new = 0.65, 0.65 - drop
    both = base * new + correlation * np.sqrt(base * (1 - base) * new * (1 - new))
    found = []
    for task, num in sizes.items():
        cell = rng.choice(4, size=num, p=[both, base - both, new - both, 1 - base - new + both])
        pairs = Pairs.of(np.isin(cell, [0, 1]), np.isin(cell, [0, 2]))
        found.append(PairedOutcomes(task=task, split="train", pairs={"score": pairs, "correct": pairs}))
    domains = {name: config.tasks[name].domain for name in sizes}
    return changes(found, domains, single=True)


@pytest.mark.parametrize("sizes", [{"med_bench": 300}, pytest.param(TASKS, marks=pytest.mark.slow)])
def test_of_2000_runs_of_an_unchanged_model_at_most_6_in_100_fail_the_gate(sizes: dict[str, int]) -> None:
    rng, config = (
        np.random.default_rng(7),
        settings("gate.baseline=latest", "gate.max_drop=0", f"only=[{','.join(sizes)}]"),
    )
    alarms = sum(gate.drop_rule(config, simulated(rng, config, 0, 0.5, sizes), {}).broken for _ in range(2_000))
    assert 0.005 <= alarms / 2_000 <= 0.06


def test_a_drop_of_3_points_fails_the_gate_with_the_power_of_the_formula() -> None:
    """A single task, tested on `correct` only."""
    rng, config = np.random.default_rng(8), settings("gate.baseline=latest", "gate.max_drop=0", "only=[med_bench]")
    failed = 0
    for _ in range(400):
        rows = [row for row in simulated(rng, config, 0.03, 0.5, {"med_bench": 2_000}) if row.metric == "correct"]
        failed += gate.drop_rule(config, rows, {}).broken
    assert failed / 400 == pytest.approx(power_of_mcnemar(0.65, 0.62, 0.5, 2_000), abs=0.05)


def test_noise_makes_the_gate_less_sensitive() -> None:
    rng, config = np.random.default_rng(9), settings("gate.baseline=latest")
    rows = simulated(rng, config, 0.12, 0.5, TASKS)
    assert gate.drop_rule(config, rows, {}).broken
    assert not gate.drop_rule(config, rows, {"score": 3.0, "correct": 3.0}).broken


def test_the_noise_of_a_domain_is_the_weighted_noise_of_its_tasks() -> None:
    rng, config = np.random.default_rng(10), settings()
    rows = simulated(rng, config, 0, 0.5, TASKS)
    domains = {name: config.tasks[name].domain for name in TASKS}
    (agriculture,) = [row for row in rows if (row.task, row.metric) == ("agriculture", "score")]
    assert gate.noise_of(agriculture, rows, domains, {"score": 0.1}) == pytest.approx(0.25 * 0.1 * (1 / 400 + 1 / 150))
