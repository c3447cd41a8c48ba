"""`from=<run>`: resolved commits are reused, differences are reported, and what would be another run is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import ENDPOINT, command, record_manifest, settings

from pipeline import run as run_command
from pipeline.config import loading
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, ModelError, RunError, UserError
from pipeline.runs.manifest import Manifest, PromptMetadata, load, load_engines
from pipeline.runs.model_files import model_fingerprint
from pipeline.runs.reproduce import Reproduction
from pipeline.storage.artifacts import ArtifactStore

COMMIT = "a1" * 20
LOCAL = f"sha256:{'0' * 64}"
TASKS = ("agro_bench", "aqua_bench", "med_bench")


def record(output: Path | str, *words: str, config: Config | None = None, **content: Any) -> ArtifactStore:
    """Write the directory of a complete run, as far as `from=` reads it."""
    config = config or settings("run_id=one", f"output_dir={output}", *words)
    run = ArtifactStore.open(config.output_dir).child(f"run={config.run_id}")
    run.create()
    run.write_text("config.yaml", loading.dump(config))
    metadata = {f"dataset_revision.{name}": LOCAL for name in TASKS}
    record_manifest(run, "complete", **{"run_id": config.run_id, "datasets": metadata} | content)
    return run


ADDRESS = ENDPOINT[1]
"""The address of the server: the command that makes a run again must give it again."""


def resolve(words: Sequence[str]) -> tuple[Config, Reproduction | None]:
    try:
        return run_command.resolve(words)
    except ConfigError as error:
        if f"add {ADDRESS}" not in str(error):
            raise
        return run_command.resolve([*words, ADDRESS])


def reproduce(*words: str) -> Reproduction:
    found = resolve(words)[1]
    assert found is not None
    return found


def refused(kind: type[UserError], *words: str) -> str:
    with pytest.raises(kind) as caught:
        resolve(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_from_the_run_is_not_a_reproduction() -> None:
    config, found = resolve(["conf=demo", *ENDPOINT])
    assert (config, found) == (settings(), None)


@pytest.mark.parametrize("end", ["", "/", "/manifest.json"])
def test_the_recorded_configuration_runs_under_a_new_run_id(tmp_path: Path, end: str) -> None:
    words = ["seed=77", "limit=5", "only=[med_bench]"]
    run = record(tmp_path, *words)
    config, found = resolve([f"from={run.root}{end}"])
    assert re.fullmatch(r"one-again-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", config.run_id)
    assert replace(config, run_id="one") == settings("run_id=one", f"output_dir={tmp_path}", *words)
    assert found is not None
    assert found.overridden == ()


def test_a_run_in_object_storage_is_reproduced(s3_query: str) -> None:
    record(f"s3://runs/again?{s3_query}")
    for end in ("", "/manifest.json"):
        config, _ = resolve([f"from=s3://runs/again/run=one{end}?{s3_query}", "run_id=two"])
        assert config.run_id == "two"


def test_the_id_of_a_run_reproduced_repeatedly_does_not_grow(tmp_path: Path) -> None:
    config = settings(f"output_dir={tmp_path}", f"run_id={'x' * 128}")
    first, _ = resolve([f"from={record(tmp_path, config=config).root}"])
    assert len(first.run_id) == 128
    second, _ = resolve([f"from={record(tmp_path, config=replace(config, run_id='a-again-2026-11-21T01-02-03')).root}"])
    assert second.run_id.startswith("a-again-2")
    assert second.run_id.count("again") == 1


def test_a_recorded_restart_is_not_reused(tmp_path: Path) -> None:
    run = record(tmp_path, "run.restart=true")
    assert not resolve([f"from={run.root}"])[0].run.restart
    assert resolve([f"from={run.root}", "run.restart=true"])[0].run.restart


def test_hub_data_sets_and_models_are_pinned_to_the_commits_that_were_resolved(tmp_path: Path) -> None:
    config = loading.compose(["conf=mera", "run_id=one", f"output_dir={tmp_path}", "tasks.med_bench.revision=v1"])
    metadata = {f"dataset_revision.{name}": COMMIT for name in TASKS} | {"model_revision": COMMIT}
    root = record(tmp_path, config=config, datasets=metadata).root
    reproduced, found = resolve([f"from={root}"])
    assert [reproduced.tasks[name].revision for name in TASKS] == [COMMIT] * 3
    assert reproduced.model.revision == COMMIT
    assert found is not None
    assert found.overridden == ()
    assert found.prepared(reproduced, PromptMetadata.from_flat(metadata)) == []
    words = ["tasks.agro_bench.dataset=org/other", "tasks.med_bench.revision=v2", "model.path=org/model"]
    other, _ = resolve([f"from={root}", *words])
    assert [other.tasks[name].revision for name in TASKS] == [None, COMMIT, "v2"]
    assert other.model.revision is None


def test_local_data_sets_have_no_commit_to_pin(tmp_path: Path) -> None:
    config, _ = resolve([f"from={record(tmp_path).root}"])
    assert {task.revision for task in config.tasks.values()} == {None}


def test_overridden_values_are_reported_except_where_the_run_is_executed(tmp_path: Path) -> None:
    run = record(tmp_path)
    words = ["limit=2", "generation.max_gen_toks=64", "engine.replicas=2", "run_id=two", "cluster.address=auto"]
    assert reproduce(f"from={run.root}", *words, f"output_dir={tmp_path}/x", "run.grace_s=1").overridden == (
        "limit is 2, recorded none",
        "generation.max_gen_toks is 64, recorded 192",
        "engine.replicas is 2, recorded 1",
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["from=a", "from=b"], "from= is given twice: give one run, for instance from=outputs/run=2026-11-21"),
        (["from="], "from='': give one run, for instance from=outputs/run=2026-11-21"),
        (["from=nowhere"], "from=nowhere: there is no such directory"),
        (["from=nowhere/manifest.json"], "from=nowhere: there is no such directory"),
        (["from=nowhere", "conf=demo"], "from= takes the configuration that the run recorded: leave conf= out"),
        (["from=pipeline"], "from=pipeline: the directory holds no config.yaml, so it is not a run's"),
    ],
)
@pytest.mark.usefixtures("at_root")
def test_a_wrong_source_is_an_error_of_one_line(words: list[str], line: str) -> None:
    assert line in refused(UserError, *words)


def test_a_wrong_override_is_an_error_of_one_line(tmp_path: Path) -> None:
    root = record(tmp_path).root
    assert "Did you mean" in refused(ConfigError, f"from={root}", "limt=3")
    assert refused(ConfigError, f"from={root}", "limit").startswith("'limit' is not key=value")
    assert refused(ConfigError, f"from={root}", "limit=-1") == "limit=-1: must be null or at least 1"


def test_a_run_that_is_not_complete_is_refused(tmp_path: Path) -> None:
    run = record(tmp_path)
    record_manifest(run, "failed")
    line = f"from={run.root}: the run is failed: from= takes complete runs; its own run_id resumes it"
    assert refused(RunError, f"from={run.root}") == line
    run.remove("manifest.json")
    assert "the run has no manifest.json" in refused(RunError, f"from={run.root}")
    run.write_text("manifest.json", "{")
    assert "manifest.json is damaged" in refused(DataError, f"from={run.root}")


def test_the_recorded_run_is_never_written(tmp_path: Path) -> None:
    run = record(tmp_path)
    assert refused(RunError, f"from={run.root}", "run_id=one").startswith(
        f"run_id='one' is the run that is made again, in {run.root}"
    )
    assert resolve([f"from={run.root}", "run_id=one", f"output_dir={tmp_path}/x"])[0].run_id == "one"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    store = tmp_path / "model"
    store.mkdir()
    (store / "config.json").write_text("{}")
    return store


@pytest.fixture
def with_model(tmp_path: Path, model: Path) -> str:
    """The argument `from=` of a run made with the model's directory."""
    config = loading.compose(["conf=demo", "run_id=one", f"output_dir={tmp_path}", f"model.path={model}"])
    return f"from={record(tmp_path, config=config, model_fingerprint=model_fingerprint(config.model)).root}"


