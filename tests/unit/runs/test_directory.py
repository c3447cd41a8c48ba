"""An existing run directory is resumed, or refused with a message about what is missing or differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import ROOT, make_prompt, publish_prompts, record_manifest, settings
from rich.console import Console

from pipeline.config import loading
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, RunError
from pipeline.orchestrator import execute, preview
from pipeline.preflight.preview import PreviewOptions
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


def test_a_complete_run_is_refused_with_any_configuration(begun: tuple[ArtifactStore, Config], tmp_path: Path) -> None:
    run, config = begun
    _complete(run, 0)
    for requested in (config, settings(f"output_dir={tmp_path}", "run_id=one", "run.retry_failed=true")):
        with pytest.raises(RunError, match=r"run_id='one' is complete in .*: choose another run_id, or rescore it"):
            run_directory.begin(run, requested)


def test_a_complete_run_with_failed_rows_is_reopened_to_retry_them(
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
def test_a_manifest_with_values_of_the_wrong_type_is_damaged(begun: tuple[ArtifactStore, Config], content: str) -> None:
    run, config = begun
    run.write_text("manifest.json", content)
    with pytest.raises(DataError, match=r"manifest\.json is damaged: delete it to resume"):
        run_directory.begin(run, config)


@pytest.mark.parametrize("kept", ["prompts", "journal", "completions", "noise"])
def test_what_was_generated_under_an_unknown_configuration_is_refused(
    begun: tuple[ArtifactStore, Config], kept: str
) -> None:
    run, config = begun
    Path(run.path("config.yaml")).unlink()
    run.remove("prompts")
    run.write_text(f"{kept}/some", "")
    with pytest.raises(RunError, match=r"config\.yaml is missing, so the origin of its files is unknown"):
        run_directory.begin(run, config)


def test_completions_without_their_prompts_are_refused(begun: tuple[ArtifactStore, Config]) -> None:
    run, config = begun
    with run.publish("completions", COMPLETION_SCHEMA) as store:
        store.write_parts("task=agro_bench/split=test", COMPLETION_SCHEMA, [COMPLETION_SCHEMA.empty_table()], 10)
    run_directory.begin(run, config)
    shutil.rmtree(run.path("prompts"))
    with pytest.raises(RunError, match=r"prompts is gone and .*completions was made from it: put it back"):
        run_directory.begin(run, config)


def test_another_model_is_detected_without_a_manifest(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("one")
    overrides = ("conf=demo", f"output_dir={tmp_path}", "run_id=one", f"model.path={model}", "engine.kind=vllm")
    run, config = run_directory.place(settings(*overrides[1:]))
    run_directory.begin(run, config)
    with run.publish(
        "prompts", PROMPT_SCHEMA, {"model_fingerprint": str(run_directory.model_fingerprint(config.model))}
    ):
        pass
    run_directory.begin(run, config)
    (model / "weights").write_text("two")
    with pytest.raises(RunError, match=r"model\.path=.* holds another model than when run_id='one' was begun"):
        run_directory.begin(run, config)


def test_partial_files_of_a_crashed_process_are_removed_and_the_lock_is_kept(
    begun: tuple[ArtifactStore, Config],
) -> None:
    run, config = begun
    leftovers = [f".manifest.json.{'0' * 32}", f".prompts-{'0' * 32}/part", ".lock"]
    for name in leftovers:
        run.write_text(name, "")
    run_directory.begin(run, config)
    assert [run.exists(name) for name in leftovers] == [False, False, True]


def test_a_run_is_resumed_when_only_the_submission_keys_have_changed(tmp_path: Path) -> None:
    overrides = [f"output_dir={tmp_path}", "run_id=one"]
    run, config = run_directory.place(settings(*overrides))
    run_directory.begin(run, config)
    run_directory.begin(run, settings(*overrides, "submission.team=Мы", "submission.unmeasured.cuda=12.8"))
    assert loading.load(run.read_text("config.yaml"), "config.yaml").submission.team == "Мы"
    with pytest.raises(RunError, match="was begun with seed=1234"):
        run_directory.begin(run, settings(*overrides, "seed=5"))


@pytest.mark.parametrize("command", ["run", "preview"])
def test_a_relative_output_dir_in_a_ray_job_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)
    config = settings("output_dir=outputs", f"tasks.agro_bench.dataset={ROOT}/data/demo/agro_bench")
    options, refusal = (
        PreviewOptions(row_id=None, num_prompts=1),
        rf"^output_dir='outputs': .* and {tmp_path}/outputs is",
    )
    with pytest.raises(ConfigError, match=refusal):
        execute(config) if command == "run" else preview(config, {}, options, Console())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output_dir", "in_job", "in_cache", "is_refused"),
    [
        ("outputs", True, False, True),
        ("outputs", False, True, True),
        ("outputs", False, False, False),
        ("/shared/outputs", True, True, False),
        ("s3://runs/outputs", True, True, False),
        ("file:///shared/outputs", True, True, False),
        ("{cache}/outputs", False, False, True),
        ("file://{cache}/outputs", True, False, True),
    ],
)
def test_a_ray_job_writes_only_where_its_files_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output_dir: str, in_job: bool, in_cache: bool, is_refused: bool
) -> None:
    cache = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_1"
    cache.mkdir(parents=True)
    monkeypatch.chdir(cache if in_cache else tmp_path)
    if in_job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    if is_refused:
        with pytest.raises(ConfigError, match="this is a Ray job"):
            run_directory.require_lasting(output_dir.format(cache=cache))
        return
    run_directory.require_lasting(output_dir.format(cache=cache))
