"""Two runs are compared question by question: flips, significant changes, rejected runs and warnings."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from archives import MakeRun, Scored, completion
from builders import command, record_manifest
from pairs import train, with_other_rules, wrong

from pipeline.compare import main
from pipeline.comparison.pairing import FLIP_SCHEMA
from pipeline.errors import ConfigError, RunError, UserError
from pipeline.records import CHANGE_SCHEMA, Prompt


def compared(base: Scored, new: Scored, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare the runs and return the rows of compare.parquet and of flips.parquet."""
    main([f"base={base.store.root}", f"new={new.store.root}", f"out={out}"])
    tables = [pq.read_table(out / name) for name in ("compare.parquet", "flips.parquet")]
    assert tables[0].schema.equals(CHANGE_SCHEMA)
    assert tables[1].schema.equals(FLIP_SCHEMA)
    return tables[0].to_pylist(), tables[1].to_pylist()


def the(rows: list[dict[str, Any]], **criteria: str) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[name] == value for name, value in criteria.items())]
    return row


def test_flips_are_the_lost_and_the_gained_questions(make_run: MakeRun, tmp_path: Path) -> None:
    prompts = train(20)
    base = make_run("base", prompts, reply=wrong(1, 2))
    new = make_run("new", prompts, reply=wrong(2, 5, 6, 7))
    rows, flips = compared(base, new, tmp_path / "out")
    found = {(row["id"], row["flip"], row["base_answer"], row["new_answer"]) for row in flips if row["metric"] == "em"}
    assert found == {(1, "gained", "A", "B"), (5, "lost", "B", "A"), (6, "lost", "B", "A"), (7, "lost", "B", "A")}
    em = the(rows, level="task", metric="em")
    assert (em["base"], em["new"], em["num_questions"]) == (0.9, 0.8, 20)
    assert (em["num_lost"], em["num_gained"], em["test"]) == (3, 1, "mcnemar")
    assert em["difference"] == pytest.approx(-0.1)
    assert em["p_value"] == pytest.approx(2 * (1 + 4 / 2) / 16)  # mid-p: 1 + 4 / 2 of the 16 signs of 4 flips
    assert em["ci_low"] < -0.1 < em["ci_high"]


def test_holms_family_is_the_different_tests_of_a_metric(make_run: MakeRun, tmp_path: Path) -> None:
    prompts = train(20) + train(10, "med_bench")
    base = make_run("base", prompts)
    new = make_run("new", prompts, reply=wrong(1, 2, 3, 4, 5, 6, 7))
    rows, _ = compared(base, new, tmp_path / "out")
    family = [row for row in rows if row["metric"] == "correct"]
    levels = [(row["level"], row["task"]) for row in family]
    domains = [("domain", "agriculture"), ("domain", "medicine")]
    assert levels == [("run", "all"), *domains, ("task", "agro_bench"), ("task", "med_bench")]
    least = min(family, key=lambda row: row["p_value"])
    assert least["p_holm"] == pytest.approx(min(1, 3 * least["p_value"]))  # two tasks and the run
    by_name = {row["task"]: row for row in family}
    for domain, task in (("agriculture", "agro_bench"), ("medicine", "med_bench")):
        names = CHANGE_SCHEMA.names
        same = [name for name in names if name not in ("level", "task")]
        assert [by_name[domain][name] for name in same] == [by_name[task][name] for name in same]


def test_identical_runs_have_no_differences(make_run: MakeRun, tmp_path: Path) -> None:
    prompts = train(5)
    rows, flips = compared(make_run("base", prompts), make_run("new", prompts), tmp_path / "out")
    assert flips == []
    assert {row["difference"] for row in rows} == {0.0}
    assert {row["p_holm"] for row in rows} == {1.0}
    assert all(row["ci_low"] < 0 < row["ci_high"] for row in rows if row["metric"] != "output_tokens")
    assert all(0 < row["detectable"] < 1 for row in rows if row["metric"] != "output_tokens")