def test_another_model_under_the_same_path_is_refused(with_model: str, model: Path) -> None:
    resolve([with_model])
    (model / "config.json").write_text('{"a": 1}')
    line = refused(ModelError, with_model)
    assert line.startswith(f"model.path='{model}' holds another model (sha256:")
    assert "model.path=<dir>, or make a new run with conf=demo" in line
    shutil.rmtree(model)
    assert refused(ModelError, with_model).startswith(f"model.path='{model}' is no directory: ")


def test_a_missing_model_directory_is_refused_before_the_run_starts(with_model: str, model: Path) -> None:
    line = f"error: model.path='{model}' is no directory: give the directory of the model that "
    shutil.rmtree(model)
    before = sorted(model.parent.iterdir())
    done = command("pipeline.run", with_model)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(line)
    assert sorted(model.parent.iterdir()) == before


def test_a_model_directory_without_a_fingerprint_or_from_an_override_must_exist(tmp_path: Path) -> None:
    config = loading.compose(["conf=demo", "run_id=one", f"output_dir={tmp_path}", f"model.path={tmp_path}/gone"])
    root = record(tmp_path, config=config).root
    fix = f"there is no such directory (seen from {Path.cwd()}): give the directory of the model, model.path=<dir>"
    assert refused(ModelError, f"from={root}") == f"model.path='{tmp_path}/gone': {fix}"
    assert refused(ModelError, f"from={root}", "model.path=./none") == f"model.path='./none': {fix}"
    assert resolve([f"from={root}", f"model.path={tmp_path}"])[0].model.path == str(tmp_path)


