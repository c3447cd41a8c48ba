"""Prune removes the large parts of old runs that no run needs, exactly what it lists, and nothing outside of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cheap_nights import add_parts, make_nights

from pipeline import compare, pack, prune, rescore
from pipeline.errors import DataError, RunError
from pipeline.orchestrator import execute
from pipeline.overview import prune as pruning
from pipeline.overview.run_list import find
from pipeline.runs import index
from pipeline.runs.directory import begin, open_finished
from pipeline.runs.lock import locked
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

REMOVED = {
    "samples",
    "prompts",
    "completions",
    "journal",
    "noise",
    "logs",
    "report.html",
    "report.ru.html",
    "report_samples",
}
KEPT = {
    "manifest.json",
    "config.yaml",
    "metrics.parquet",
    "compare",
    "card.md",
    "x_submission.zip",
    "report_of_mine.txt",
}


def run_id(night: int, model: str = "worse") -> str:
    return f"2025-{'10' if night < 13 else '11'}-{19 + night if night < 13 else night - 12:02}-{model}"


def directory(output: Path, night: int) -> Path:
    return output / f"run={run_id(night)}"


def names(run: Path) -> set[str]:
    return {entry.name for entry in run.iterdir()} - {".lock"}


def listing(output: Path) -> dict[str, bytes]:
    files = (path for path in sorted(output.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def planned(output: Path, keep_days: int = 0, now: datetime | None = None) -> pruning.Plan:
    return pruning.plan(ArtifactStore.open(str(output)), keep_days, now)


def change_manifest(run: Path, **content: object) -> None:
    file = run / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))


def test_without_apply_nothing_changes_and_the_parts_are_listed_with_their_sizes(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listing(output)
    prune.main([f"output_dir={output}", "keep_days=0"])
    lines = capsys.readouterr().out.splitlines()
    assert listing(output) == before
    assert (
        f"would remove: run={run_id(1)} (worse): completions 1.0 kB, journal 1.0 kB, logs 10 bytes, noise 10 bytes, "
        "prompts 1.0 kB, report.html 1 byte, report.ru.html 1 byte, report_samples 10 bytes, samples 1.0 kB" in lines
    )
    assert sum(line.startswith("would remove: ") for line in lines) == 6


def test_apply_removes_what_is_listed_and_keeps_the_rest(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(output)
    plan = planned(output)
    prune.main([f"output_dir={output}", "keep_days=0", "apply=true"])
    gone = {
        name
        for name in before
        for run in plan.runs
        for part in run.parts
        if f"{name}/".startswith(f"run={run.run_id}/{part.name}/")
    }
    after = listing(output)
    assert set(before) - set(after) == gone
    assert {name.rpartition("/")[2] for name in set(after) - set(before)} == {"pruned.json"}
    assert names(directory(output, 1)) == KEPT | {"pruned.json"}
    assert "removed; scores, manifests and the index stay" in capsys.readouterr().out
    assert planned(output).runs == []


def test_a_run_is_kept_until_it_is_older_than_keep_days(output: Path) -> None:
    now = datetime(2025, 11, 20, 23, 0, 1, tzinfo=UTC)
    assert [run.run_id for run in planned(output, 30, now).runs] == [run_id(1), run_id(2)]
    change_manifest(directory(output, 2), rescored_at="2025-11-01T00:00:00Z")
    assert [run.run_id for run in planned(output, 30, now).runs] == [run_id(1)]


def test_the_newest_of_a_model_baselines_incomplete_and_locked_runs_keep_everything(output: Path) -> None:
    add_parts(output / f"run={run_id(3, 'small')}")
    for night, other in ((1, "gate"), (2, "schedule")):
        key = {"gate": "baseline", "schedule": "history"}[other]
        change_manifest(directory(output, 6 + night), config={other: {key: run_id(night)}, "engine": {"kind": "vllm"}})
    gate = {"baseline": run_id(4), "baselines": [run_id(4), run_id(3)], "broken": [], "rules": [], "notes": []}
    change_manifest(directory(output, 10), gate=gate)
    change_manifest(directory(output, 5), status="failed")
    with locked(ArtifactStore.open(str(directory(output, 6)))):
        plan = planned(output)
    assert plan.runs == []
    assert plan.kept == {
        run_id(1): f"run {run_id(7)} names it in gate.baseline",
        run_id(2): f"run {run_id(8)} names it in schedule.history",
        run_id(3): f"it is in the baseline of run {run_id(10)}",
        run_id(4): f"it is in the baseline of run {run_id(10)}",
        run_id(6): "a process holds its lock",
        run_id(3, "small"): "it is the newest run of its model",
    }


def test_a_trial_does_not_replace_the_newest_whole_run_of_a_model(tmp_path: Path) -> None:
    make_nights(tmp_path, [0.5, 0.5], model="m")
    trial, *_ = make_nights(tmp_path, [0.5] * 3, model="trial", overrides=["limit=3", "engine.endpoint.model=m"])[2:]
    for run in tmp_path.glob("run=*"):
        add_parts(run)
    plan = planned(tmp_path)
    assert plan.kept == {
        run_id(2, "m"): "it is the newest run of its model without a limit",
        trial.root.rpartition("run=")[2]: "it is the newest run of its model",
    }
    assert [run.run_id for run in plan.runs] == [run_id(1, "m"), run_id(1, "trial"), run_id(2, "trial")]


def test_a_run_that_changed_since_it_was_listed_keeps_everything(output: Path) -> None:
    plan = planned(output)
    (directory(output, 1) / "samples/task=a/new.parquet").write_text("new")
    change_manifest(directory(output, 2), rescored_at="2026-01-01T00:00:00Z")
    store = ArtifactStore.open(str(output))
    for run in plan.runs[:2]:
        with pytest.raises(RunError, match="has changed since it was listed"):
            pruning.apply(store, run)
    assert names(directory(output, 1)) == names(directory(output, 2)) == REMOVED | KEPT


def test_links_lead_to_no_deletion_outside_of_the_run(output: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (directory(output, 1) / "samples/task=a/link").symlink_to(outside)
    (directory(output, 2) / "work").symlink_to(outside)
    directory(output, 3).rename(tmp_path / "elsewhere")
    directory(output, 3).symlink_to(tmp_path / "elsewhere")
    plan = planned(output)
    assert [run.run_id for run in plan.runs] == [run_id(1), run_id(4), run_id(5), run_id(6)]
    assert "is a symbolic link" in plan.kept[run_id(2)]
    assert "is a symbolic link" in plan.kept[run_id(3)]
    for run in plan.runs:
        pruning.apply(ArtifactStore.open(str(output)), run)
    assert (outside / "precious").exists()
    assert names(tmp_path / "elsewhere") == REMOVED | KEPT
    assert names(directory(output, 1)) == KEPT | {"pruned.json"}


def test_a_run_replaced_by_a_link_after_it_was_listed_is_refused(output: Path, tmp_path: Path) -> None:
    plan = planned(output)
    directory(output, 1).rename(tmp_path / "elsewhere")
    directory(output, 1).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a symbolic link"):
        pruning.apply(ArtifactStore.open(str(output)), plan.runs[0])
    assert names(tmp_path / "elsewhere") >= REMOVED


@pytest.mark.parametrize(
    "content",
    [
        {"ended_at": "2025-13-45T00:00:00Z"},
        {"ended_at": "\u202e"},
        {"ended_at": None},
        {"ended_at": "9999-01-01T00:00:00Z"},
    ],
)
def test_a_run_whose_end_is_unknown_or_ahead_is_kept(output: Path, content: dict[str, object]) -> None:
    change_manifest(directory(output, 1), **content)
    assert run_id(1) not in [run.run_id for run in planned(output).runs]


def test_hostile_runs_are_left_out_and_stop_nothing(output: Path) -> None:
    (directory(output, 1) / "manifest.json").write_text("[" * 100_000)
    change_manifest(directory(output, 2), config={"model": {"path": {"a": []}}, "engine": {"kind": "vllm"}})
    (directory(output, 3) / "manifest.json").unlink()
    os.mkfifo(directory(output, 3) / "manifest.json")
    for name in ("run=..", "run=a b", "run=.x", "run=x\u202ey"):
        (output / name).mkdir(exist_ok=True)
    plan = planned(output)
    assert [run.run_id for run in plan.runs] == [run_id(4), run_id(5), run_id(6)]
    assert len(plan.unread) == 3


def test_a_forged_index_entry_exposes_no_run(output: Path) -> None:
    """Runs are judged by their own files: the index is a directory that many users write."""
    newest = output / f"run={run_id(3, 'small')}"
    add_parts(newest)
    (file,) = (output / "index").glob(f"*/*__{run_id(3, 'small')}.json")
    entry = json.loads(file.read_text()) | {"model": ["endpoint", "x", "worse"]}
    file.write_text(json.dumps(entry))
    assert planned(output).kept[run_id(3, "small")] == "it is the newest run of its model"


def test_lists_and_the_order_of_runs_go_on_without_samples(output: Path) -> None:
    store = ArtifactStore.open(str(output))
    before = find(store, last=100).runs
    pruning.apply(store, planned(output).runs[0])
    after = find(store, last=100).runs
    assert [run.run_id for run in after] == [run.run_id for run in before]
    entry = {run.run_id: run.entry for run in after}[run_id(1)]
    assert entry is not None
    assert entry.pruned_at is not None
    assert entry.scores == {run.run_id: run.entry.scores for run in before if run.entry is not None}[run_id(1)]
    assert entry.report is None
    (output / "index").rename(output / "gone")
    assert next(index.newest(store, is_match=lambda each: each.run_id == run_id(1))) == entry


@pytest.mark.parametrize(
    "command",
    [
        lambda run, _: rescore.main([f"run={run}"]),
        lambda run, _: pack.main([f"run={run}"]),
        lambda run, other: compare.main([f"base={run}", f"new={other}"]),
        lambda run, other: compare.main([f"base={other}", f"new={run}"]),
    ],
)
def test_commands_say_that_a_run_was_pruned(output: Path, command: object) -> None:
    pruning.apply(ArtifactStore.open(str(output)), planned(output).runs[0], datetime(2026, 3, 1, tzinfo=UTC))
    before = listing(output)
    with pytest.raises(DataError, match=r"run=\S+ was pruned on 2026-03-01, and its prompts, .* are gone"):
        command(directory(output, 1), directory(output, 1))  # type: ignore[operator]
    assert listing(output) == before


def test_a_pruned_run_prints_its_summary_again_and_is_not_begun_anew(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruning.apply(ArtifactStore.open(str(output)), planned(output).runs[0], datetime(2026, 3, 1, tzinfo=UTC))
    run, config = open_finished(str(directory(output, 1)))
    config = replace(config, output_dir=str(output))
    execute(config)
    assert "the run was pruned on 2026-03-01: its samples and its report are gone" in capsys.readouterr().out
    change_manifest(directory(output, 1), counts={"num_samples": 900, "num_failed": 1})
    with pytest.raises(DataError, match="was pruned on 2026-03-01"):
        begin(run, replace(config, run=replace(config.run, retry_failed=True)))
    assert names(directory(output, 1)) == KEPT | {"pruned.json"}


def test_a_failure_is_a_line_and_the_exit_code(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(ArtifactStore.open(str(directory(output, 1)))):
        plan = planned(output)
    assert run_id(1) in plan.kept
    (directory(output, 1) / "pruned.json").mkdir()
    with pytest.raises(RunError, match="5 runs removed; 1 run could not be pruned"):
        prune.main([f"output_dir={output}", "keep_days=0", "apply=true"])
    assert "  not removed: " in capsys.readouterr().out
    assert names(directory(output, 1)) >= REMOVED


def test_an_index_that_cannot_be_written_is_a_line_and_what_was_removed_is_counted(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(output / "index")
    (output / "index").write_text("a file")
    prune.main([f"output_dir={output}", "keep_days=0", "apply=true"])
    out = capsys.readouterr().out
    assert "  index: " in out
    assert "of 6 runs removed" in out


@pytest.mark.parametrize(("name", "line"), [("d", "kept: "), ("dddd", "  not removed: ")])
def test_a_part_that_is_nested_too_deep_is_a_line(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.chdir(directory(output, 1) / "logs")
            for _ in range(1_100):
                Path(name).mkdir()
                os.chdir(name)
        with suppress(RunError):
            prune.main([f"output_dir={output}", "keep_days=0", "apply=true"])
        out = capsys.readouterr().out
        assert re.search(rf"^{line}.*nested too deep", out, re.MULTILINE)
        assert [f"remove: run={run_id(night)}" in out for night in range(2, 7)] == [True] * 5
    finally:
        subprocess.run(["rm", "-r", "-f", directory(output, 1) / "logs"], check=True)  # pytest's own would recurse


def test_nothing_to_remove_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_nights(tmp_path, [0.5])
    prune.main([f"output_dir={tmp_path}"])
    assert "nothing to remove: no run that may be pruned ended more than 90 days ago" in capsys.readouterr().out
