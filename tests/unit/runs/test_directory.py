"""A run's directory that is begun again: gone on with, or refused with what is missing or differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import make_prompt, publish_prompts, record_manifest, settings

from pipeline.config import loading
from pipeline.config.schema import Config
from pipeline.errors import DataError, RunError
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA
from pipeline.runs import directory as run_directory
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")


@pytest.fixture
def begun(tmp_path: Path) -> tuple[ArtifactStore, Config]:
    run, config = run_directory.place(settings(f"output_dir={tmp_path}", "run_id=one"))
    run_directory.begin(run, config)
    publish_prompts(run, [make_prompt(1)])
    return run, config


def _complete(run: ArtifactStore, num_failed: int) -> None:
    record_manifest(run, "complete", counts={"num_failed": num_failed})


def test_a_complete_run_is_refused_whatever_is_asked(begun: tuple[ArtifactStore, Config], tmp_path: Path) -> None:
    run, config = begun
    _complete(run, 0)
    for again in (config, settings(f"output_dir={tmp_path}", "run_id=one", "run.retry_failed=true")):
        with pytest.raises(RunError, match=r"run_id='one' is complete in .*: choose another run_id, or rescore it"):
            run_directory.begin(run, again)


def test_a_complete_run_with_failed_rows_is_opened_again_to_retry_them(
    begun: tuple[ArtifactStore, Config], tmp_path: Path
) -> None:
    run, config = begun
    _complete(run, 3)
    with pytest.raises(RunError, match=r"and 3 rows failed: run\.retry_failed=true tries these again"):
        run_directory.begin(run, config)
    run_directory.begin(run, settings(f"output_dir={tmp_path}", "run_id=one", "run.retry_failed=true"))


@pytest.mark.parametrize(
    "content", ['{"status": "complete", "counts": 5}', '{"status": "complete", "noise": [1]}', "5"]
)
def test_a_manifest_of_other_kinds_is_damaged(begun: tuple[ArtifactStore, Config], content: str) -> None:
    run, config = begun
    run.write_text("manifest.json", content)
    with pytest.raises(DataError, match=r"manifest\.json is damaged: delete it to go on"):
        run_directory.begin(run, config)


@pytest.mark.parametrize("kept", ["journal", "completions"])
def test_what_was_generated_under_an_unknown_configuration_is_refused(
    begun: tuple[ArtifactStore, Config], kept: str
) -> None:
    run, config = begun
    Path(run.path("config.yaml")).unlink()
    run.write_text(f"{kept}/some", "")
    with pytest.raises(RunError, match=r"config\.yaml is missing, so what was generated is of an unknown making"):
        run_directory.begin(run, config)


def test_prompts_that_are_gone_under_their_completions_are_refused(begun: tuple[ArtifactStore, Config]) -> None:
    run, config = begun
    with run.publish("completions", COMPLETION_SCHEMA) as store:
        store.write_parts("task=agro_bench/split=test", COMPLETION_SCHEMA, [COMPLETION_SCHEMA.empty_table()], 10)
    run_directory.begin(run, config)
    shutil.rmtree(run.path("prompts"))
    with pytest.raises(RunError, match=r"prompts is gone and .*completions was made from it: put it back"):
        run_directory.begin(run, config)


def test_another_model_is_noticed_without_a_manifest(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("one")
    words = ("conf=demo", f"output_dir={tmp_path}", "run_id=one", f"model.path={model}", "engine.kind=vllm")
    run, config = run_directory.place(settings(*words[1:]))
    run_directory.begin(run, config)
    with run.publish(
        "prompts", PROMPT_SCHEMA, {"model_fingerprint": str(run_directory.model_fingerprint(config.model))}
    ):
        pass
    run_directory.begin(run, config)
    (model / "weights").write_text("two")
    with pytest.raises(RunError, match=r"model\.path=.* holds another model than when run_id='one' was begun"):
        run_directory.begin(run, config)


def test_what_a_process_left_half_written_is_removed_and_the_lock_is_not(begun: tuple[ArtifactStore, Config]) -> None:
    run, config = begun
    half = [f".manifest.json.{'0' * 32}", f".prompts-{'0' * 32}/part", ".lock"]
    for name in half:
        run.write_text(name, "")
    run_directory.begin(run, config)
    assert [run.exists(name) for name in half] == [False, False, True]


def test_a_run_goes_on_when_only_the_form_has_changed(tmp_path: Path) -> None:
    words = [f"output_dir={tmp_path}", "run_id=one"]
    run, config = run_directory.place(settings(*words))
    run_directory.begin(run, config)
    run_directory.begin(run, settings(*words, "submission.team=Мы", "submission.unmeasured.cuda=12.8"))
    assert loading.load(run.read_text("config.yaml"), "config.yaml").submission.team == "Мы"
    with pytest.raises(RunError, match="was begun with seed=1234"):
        run_directory.begin(run, settings(*words, "seed=5"))