def test_a_model_named_by_an_override_is_reported(with_model: str, model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    config, found = resolve([with_model, f"model.path={other}"])
    assert found is not None
    assert found.overridden == (f"model.path is {other}, recorded {model}",)
    assert found.environment(Manifest(status="running", model_fingerprint=model_fingerprint(config.model))) == []
    (other / "config.json").write_text('{"a": 1}')
    config, found = resolve([with_model, f"model.path={other}"])
    assert found is not None
    now = found.environment(Manifest(status="running", model_fingerprint=model_fingerprint(config.model)))
    assert [line[:30] for line in now] == [
        "model_fingerprint is sha256:" + (model_fingerprint(config.model) or "")[7:9]
    ]


@pytest.mark.usefixtures("at_root")
def test_a_changed_or_missing_template_file_is_refused_and_the_runs_copy_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages }}")
    words = ["conf=demo", "run_id=one", f"output_dir={tmp_path}", f"prompt.chat_template={file}"]
    run = record(tmp_path, config=loading.compose(words))
    run.write_text("prompts/chat_template.jinja", "{{ messages }}")
    kept = f"{run.root}/prompts/chat_template.jinja"
    assert reproduce(f"from={run.root}").overridden == ()
    file.write_text("{{ messages }}!")
    fix = f"give the one that the run kept, prompt.chat_template={kept}"
    line = f"prompt.chat_template='{file}' is not what it was in {run.root}: {fix}"
    assert refused(ModelError, f"from={run.root}") == line
    file.unlink()
    assert refused(ModelError, f"from={run.root}").endswith(f"cannot be read: No such file or directory: {fix}")
    assert reproduce(f"from={run.root}", f"prompt.chat_template={kept}").overridden == (
        f"prompt.chat_template is {kept}, recorded {file}",
    )


def test_what_differs_in_versions_code_and_hardware_is_a_line_each(tmp_path: Path) -> None:
    before = {
        "versions": {"vllm": "0.31.0", "ray": "2.60.0"},
        "codebase": {"commit": "aaa", "modified": True},
        "hardware": {"num_cpus": 2},
    }
    found = reproduce(f"from={record(tmp_path, **before).root}")
    now = {
        "versions": {"vllm": "0.32.0", "torch": "2.13.0", "ray": "2.60.0"},
        "codebase": None,
        "hardware": {"num_cpus": 4},
    }
    assert found.environment(load(now | {"status": "running"})) == [
        "versions.vllm is 0.32.0, recorded 0.31.0",
        "codebase.commit is none, recorded aaa",
        "codebase.modified is none, recorded True",
        "hardware.num_cpus is 4, recorded 2",
        "versions.torch is 2.13.0, recorded none",
        "codebase: the recorded commit had been modified, so it does not identify all of the code",
    ]
    assert (
        reproduce(f"from={record(tmp_path, versions={'ray': '2'}).root}").environment(
            load({"versions": {"ray": "2"}} | {"status": "running"})
        )
        == []
    )


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., tuple[Reproduction, Config]]:
    def make(*words: str) -> tuple[Reproduction, Config]:
        config, found = resolve([f"from={record(tmp_path).root}", *words])
        assert found is not None
        return found, config

    return make


METADATA = {f"dataset_revision.{name}": LOCAL for name in TASKS}
CHANGED = METADATA | {"dataset_revision.aqua_bench": f"sha256:{'1' * 64}"}


def test_a_data_set_that_changed_in_its_place_is_refused(recorded: Callable[..., tuple[Reproduction, Config]]) -> None:
    found, config = recorded()
    assert found.prepared(config, PromptMetadata.from_flat(METADATA)) == []
    with pytest.raises(DataError) as caught:
        found.prepared(config, PromptMetadata.from_flat(CHANGED))
    assert str(caught.value) == (
        f"tasks.aqua_bench.dataset='data/demo/aqua_bench' holds other rows than when {found.source.root} was made "
        f"(sha256:{'1' * 64}, recorded {LOCAL}): give a copy of those, tasks.aqua_bench.dataset=<dir>, or make a new "
        "run with conf=demo"
    )


