"""The gate passes an unchanged model, fails a regression, and names the broken rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archives import MakeRun, completion
from builders import command, record_manifest, settings
from pairs import judged, line_of, train, wrong

from pipeline import compare, rescore
from pipeline.comparison import gate
from pipeline.errors import ConfigError, GateFailed, RunError


def test_a_large_and_significant_drop_fails_the_gate_and_names_the_rule(make_run: MakeRun) -> None:
    prompts = train(40)
    make_run("base", prompts)
    verdict = judged(make_run("new", prompts, reply=wrong(*range(20))), "gate.baseline=base")
    assert (verdict.baseline, verdict.broken) == ("base", ["max_drop"])
    line = line_of(verdict, "max_drop")
    assert line.startswith("gate: broken: max_drop: ")
    assert "correct of agro_bench train fell from 1.000 to 0.500 (adjusted p <0.001)" in line


def test_the_gate_says_the_verdict_of_compare_in_the_same_words(make_run: MakeRun, tmp_path: Path) -> None:
    prompts = train(40)
    base, new = make_run("base", prompts), make_run("new", prompts, reply=wrong(*range(20)))
    verdict = judged(new, "gate.baseline=base")
    compare.main([f"base={base.store.root}", f"new={new.store.root}", f"out={tmp_path / 'out'}"])
    said = json.loads((tmp_path / "out/compare.json").read_text())["verdict"]
    assert said.startswith("significantly worse: score train 1.000 -> 0.500")
    assert f"gate: {said}" in verdict.lines
    assert verdict.result.verdict == said


def test_identical_runs_pass_the_gate(make_run: MakeRun) -> None:
    prompts = train(40)
    make_run("base", prompts)
    verdict = judged(make_run("new", prompts), "gate.baseline=base")
    assert verdict.broken == []
    assert line_of(verdict, "max_drop").startswith(
        "gate: kept: max_drop: no drop above 0.01 is significant; nothing dropped"
    )


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
    assert "score of all train fell from" in line_of(verdict, "max_drop")


def test_a_gain_passes_the_gate(make_run: MakeRun) -> None:
    prompts = train(40)
    make_run("base", prompts, reply=wrong(*range(20)))
    assert judged(make_run("new", prompts), "gate.baseline=base").broken == []


def test_limits_on_shares_are_rules_without_a_baseline(make_run: MakeRun) -> None:
    run = make_run("new", train(3))
    kept = judged(run, "gate.max_truncated=0.15", "gate.max_failed=0.1", "gate.max_no_answer=0.2", num_failed=2)
    assert (kept.broken, kept.baseline) == ([], None)
    broken = judged(run, "gate.max_truncated=0.1", "gate.max_failed=0", "gate.max_no_answer=0.19", num_failed=2)
    assert broken.broken == ["max_truncated", "max_failed", "max_no_answer"]
    assert (
        broken.lines[0]
        == "gate: broken: max_truncated: 3 of 20 rows (15.0%) were cut at the token limit, at most 10.0%"
    )


def test_without_golds_the_gate_reports_that_there_is_nothing_to_compare(make_run: MakeRun) -> None:
    prompts = train(4, gold=None)
    make_run("base", prompts)
    verdict = judged(make_run("new", prompts), "gate.baseline=base")
    rule = verdict.rules[0]
    assert (rule.name, rule.value, rule.broken) == ("max_drop", None, False)
    assert rule.line == "nothing to compare: no question of both runs has a gold, or none was scored"


def test_other_questions_fail_the_gate_with_the_reason(make_run: MakeRun) -> None:
    make_run("base", train(4))
    verdict = judged(make_run("new", train(5)), "gate.baseline=base")
    assert verdict.broken == ["baseline"]
    assert "1 only in new (id 4)" in line_of(verdict, "baseline")


def test_a_damaged_baseline_fails_the_gate_with_the_reason(make_run: MakeRun) -> None:
    base = make_run("base", train(4))
    base.store.write_text("samples/_stage.json", "{")
    verdict = judged(make_run("new", train(4)), "gate.baseline=base")
    assert verdict.broken == ["baseline"]
    assert "_stage.json is damaged" in line_of(verdict, "baseline")


def test_a_write_error_is_not_a_broken_rule(make_run: MakeRun) -> None:
    make_run("base", train(4))
    run = make_run("new", train(4))
    Path(run.store.path(gate.DIRECTORY)).symlink_to("/nowhere/at/all")  # cannot be created as a directory
    with pytest.raises(RunError, match="compare cannot be written"):
        judged(run, "gate.baseline=base")


def test_without_a_past_run_latest_reports_that_there_is_nothing_to_compare_with(make_run: MakeRun) -> None:
    verdict = judged(make_run("new", train(4)), "gate.baseline=latest")
    assert (verdict.baseline, verdict.broken) == (None, [])
    assert verdict.lines == [
        "gate: there is no earlier run that was made as this one and kept its gate: nothing to compare with",
        "gate: kept: max_failed: 0 of 20 rows (0.0%) failed, at most 1.0%",
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


@pytest.mark.parametrize(
    "override",
    [
        *("gate.baseline=../x", "gate.alpha=0", "gate.max_drop=1", "gate.max_failed=1.5", "gate.max_changed=-0.1"),
        *("gate.num_baselines=0", "gate.accept=../x", "gate.accept=one"),
    ],
)
def test_invalid_values_name_their_key(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        settings(override)


def test_a_level_that_no_test_can_keep_is_rejected_before_generation() -> None:
    with pytest.raises(ConfigError, match=r"gate\.alpha=1e-06: must be at least 0\.00001"):
        gate.check(settings("gate.baseline=latest", "gate.alpha=0.000001"))


def test_a_drop_of_the_limit_itself_passes_whatever_its_rounding(make_run: MakeRun) -> None:
    prompts = train(100)
    make_run("base", prompts, reply=wrong(*range(34)))
    verdict = judged(make_run("new", prompts, reply=wrong(*range(35))), "gate.baseline=base", "gate.alpha=0.9")
    assert (0.66 - 0.65 > 0.01, verdict.rules[0].broken) == (True, False)


def test_failed_rows_are_limited_where_a_baseline_is_set(make_run: MakeRun) -> None:
    run = make_run("new", train(3))
    assert judged(run, "gate.baseline=latest", num_failed=1).broken == ["max_failed"]
    assert judged(run, "gate.baseline=latest", "gate.max_failed=0.1", num_failed=1).broken == []
    assert judged(run, "gate.max_truncated=1", num_failed=1).broken == []


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
    assert [rule["broken"] for rule in recorded["gate"]["rules"]] == [True, False, False]
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