def test_identical_runs_print_two_lines_and_different_ones_the_verdict_first(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = train(40)
    base, same = make_run("base", prompts), make_run("same", prompts)
    main([f"base={base.store.root}", f"new={same.store.root}", f"out={tmp_path}/same"])
    verdict, place = capsys.readouterr().out.splitlines()
    assert verdict == "no change: 40 questions, and every metric of both runs is the same"
    assert place.strip() == f"{tmp_path}/same/compare.html"
    for wrong_ids, words in (
        ([1, 2], "no significant change: score train 1.000 -> 0.950 (-0.050, 95% "),
        (range(20), "significantly worse: score train 1.000 -> 0.500 (-0.500, 95% "),
    ):
        new = make_run(f"new{len(wrong_ids)}", prompts, reply=wrong(*wrong_ids))
        main([f"base={base.store.root}", f"new={new.store.root}", f"out={tmp_path}/{len(wrong_ids)}"])
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith(words)
        assert first.endswith(f"; {len(wrong_ids)} flips of correct: {len(wrong_ids)} lost, 0 gained")
        stored = json.loads((tmp_path / f"{len(wrong_ids)}/compare.json").read_text())
        assert stored["verdict"] == first
        assert first.split(" (")[0] in (tmp_path / f"{len(wrong_ids)}/compare.html").read_text().replace("&gt;", ">")


def test_a_flip_has_its_question_and_links_into_both_reports(make_run: MakeRun, tmp_path: Path) -> None:
    base, new = make_run("base", train(3)), make_run("new", train(3), reply=wrong(1))
    (Path(new.store.root) / "report.html").write_text("report")
    _, flips = compared(base, new, tmp_path / "out")
    assert {row["question"] for row in flips} == {json.loads(train(3)[1].messages)[-1]["content"]}
    page = (tmp_path / "out/compare.html").read_text()
    target = os.path.relpath(f"{new.store.root}/report.html", tmp_path / "out")
    assert f'href="{quote(target)}#agro_bench/train/1/0"' in page
    assert "base</a>" not in page  # it has no report


def test_truncated_responses_and_lengths_are_compared_without_a_gold(make_run: MakeRun, tmp_path: Path) -> None:
    prompts = train(8, gold=None)

    def cut(prompt: dict[str, Any], repeat: int) -> Any:
        made = completion(prompt, repeat, "hm")
        return replace(made, finish_reason="length", num_output_tokens=9) if prompt["id"] < 6 else made

    rows, flips = compared(make_run("base", prompts), make_run("new", prompts, reply=cut), tmp_path / "out")
    assert {row["metric"] for row in rows} == {"output_tokens", "truncated", "no_answer", "failed"}
    truncated, tokens = (the(rows, metric=name) for name in ("truncated", "output_tokens"))
    assert (truncated["base"], truncated["new"], truncated["num_gained"]) == (0.0, 0.75, 6)
    assert (tokens["base"], tokens["new"], tokens["num_lost"]) == (1.0, 7.0, None)
    assert flips == []


def test_runs_with_different_repeats_are_compared_by_the_questions_means(make_run: MakeRun, tmp_path: Path) -> None:
    prompts = train(10)

    def half(prompt: dict[str, Any], repeat: int) -> Any:
        return completion(prompt, repeat, "A" if prompt["id"] < 4 and repeat < 3 else "B")

    base, new = make_run("base", prompts), make_run("new", prompts, "generation.repeats=4", reply=half)
    rows, flips = compared(base, new, tmp_path / "out")
    correct = the(rows, level="task", metric="correct")
    assert (correct["base"], correct["new"], correct["test"]) == (1.0, 0.7, "sign_flips")
    assert (correct["num_lost"], correct["num_gained"]) == (4, 0)
    assert {row["new_value"] for row in flips} == {0.25}


def test_a_failed_row_does_not_count_as_wrong(make_run: MakeRun, tmp_path: Path) -> None:
    prompts = train(4)

    def failing(prompt: dict[str, Any], repeat: int) -> Any:
        return completion(prompt, repeat, None, "gone") if prompt["id"] == 0 else completion(prompt, repeat, "B")

    rows, _ = compared(make_run("base", prompts), make_run("new", prompts, reply=failing), tmp_path / "out")
    correct, failed = the(rows, level="task", metric="correct"), the(rows, metric="failed")
    assert (correct["new"], correct["num_questions"]) == (1.0, 3)
    assert (failed["new"], failed["num_questions"]) == (0.25, 4)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: train(3), "agro_bench train: 1 only in base (id 3)"),
        (lambda: train(9), "agro_bench train: 5 only in new (id 4, 5, 6, ...)"),
        (
            lambda: train(4, gold="A"),
            "agro_bench train: 4 with another row or gold (id 0, 1, 2, ...), which differs in outputs",
        ),
        (lambda: train(4) + train(1, "med_bench"), "med_bench train: 1 only in new (id 0)"),
    ],
)
def test_runs_of_other_questions_are_rejected_and_the_questions_named(
    make_run: MakeRun, other: Any, reason: str
) -> None:
    base, new = make_run("base", train(4)), make_run("new", other())
    with pytest.raises(RunError, match="do not have the same questions") as caught:
        main([f"base={base.store.root}", f"new={new.store.root}"])
    assert reason in str(caught.value)
    assert not Path(base.store.root).with_name("compare=base..new").exists()


def test_the_same_rows_in_another_format_are_the_same_questions(make_run: MakeRun, tmp_path: Path) -> None:
    def in_other_order(prompt: Prompt) -> Prompt:
        doc = json.loads(prompt.doc)
        doc["meta"]["id"] = float(doc["meta"]["id"])  # Parquet has one type for all numbers of a column
        return replace(prompt, doc=json.dumps(dict(reversed(doc.items()))))

    base, new = make_run("base", train(4)), make_run("new", [in_other_order(prompt) for prompt in train(4)])
    rows, _ = compared(base, new, tmp_path / "out")
    assert {row["num_questions"] for row in rows} == {4}


