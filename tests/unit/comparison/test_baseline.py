"""The baseline `latest` is the newest runs that were made alike and kept their gate; others never join it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archives import MakeRun, Scored
from builders import settings
from pairs import at, copy, judged, line_of, train, with_other_rules, wrong

from pipeline import rescore
from pipeline.comparison import gate
from pipeline.errors import ConfigError, GateFailed
from pipeline.records import Prompt

PROMPTS = train(4)
LATEST = "gate.baseline=latest"


def broke(*rules: str) -> dict[str, Any]:
    """Return the record of a gate with these broken rules."""
    return {"gate": {"baseline": None, "broken": list(rules), "rules": [], "notes": []}}


def note(verdict: gate.Verdict) -> str:
    """Return the line on the baseline."""
    (line,) = [line for line in verdict.notes if "the baseline is" in line or "nothing to compare with" in line]
    return line


def test_the_newest_runs_are_pooled_up_to_the_number_configured(make_run: MakeRun) -> None:
    first = make_run("n1", PROMPTS, **at(1))
    for night in range(2, 6):
        copy(first, f"n{night}", **at(night))
    copy(first, "later", **at(25))
    new = make_run("new", PROMPTS, **at(20))
    verdict = judged(new, LATEST, "gate.num_baselines=3")
    assert verdict.result.baselines == ("n5", "n4", "n3")
    assert verdict.baseline == "n5"
    assert note(verdict) == "the baseline is 3 runs, the newest n5"


def test_runs_with_repeats_by_split_are_a_baseline_of_each_other(make_run: MakeRun) -> None:
    repeats = "generation.repeats={train: 2, test: 1}"
    make_run("other", PROMPTS, "generation.repeats=1", **at(1))
    make_run("older", PROMPTS, repeats, **at(2))
    half = make_run("new", PROMPTS, repeats, reply=lambda row, repeat: wrong(*range(4 * repeat))(row, repeat), **at(20))
    verdict = judged(half, LATEST)
    assert verdict.result.baselines == ("older",)
    assert "1 with other settings" in note(verdict)
    (row,) = [row for row in verdict.rows if (row.level, row.metric) == ("task", "correct")]
    assert (row.base, row.new, row.num_questions) == (1.0, 0.5, 4)


def test_a_pooled_baseline_is_the_mean_of_its_runs(make_run: MakeRun) -> None:
    prompts = train(10)
    for night, lost in enumerate((0, 2, 4), 1):
        make_run(f"n{night}", prompts, reply=wrong(*range(lost)), **at(night))
    verdict = judged(make_run("new", prompts, reply=wrong(0, 1), **at(20)), LATEST)
    (row,) = [row for row in verdict.rows if (row.level, row.metric) == ("task", "correct")]
    assert (row.base, row.new, row.num_questions) == (pytest.approx(0.8), pytest.approx(0.8), 10)
    assert (row.num_lost, row.num_gained, row.test) == (0, 0, "sign_flips")  # most runs have the first two wrong


def test_runs_that_were_made_otherwise_or_broke_their_gate_are_passed_over_with_the_reason(make_run: MakeRun) -> None:
    older = make_run("older", PROMPTS, **at(1))
    endpoint = older.content["config"]["engine"]["endpoint"]
    for number, changes in enumerate(
        [
            {"config": {"engine": {"kind": "endpoint", "endpoint": endpoint | {"model": "m"}}}},
            {"config": {"engine": {"kind": "endpoint", "endpoint": endpoint | {"base_url": "http://b/v1"}}}},
            {"config": {"engine": {"kind": "vllm"}, "model": {"path": "m"}}},
            {"config": {"engine": "not what a run writes"}},
            {"engine": {"r0": {"served_model": "other"}}},
            {"datasets": {"dataset_revision.agro_bench": "other"}},
            {"template_fingerprint": "sha256:b"},
            {"settings_hash": "sha256:b"},
            broke("max_drop"),
            broke("max_truncated"),
        ]
    ):
        copy(older, f"other{number}", **at(number + 2), **changes)
    verdict = judged(make_run("new", PROMPTS, **at(20)), LATEST)
    assert verdict.result.baselines == ("older",)
    reasons = "2 with a broken gate, 1 with other settings, 1 with another chat template, 1 with other data, "
    assert note(verdict).startswith("the baseline is 1 run, the newest older; passed over: ")
    assert set(note(verdict).partition("passed over: ")[2].split(", ")) == {
        *reasons.split(", ")[:-1],
        "5 with another model",
    }


def test_a_run_whose_prompts_differ_is_passed_over_although_its_records_do_not(make_run: MakeRun) -> None:
    other: list[Prompt] = [replace(PROMPTS[0], prompt_sha256="0" * 64), *PROMPTS[1:]]
    make_run("other", other, **at(2))
    make_run("fewer", PROMPTS[1:], **at(3))
    verdict = judged(make_run("new", PROMPTS, **at(20)), LATEST)
    assert note(verdict).endswith("nothing to compare with; passed over: 2 with other questions or prompts")


@pytest.mark.parametrize("version", [None, "1"])
def test_a_run_whose_letters_were_read_by_other_rules_is_passed_over_until_it_is_rescored(
    make_run: MakeRun, version: str | None
) -> None:
    older = make_run("older", PROMPTS, **at(1))
    with_other_rules(older, version)
    new = make_run("new", PROMPTS, **at(20))
    verdict = judged(new, LATEST)
    assert note(verdict).endswith("passed over: 1 whose letters were read by other rules (rescore them)")
    rescore.main([f"run={older.store.root}"])
    assert judged(new, LATEST).result.baselines == ("older",)


def test_a_damaged_run_is_left_out_and_named(make_run: MakeRun, tmp_path: Path) -> None:
    older = make_run("older", PROMPTS, **at(1))
    copy(older, "damaged", **at(2))
    (tmp_path / "run=damaged/samples/_stage.json").write_text("{")
    copy(older, "unread", **at(2))
    (tmp_path / "run=unread/manifest.json").write_text("{")
    copy(older, "failed", **at(3), status="failed")
    verdict = judged(make_run("new", PROMPTS, **at(20)), LATEST)
    assert verdict.result.baselines == ("older",)
    left_out = [line for line in verdict.notes if "is left out" in line]
    assert ["run=damaged" in line for line in left_out] == [False, True]
    assert "run=unread" in left_out[0]


def test_runs_with_a_key_that_their_version_did_not_have_are_alike(make_run: MakeRun) -> None:
    code = {"codebase": {"commit": "of another version", "modified": False}}
    make_run("old", PROMPTS, **at(1), settings_hash="sha256:of-another-schema", **code)
    make_run("other", PROMPTS, "generation.max_gen_toks=64", **at(2), **code)
    new = make_run("new", PROMPTS, **at(20))
    assert judged(new, LATEST).result.baselines == ("old",)


def test_the_verdict_of_a_named_run_does_not_depend_on_how_it_was_made(make_run: MakeRun) -> None:
    make_run("named", PROMPTS, "generation.max_gen_toks=64", **at(1), **broke("max_drop"))
    verdict = judged(make_run("new", PROMPTS, **at(20)), "gate.baseline=named")
    assert (verdict.baseline, verdict.broken, verdict.result.baselines) == ("named", [], ())


class TestStories:
    """Whole stories through the command `rescore`, which judges as `run` does."""

    prompts = train(200)

    def night(self, make_run: MakeRun, number: int, *overrides: str, num_lost: int = 0) -> Scored:
        """Make the run of a night in which these many of 200 questions are lost, and judge it."""
        reply = wrong(*range(num_lost))
        run = make_run(f"n{number}", self.prompts, LATEST, *overrides, reply=reply, **at(number))
        try:
            rescore.main([f"run={run.store.root}"])
        except GateFailed:
            assert run.content["gate"]["broken"]
        return run

    def broken(self, run: Scored) -> list[str]:
        """Return the broken rules that a run recorded."""
        broken: list[str] = run.content["gate"]["broken"]
        return broken

    def test_a_regression_of_5_points_stays_broken_until_it_is_gone_or_accepted(self, make_run: MakeRun) -> None:
        good = [self.night(make_run, number) for number in (1, 2, 3)]
        assert [self.broken(run) for run in good] == [[], [], []]
        bad = [self.night(make_run, number, num_lost=10) for number in (4, 5)]
        assert [self.broken(run) for run in bad] == [["max_drop"], ["max_drop"]]
        assert bad[1].content["gate"]["baselines"] == ["n3", "n2", "n1"]
        gone = self.night(make_run, 6)
        assert (self.broken(gone), gone.content["gate"]["baselines"]) == ([], ["n3", "n2", "n1"])
        again = self.night(make_run, 7, num_lost=10)
        assert self.broken(again) == ["max_drop"]

        accepting = self.night(make_run, 8, "gate.accept=n7", num_lost=10)
        recorded = accepting.content["gate"]
        assert (recorded["broken"], recorded["baselines"]) == ([], ["n7"])
        assert recorded["accepted"]["run"] == "n7"
        assert recorded["accepted"]["by"]
        assert recorded["accepted"]["at"] > "2026"
        assert "6 from before the accepted run n7" in recorded["notes"][0]
        after = self.night(make_run, 9, num_lost=10)
        assert (self.broken(after), after.content["gate"]["baselines"]) == ([], ["n8", "n7"])
        assert self.broken(self.night(make_run, 10, num_lost=20)) == ["max_drop"]

        before = accepting.content["gate"]["accepted"]
        rescore.main([f"run={accepting.store.root}"])
        assert accepting.content["gate"]["accepted"] == before

    def test_a_run_with_another_system_prompt_or_token_budget_never_becomes_the_baseline(
        self, make_run: MakeRun
    ) -> None:
        self.night(make_run, 1)
        self.night(make_run, 2, "prompt.system=Отвечай одной буквой.", num_lost=20)
        self.night(make_run, 3, "generation.max_gen_toks=64", num_lost=20)
        new = self.night(make_run, 4, num_lost=10)
        assert (self.broken(new), new.content["gate"]["baselines"]) == (["max_drop"], ["n1"])
        assert "passed over: 2 with other settings" in new.content["gate"]["notes"][0]


def test_a_run_to_be_accepted_must_be_complete_and_of_the_same_settings(make_run: MakeRun, tmp_path: Path) -> None:
    other = make_run("other", PROMPTS, "generation.max_gen_toks=64")
    shutil.copytree(other.store.root, tmp_path / "run=torn")
    (tmp_path / "run=torn/manifest.json").write_text(json.dumps({"status": "failed"}))
    for name, reason in (
        ("gone", "there is no run "),
        ("torn", "is failed"),
        ("self", "is the run itself"),
        ("other", "was made with other settings"),
    ):
        config = settings(f"output_dir={tmp_path}", "run_id=self", LATEST, f"gate.accept={name}")
        with pytest.raises(ConfigError, match=rf"gate\.accept='{name}'.*{reason}"):
            gate.check(config)


def test_accepting_a_run_that_was_made_otherwise_has_no_effect_and_is_not_recorded(make_run: MakeRun) -> None:
    make_run("other", PROMPTS, **at(1), template_fingerprint="sha256:b")
    make_run("older", PROMPTS, **at(2))
    verdict = judged(make_run("new", PROMPTS, **at(20)), LATEST, "gate.accept=other")
    assert (verdict.result.baselines, verdict.accepted) == (("older",), None)
    assert [line for line in verdict.notes if line.startswith("gate.accept='other' has no effect")]


def test_the_baseline_of_a_run_with_a_broken_rule_of_changes_is_what_it_was(make_run: MakeRun) -> None:
    make_run("older", PROMPTS, **at(1))
    make_run("changed", PROMPTS, **at(2), **broke("max_changed"), reply=wrong(*range(4)))
    verdict = judged(make_run("new", PROMPTS, **at(20), reply=wrong(*range(4))), LATEST)
    assert "4 of 4 answers (100.0%) changed since run older" in line_of(verdict, "max_changed")