@pytest.mark.parametrize(
    "override", ["tasks.aqua_bench.dataset=elsewhere", "splits=[test]", "tasks.aqua_bench.train_split=dev"]
)
def test_a_data_set_changed_by_an_override_is_reported(
    recorded: Callable[..., tuple[Reproduction, Config]], override: str
) -> None:
    found, config = recorded(override)
    assert found.prepared(config, PromptMetadata.from_flat(CHANGED)) == [
        f"dataset_revision.aqua_bench is sha256:{'1' * 64}, recorded {LOCAL}"
    ]


def test_a_task_that_is_left_out_is_not_compared(recorded: Callable[..., tuple[Reproduction, Config]]) -> None:
    found, config = recorded("only=[med_bench]")
    assert found.prepared(config, PromptMetadata.from_flat(CHANGED)) == []


def test_another_rendering_of_the_template_is_reported(recorded: Callable[..., tuple[Reproduction, Config]]) -> None:
    found, config = recorded()
    lines = found.prepared(config, PromptMetadata.from_flat(METADATA | {"template_fingerprint": "sha256:1"}))
    assert lines == ["template_fingerprint is sha256:1, recorded none"]


def test_engines_are_compared_without_session_information(tmp_path: Path) -> None:
    gpu = {"device": "A100", "cuda": "12.8", "engine_start_s": 30.0, "restarts": 1}
    found = reproduce(f"from={record(tmp_path, engine={'a': gpu, 'b': gpu}).root}")
    now = {"c": gpu | {"engine_start_s": 1.0}, "d": gpu | {"device": "H100", "restarts": 0}}
    assert found.engines(load_engines({"c": now["c"]})) == []
    assert found.engines(load_engines(now)) == ["engine device is A100, H100, recorded A100"]


def test_a_recorded_run_without_samples_is_reported_without_an_error(tmp_path: Path) -> None:
    found = reproduce(f"from={record(tmp_path).root}")
    assert found.agreement(ArtifactStore.open(str(tmp_path / "other"))).startswith("nothing is compared: ")


def test_the_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    done = command("pipeline.run", f"from={tmp_path}/gone")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: from={tmp_path}/gone: there is no such directory\n"


def test_a_manifest_without_data_sets_is_compared_with_none(tmp_path: Path) -> None:
    run = record(tmp_path)
    run.write_text("manifest.json", json.dumps({"status": "complete"}))
    config, found = resolve([f"from={run.root}"])
    assert found is not None
    assert (
        found.prepared(config, PromptMetadata.from_flat(METADATA))[0]
        == f"dataset_revision.agro_bench is {LOCAL}, recorded none"
    )


CONSENT = {
    "model.trust_remote_code": "true",
    "cluster.address": "10.0.0.1:6379",
    "engine.extra.worker_cls": "evil.Worker",
    "engine.extra.compilation_config": "{backend: evil.compile}",
    "engine.endpoint.base_url": "http://evil.example/v1",
    "engine.endpoint.api_key_env": "HF_TOKEN",
}


@pytest.mark.parametrize("name", CONSENT)
def test_what_runs_code_or_contacts_hosts_counts_only_when_the_command_gives_it_again(
    tmp_path: Path, name: str
) -> None:
    recorded = record(tmp_path, *(f"{key}={value}" for key, value in CONSENT.items()))
    others = [f"{key}={value}" for key, value in CONSENT.items() if key != name]
    with pytest.raises(ConfigError, match=rf"so {re.escape(name)} count only when this command gives .* add '?{name}="):
        run_command.resolve([f"from={recorded.root}", *others])
    config, _ = run_command.resolve([f"from={recorded.root}", *others, f"{name}={CONSENT[name]}"])
    expected = {"worker_cls": "evil.Worker", "compilation_config": {"backend": "evil.compile"}}
    assert config.engine.extra.items() >= expected.items()


def test_a_recorded_argument_is_not_merged_into_the_one_of_the_command(tmp_path: Path) -> None:
    recorded = record(tmp_path, "engine.extra.compilation_config={backend: evil.compile}", "engine.extra.block_size=16")
    config, _ = resolve([f"from={recorded.root}", "engine.extra.compilation_config={level: 3}"])
    assert config.engine.extra.items() >= {"compilation_config": {"level": 3}, "block_size": 16}.items()


def test_a_run_is_not_written_where_only_the_recorded_configuration_says(tmp_path: Path) -> None:
    recorded = record(tmp_path / "shared")
    moved = tmp_path / "moved" / "run=one"
    shutil.copytree(recorded.root, moved)
    assert f"add output_dir={tmp_path}/shared" in refused(ConfigError, f"from={moved}")
    assert resolve([f"from={moved}", f"output_dir={tmp_path}/mine"])[0].output_dir == f"{tmp_path}/mine"