def test_a_run_that_is_not_complete_is_rejected(make_run: MakeRun) -> None:
    base, new = make_run("base", train(2)), make_run("new", train(2))
    record_manifest(new.store, "failed")
    with pytest.raises(RunError, match="is failed, not complete"):
        main([f"base={base.store.root}", f"new={new.store.root}"])


@pytest.mark.parametrize(
    "arguments", [["base=x"], ["new=x"], ["base=x", "new=y", "base=z"], ["base=x", "new=y", "n=3"]]
)
def test_wrong_arguments_raise_a_configuration_error(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        main(arguments)


def test_differences_in_how_the_runs_were_made_are_warnings(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = train(2)
    other = [replace(prompt, prompt_sha256="0" * 64) for prompt in prompts]
    then = {"template_fingerprint": "sha256:1", "model_fingerprint": "a", "hardware": {"num_cpus": 2}}
    now = {"template_fingerprint": "sha256:2", "model_fingerprint": "b", "hardware": {"num_cpus": 4}}
    base = make_run("base", prompts, versions={"vllm": "1"}, datasets={"dataset_revision.agro_bench": "x"}, **then)
    new = make_run(
        "new",
        other,
        "generation.max_gen_toks=7",
        "engine.max_num_seqs=3",
        versions={"vllm": "2"},
        datasets={"dataset_revision.agro_bench": "y"},
        **now,
    )
    compared(base, new, tmp_path / "out")
    warnings = [
        line.removeprefix("warning: ") for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")
    ]
    assert warnings == [
        "model differs: model_fingerprint: base a, new b",
        "template differs: prompt: base its own, new another text for 2 of 2 questions",
        "template differs: template_fingerprint: base sha256:1, new sha256:2",
        "data sets differs: dataset_revision.agro_bench: base x, new y",
        "sampling differs: generation.max_gen_toks: base 192, new 7",
        "engine differs: engine.max_num_seqs: base 64, new 3",
        "versions differs: versions.vllm: base 1, new 2",
        "hardware differs: hardware.num_cpus: base 2, new 4",
    ]


HOSTILE = "</td><script>alert(1)</script>{{ 7*7 }}\x1b[31m\u2028\u202e[bold]" + "x" * 5000


def test_hostile_texts_are_escaped(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = train(3)
    new = make_run("new", prompts, reply=wrong(1, text=HOSTILE), versions={"vllm": HOSTILE})
    _, flips = compared(make_run("base", prompts), new, tmp_path / "out")
    assert {row["new_response"] for row in flips} == {HOSTILE}
    page = (tmp_path / "out/compare.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7*7 }}" in page
    assert "default-src 'none'" in page
    assert len(page) < 60_000
    printed = capsys.readouterr().out
    assert "\x1b[31m" not in printed
    assert "\u202e" not in printed
    assert "⟨U+001B⟩[31m" in printed


def test_the_table_fits_a_terminal_of_110_columns(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = train(12)
    compared(make_run("base", prompts), make_run("new", prompts, reply=wrong(*range(9))), tmp_path / "out")
    table = [line for line in capsys.readouterr().out.splitlines() if " train " in line and "flip" not in line]
    assert any("-0.750" in line for line in table)
    assert max(len(line.rstrip()) for line in table) <= 110


def test_the_command_writes_next_to_the_new_run_and_exits_with_0(make_run: MakeRun) -> None:
    base, new = make_run("base", train(3)), make_run("new", train(3), reply=wrong(1))
    done = command("pipeline.compare", f"base={base.store.root}", f"new={new.store.root}")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in Path(new.store.root).with_name("compare=base..new").iterdir()) == [
        "compare.html",
        "compare.json",
        "compare.parquet",
        "flips.parquet",
    ]
    gone = command("pipeline.compare", "base=nowhere", f"new={new.store.root}")
    assert (gone.returncode, gone.stdout) == (2, "")
    assert gone.stderr == "error: base=nowhere: there is no such directory\n"


def test_a_damaged_run_raises_a_user_error(make_run: MakeRun) -> None:
    base, new = make_run("base", train(3)), make_run("new", train(3))
    (Path(new.store.root) / "samples/_stage.json").write_text(json.dumps({"files": {"gone.parquet": 3}, "facts": {}}))
    with pytest.raises(UserError, match=r"gone\.parquet"):
        main([f"base={base.store.root}", f"new={new.store.root}"])


def test_runs_whose_letters_were_read_by_other_rules_are_compared_with_a_warning(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = make_run("base", train(4)), make_run("new", train(4))
    with_other_rules(base, None)
    compared(base, new, tmp_path / "out")
    warning = "warning: scoring differs: rules that read the letters of `correct`: base older rules: rescore it, new"
    assert warning in capsys.readouterr().out.replace("\n", " ")
