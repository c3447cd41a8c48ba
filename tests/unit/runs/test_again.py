"""The same words for a complete run print its summary again and end as the run did; nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from archives import Reply, Scored, completion, question, reply_b, run_of
from builders import ENDPOINT, ROOT, record_manifest

from pipeline import compare, pack, rescore, run
from pipeline.errors import GateFailed, HostError, PipelineError, RunError, TooManyFailedRows
from pipeline.generate.engines import host_checks
from pipeline.records import Completion
from pipeline.runs import directory as run_directory
from pipeline.runs.lock import locked
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

Words = Callable[..., list[str]]


def words(output: Path, *overrides: str) -> list[str]:
    return ["conf=demo", *ENDPOINT, f"output_dir={output}", "run_id=one", "only=[agro_bench]", *overrides]


def complete(output: Path, *overrides: str, reply: Reply = reply_b) -> Scored:
    """Make a complete run with all of its products."""
    prompts = [question("agro_bench", number, gold="B" if number else "A", split="train") for number in range(4)]
    scored = run_of([*prompts, question("agro_bench", 7)], str(output), *overrides, reply=reply)
    content = scored.content | {"timings_s": {"generate": 2.0, "total": 3.5}, "ended_at": "2026-11-21T23:00:00Z"}
    record_manifest(scored.store, content.pop("status"), **content)
    with suppress(GateFailed, TooManyFailedRows):
        rescore.main([f"run={scored.store.root}"])
    return scored


def state(output: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the time, the inode and the content of every file."""
    files = [path for path in output.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a complete run with exit code 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        output = tmp_path_factory.mktemp("good")
        complete(output, "gate.max_no_answer=0.5")
    return output


def test_a_complete_run_prints_its_summary_again_and_nothing_changes(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(good)
    capsys.readouterr()
    run.main(words(good, "gate.max_no_answer=0.5"))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    place = good / "run=one"
    assert lines[0] == f"run one is complete in {place}: nothing is generated"
    assert "agro_bench      train  4  0.750  0.750  0.750 ±0.35    0.750    0          0       0       4" in lines
    assert "5 samples, 5 output tokens, 3.5 s in all, 2 tokens/s with the engine's start" in lines
    assert any(line.startswith(f"{place}/one_submission.zip  the leaderboard's archive: 1 task") for line in lines)
    assert any(line.startswith(f"{place}/report.html  the report") for line in lines)
    assert lines[-1] == "gate: kept: max_no_answer: 0 of 5 rows (0.0%) have no readable answer, at most 50.0%"
    assert state(good) == before


@pytest.mark.parametrize(
    "overrides", [["run.retry_failed=true"], ["engine.max_num_seqs=3"], ["gate.baseline=gone"], ["max_failed_rows=7"]]
)
def test_keys_that_no_completion_depends_on_may_differ(good: Path, overrides: list[str]) -> None:
    before = state(good)
    run.main(words(good, *overrides))
    assert state(good) == before


def test_another_configuration_is_refused(good: Path) -> None:
    before = state(good)
    for override in ("seed=5", "generation.max_gen_toks=7", "limit=2"):
        name = override.partition("=")[0]
        with pytest.raises(RunError, match=rf"^run_id='one' was begun with {name}=.*: choose another run_id"):
            run.main(words(good, override))
    assert state(good) == before


def test_a_run_without_its_samples_prints_what_is_left(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore.open(str(good / "run=one"))
    kept = [(name, good / name) for name in ("samples", "prompts", "completions")]
    for name, place in kept:
        Path(store.path(name)).rename(place)
    try:
        run.main(words(good))
    finally:
        for name, place in kept:
            place.rename(store.path(name))
    assert "0.750 ±0.35    0.750    0          0       0       -" in capsys.readouterr().out


def test_missing_metrics_are_a_line(good: Path) -> None:
    file = good / "run=one/metrics.parquet"
    file.rename(good / "kept")
    try:
        with pytest.raises(PipelineError, match=r"metrics\.parquet is missing: python -m pipeline.rescore run="):
            run.main(words(good))
    finally:
        (good / "kept").rename(file)


def test_a_run_ends_again_with_the_code_that_it_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete(tmp_path / "gate", "gate.max_no_answer=0", reply=lambda prompt, repeat: completion(prompt, repeat, "?"))
    complete(
        tmp_path / "failed",
        reply=lambda prompt, repeat: completion(prompt, repeat, None, "too long" if prompt["id"] == 1 else None),
    )
    before = state(tmp_path)
    for _ in range(2):
        with pytest.raises(GateFailed, match="run one is complete, and breaks rules of its gate: max_no_answer"):
            run.main(words(tmp_path / "gate"))
        assert "gate: broken: max_no_answer: 5 of 5 rows" in capsys.readouterr().out
        with pytest.raises(TooManyFailedRows, match="1 rows failed, max_failed_rows=0"):
            run.main(words(tmp_path / "failed", "max_failed_rows=5"))
        assert "1 rows failed: run.retry_failed=true tries these again" in capsys.readouterr().out
    assert state(tmp_path) == before


CRASHING = """
import os, sys
from pipeline.runs.lock import locked
from pipeline.storage.artifacts import ArtifactStore
with locked(ArtifactStore.open(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


def test_a_running_manifest_that_no_process_holds_is_shown_as_crashed(good: Path) -> None:
    scored = ArtifactStore.open(str(good / "run=crashed"))
    scored.create()
    scored.write_text("config.yaml", (good / "run=one/config.yaml").read_text())
    record_manifest(scored, "running")
    subprocess.run(
        [sys.executable, "-c", CRASHING, scored.root], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    for main, argument, end in (
        (run.main, f"from={scored.root}", "the run is crashed"),
        (pack.main, f"run={scored.root}", "run=crashed is crashed: only a complete run is packed"),
        (compare.main, f"base={scored.root}", "run=crashed is crashed, not complete"),
    ):
        with pytest.raises(RunError, match=end):
            main([argument, *([f"new={good}/run=one"] if main is compare.main else [])])
    with pytest.raises(PipelineError, match=r"gate\.baseline='crashed': .*run=crashed is crashed, not complete"):
        run.main(words(good, "run_id=two", "gate.baseline=crashed"))
    with locked(scored), pytest.raises(RunError, match="run=crashed is running, not complete"):
        run_directory.require_complete(scored)


def test_in_object_storage_a_running_manifest_without_a_heartbeat_is_shown_as_crashed(s3_query: str) -> None:
    store = ArtifactStore.open(f"s3://runs/run=x?{s3_query}")
    record_manifest(store, "running")
    with pytest.raises(RunError, match="is crashed, not complete"):
        run_directory.require_complete(store)
    for age, shown in ((0, "running"), (100, "crashed")):
        store.write_text("lock.json", f'{{"owner": "o", "token": "t", "at": {time.time() - age}}}')
        with pytest.raises(RunError, match=f"is {shown}, not complete"):
            run_directory.require_complete(store)
    store.write_text("lock.json", "{")
    with pytest.raises(RunError, match="is running, not complete"):
        run_directory.require_complete(store)


def _refuse(*_: object, **__: object) -> list[str]:
    raise HostError("no GPU is visible")


def _failing(prompt: dict[str, Any], repeat: int) -> Completion:
    return completion(prompt, repeat, None, error="gone") if prompt["id"] == 2 else completion(prompt, repeat, "B")


def test_a_retry_that_cannot_start_leaves_the_run_complete_with_its_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = complete(tmp_path, "max_failed_rows=1", reply=_failing)
    names = ("manifest.json", "report.html", "card.md")
    before = [scored.store.read_text(name) for name in names]
    monkeypatch.setattr(host_checks, "require_fit", _refuse)
    with pytest.raises(HostError):
        run.main(words(tmp_path, "max_failed_rows=1", "run.retry_failed=true"))
    assert [scored.store.read_text(name) for name in names] == before
    assert scored.manifest.is_complete


def test_the_host_is_checked_when_only_the_second_pass_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = complete(tmp_path, "noise.share=0.5")
    record_manifest(scored.store, "failed")
    monkeypatch.setattr(host_checks, "require_fit", _refuse)
    with pytest.raises(HostError):
        run.main(words(tmp_path, "noise.share=0.5"))


def test_a_reader_that_has_gone_does_not_change_the_exit_code_of_a_rescore(tmp_path: Path) -> None:
    scored = complete(tmp_path, "gate.max_failed=0.1", reply=_failing)
    line = [sys.executable, "-m", "pipeline.rescore", f"run={scored.store.root}"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(line, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    os.close(writer)
    assert (done.returncode, scored.manifest.status) == (4, "complete")
    assert "1 rows failed" in done.stderr
