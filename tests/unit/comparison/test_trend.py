"""The gate reports a decline over many runs and more changed answers than usual; as rules they break it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import MakeRun, Scored, completion
from pairs import at, copy, judged, line_of, train, wrong

LATEST = "gate.baseline=latest"
PROMPTS = train(20) + train(20, "aqua_bench") + train(20, "med_bench")


def lower(run: Path, by: dict[str, float]) -> None:
    """Lower the scores of the tasks in a run's metrics.parquet, and those of their domains and the run with them."""
    change = {**by, "agriculture": (by["agro_bench"] + by["aqua_bench"]) / 2, "medicine": by["med_bench"]}
    change["all"] = (change["agriculture"] + change["medicine"]) / 2
    table = pq.ParquetFile(run / "metrics.parquet").read()
    values = [
        value if value is None or metric != "score" else value - change[task]
        for value, metric, task in zip(*(table[name].to_pylist() for name in ("value", "metric", "task")), strict=True)
    ]
    place = table.schema.get_field_index("value")
    pq.write_table(table.set_column(place, table.schema.field("value"), pa.array(values)), run / "metrics.parquet")


@pytest.fixture
def declined(make_run: MakeRun) -> Scored:
    """Make 15 runs that vary, of which the last four score lower, and return one more that does too."""
    new = make_run("new", PROMPTS, **at(28))
    rng = np.random.default_rng(1)
    for night in range(1, 16):
        drop = 0.4 if night > 11 else 0.0
        run = copy(new, f"n{night:02}", **at(night))
        lower(run, {task: drop + rng.normal(0, 0.03) for task in ("agro_bench", "aqua_bench", "med_bench")})
    lower(Path(new.store.root), dict.fromkeys(("agro_bench", "aqua_bench", "med_bench"), 0.4))
    return new


def test_a_decline_over_runs_is_reported_and_as_a_rule_breaks_the_gate(declined: Scored) -> None:
    verdict = judged(declined, LATEST)
    assert [(each.level, each.task, each.num_runs) for each in verdict.trends] == [
        ("run", "all", 16), ("domain", "agriculture", 16), ("domain", "medicine", 16),
    ]  # fmt: skip
    (run, *_) = verdict.trends
    assert (run.has_declined, run.since, run.value) == (True, "n12", pytest.approx(0.6))
    assert run.mean == pytest.approx(1.0, abs=0.03)
    line = line_of(verdict, "cusum")
    assert line.startswith("gate: cusum: the score of all train has declined since run n12: 0.600, 1.000 before")
    assert "cusum" not in verdict.broken
    assert "cusum" in judged(declined, LATEST, "gate.cusum=true").broken
    assert judged(declined, "gate.cusum=true").broken == ["cusum"]  # a rule without a baseline


def test_the_trend_begins_with_the_accepted_run(declined: Scored) -> None:
    verdict = judged(declined, LATEST, "gate.accept=n12")
    assert [each.num_runs for each in verdict.trends] == [5, 5, 5]
    assert not any(each.has_declined for each in verdict.trends)


def test_the_trend_has_the_runs_that_broke_their_gate_but_none_that_was_made_otherwise(make_run: MakeRun) -> None:
    new = make_run("new", PROMPTS, **at(20))
    copy(new, "broke", **at(1), gate={"baseline": None, "broken": ["max_drop"], "rules": [], "notes": []})
    copy(new, "other", **at(2), template_fingerprint="sha256:b")
    damaged = copy(new, "damaged", **at(3))
    (damaged / "metrics.parquet").write_bytes(b"PAR1")
    verdict = judged(new, LATEST)
    assert [each.num_runs for each in verdict.trends] == [2, 2, 2]
    assert line_of(verdict, "cusum") == "gate: cusum: 2 of the 3 runs that a trend needs have a score"
    assert [line for line in verdict.notes if "run=damaged" in line and "cannot be read" in line]


def test_one_domain_has_one_trend_and_without_golds_there_is_none(make_run: MakeRun) -> None:
    verdict = judged(make_run("new", train(4), **at(20)), "gate.cusum=true")
    assert [(each.level, each.task) for each in verdict.trends] == [("run", "all")]
    hidden = judged(make_run("hidden", train(4, gold=None), **at(20)), "gate.cusum=true")
    assert (hidden.trends, hidden.broken) == ([], [])
    assert line_of(hidden, "cusum") == "gate: kept: cusum: 0 of the 3 runs that a trend needs have a score"


def test_more_changed_answers_than_in_the_pair_before_are_reported_and_as_a_rule_break_the_gate(
    make_run: MakeRun,
) -> None:
    prompts = train(60, gold=None)
    make_run("first", prompts, reply=wrong(0, text="C"), **at(1))
    make_run("second", prompts, reply=wrong(0, 1), **at(2))
    new = make_run("new", prompts, reply=wrong(*range(20)), **at(3))
    verdict = judged(new, LATEST)
    changed = verdict.changed
    assert changed is not None
    assert (changed.since, changed.before, changed.num_questions) == ("second", "first", 60)
    assert (changed.num_changed, changed.num_before, changed.p_value) == (18, 2, pytest.approx(211 / 2**20))
    text = "18 of 60 answers (30.0%) changed since run second, 2 (3.3%) since run first before (p <0.001)"
    assert line_of(verdict, "max_changed") == f"gate: max_changed: {text}"
    assert "max_changed" not in verdict.broken
    assert judged(new, LATEST, "gate.max_changed=0.2").broken == ["max_changed"]
    assert judged(new, "gate.max_changed=0.3").broken == []
    assert judged(new, "gate.max_changed=0.2", "gate.alpha=0.0001").broken == []


def test_an_answer_is_its_letters_or_else_the_response_and_failed_rows_do_not_count(make_run: MakeRun) -> None:

    texts = {
        "first": ["B", "не знаю", "не знаю", "B", "B"],
        "new": ["Ответ: B", "не знаю.", "не знаю", None, "A"],
    }
    prompts = train(5, gold=None)
    runs = {}
    for night, (name, answers) in enumerate(texts.items(), 1):

        def reply(prompt, repeat, answers=answers):  # type: ignore[no-untyped-def]
            text = answers[prompt["id"]]
            return completion(prompt, repeat, text, "it failed" if text is None else None)

        runs[name] = make_run(name, prompts, reply=reply, **at(night))
    changed = judged(runs["new"], "gate.max_changed=0.1").changed
    assert changed is not None
    assert (changed.num_questions, changed.num_changed, changed.num_before, changed.p_value) == (4, 2, None, None)
