"""`python -m pipeline.rescore run=<dir>` replaces a run's scores, or reports in one line what is missing."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from builders import record_manifest

from pipeline.config import loading
from pipeline.errors import UserError
from pipeline.records import SAMPLE_SCHEMA
from pipeline.rescore import main

MODULES = (
    "import sys, pipeline.rescore; print([m for m in ('ray', 'torch', 'vllm', 'transformers') if m in sys.modules])"
)


@pytest.fixture
def scored(run):
    run.ask("B")
    run.publish()
    run.store.write_text("config.yaml", loading.dump(run.config))
    return run


def test_rescore_writes_samples_and_metrics_and_prints_the_scores(scored, capsys):
    main([f"run={scored.store.root}"])
    assert scored.metric("em")["value"] == 1.0
    assert "agro" in capsys.readouterr().out


def test_the_card_of_a_run_is_rewritten(scored):
    record_manifest(scored.store, "complete", run_id="test", engine={"r0": {"torch": "2.10.0"}})
    main([f"run={scored.store.root}"])
    card = json.loads(scored.store.read_text("card.json"))
    assert (card["fields"]["torch"]["value"], card["fields"]["team"]["value"]) == ("2.10.0", None)
    assert "## " in scored.store.read_text("card.md")


@pytest.mark.parametrize("arguments", [[], ["run="], ["conf=mera"], ["run=a", "limit=1"]])
def test_arguments_without_a_run_are_rejected_with_an_example(arguments):
    with pytest.raises(UserError, match="run=outputs/run="):
        main(arguments)


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="gone: there is no such directory"):
        main([f"run={tmp_path / 'gone'}"])


@pytest.mark.parametrize("missing", ["config.yaml", "prompts", "completions"])
def test_a_missing_file_of_a_run_is_named(scored, missing):
    scored.store.remove(missing)
    with pytest.raises(UserError, match=missing):
        main([f"run={scored.store.root}"])


def test_a_damaged_configuration_is_named(scored):
    scored.store.write_text("config.yaml", "tasks: [")
    with pytest.raises(UserError, match=r"config\.yaml"):
        main([f"run={scored.store.root}"])


def test_the_command_exits_with_2_and_one_line_for_a_user_error(tmp_path):
    command = [sys.executable, "-m", "pipeline.rescore", f"run={tmp_path / 'gone'}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_rescore_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_that_an_older_version_scored_is_read_and_scored_again(scored):
    scored.ask("Ответ: A (возможно, C)")
    scored.score()
    (file,) = scored.store.files("samples", ".parquet")
    older = pq.read_table(scored.store.path(file), partitioning=None).drop_columns(["seen_letters"])
    pq.write_table(older, scored.store.path(file))
    samples = scored.store.require_artifact("samples", SAMPLE_SCHEMA)
    assert samples.dataset().to_table(["seen_letters"]).to_pylist() == [{"seen_letters": None}] * 2
    main([f"run={scored.store.root}"])
    assert [row["seen_letters"] for row in scored.samples()] == [None, "A, C"]


@pytest.mark.parametrize(
    "planted", [{"task": "../../run=victim/samples/task=agro"}, {"task": "/victim"}, {"split": "../../../run=victim"}]
)
def test_rows_that_would_be_written_elsewhere_are_refused(run, planted):
    victim = run.store.local.parent / "run=victim"
    victim.mkdir()
    run.ask("B", **planted)
    run.publish()
    run.store.write_text("config.yaml", loading.dump(run.config))
    before = run.store.files()
    with pytest.raises(UserError, match=r"has rows of task .*, which its config.yaml does not run"):
        main([f"run={run.store.root}"])
    assert list(victim.iterdir()) == []
    assert set(run.store.files()) - set(before) <= {".lock"}


@pytest.mark.parametrize("kept", [{"ended_at": "2026-11-21T23:00:00Z"}, {"counts": {"num_samples": 1}}, {}])
def test_a_rescore_that_was_stopped_is_finished_by_the_next(scored, kept):
    record_manifest(scored.store, "running", run_id="test", **kept)  # as `rescore` leaves it when it is killed
    main([f"run={scored.store.root}"])
    is_complete = json.loads(scored.store.read_text("manifest.json"))["status"] == "complete"
    assert (is_complete, scored.store.exists("card.json")) == (bool(kept), bool(kept))


def test_a_file_that_cannot_be_read_just_now_is_not_called_damaged(scored):
    record_manifest(scored.store, "complete", run_id="test", ended_at="2026-11-21T23:00:00Z")
    file = scored.store.local / "completions" / "part-00000.parquet"
    file.rename(file.with_name("kept"))
    file.symlink_to(file.name)  # ELOOP stands for EACCES, which root does not meet
    with pytest.raises(UserError, match=r"part-00000\.parquet cannot .*: run the same") as caught:
        main([f"run={scored.store.root}"])
    assert "delete" not in str(caught.value)
    assert json.loads(scored.store.read_text("manifest.json"))["status"] == "complete"
