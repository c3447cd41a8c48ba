"""The same benchmark for any model: conf=own, what conf=mera refuses, and starts that leave nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from builders import settings

from pipeline import run
from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, UserError
from pipeline.prepare.own_model import require_expected_model, with_own_context
from pipeline.runs import directory as run_directory
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

DEMO_DATA = [f"tasks.{task}.dataset=data/demo/{task}" for task in ("agro_bench", "aqua_bench", "med_bench")]
REFERENCE = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "text_config": {"num_hidden_layers": 40, "hidden_size": 2048, "num_experts": 256},
}


def model_at(place: Path, config: object) -> str:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return f"model.path={place}"


def test_a_model_is_needed_and_the_error_names_the_two_ways() -> None:
    with pytest.raises(ConfigError, match=r"give model\.path=<directory or hub id>, or .* engine\.kind=endpoint "):
        compose(["conf=own"])
    assert compose(["conf=own", "model.path=m"]).model.context_size is None
    assert compose(["conf=own", "engine.kind=endpoint", "engine.endpoint.base_url=http://h/v1"]).model.path is None


def test_own_is_the_same_benchmark_as_the_reference_run() -> None:
    own, mera = compose(["conf=own", "model.path=m"]), compose(["conf=mera"])
    same = ("tasks", "splits", "seed", "limit", "announced")
    assert [getattr(own, name) for name in same] == [getattr(mera, name) for name in same]
    assert replace(own.generation, until=()) == replace(mera.generation, until=())
    assert own.submission.team is mera.submission.team is None
    assert (own.submission.describes, own.prompt.expected_fingerprint) == (None, None)


def test_another_model_on_top_of_the_reference_run_is_refused_with_the_way_to_go(tmp_path: Path) -> None:
    other = model_at(tmp_path / "mine", REFERENCE | {"text_config": {"num_hidden_layers": 60}})
    for override in (other, "model.path=Qwen/Qwen3-0.6B"):
        path = override.partition("=")[2]
        with pytest.raises(ConfigError, match=rf"keep: model\.context_size=262144.*: write conf=own {override} "):
            require_expected_model(compose(["conf=mera", override]))
        require_expected_model(compose(["conf=own", f"model.path={path}"]))
    with pytest.raises(ConfigError, match="write conf=own"):
        run.main(["conf=mera", other, f"output_dir={tmp_path}/outputs", *DEMO_DATA])
    assert not (tmp_path / "outputs").exists()


def test_the_reference_model_elsewhere_is_accepted(tmp_path: Path) -> None:
    for override in (model_at(tmp_path / "copy", REFERENCE), "model.path=mirror/Qwen3.6-35B-A3B"):
        require_expected_model(compose(["conf=mera", override]))
    endpoint = ["engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:9/v1"]
    require_expected_model(compose(["conf=mera", "model.path=x/y", *endpoint]))
    require_expected_model(compose(["conf=mera", "model.path=x/y", "model.expected_config=[]"]))


@pytest.mark.parametrize(
    ("model_config", "size"),
    [
        ({"max_position_embeddings": 32768}, 32768),
        ({"max_position_embeddings": 9, "text_config": {"max_position_embeddings": 20000}}, 20000),
        ({"n_positions": 12000}, 12000),
    ],
)
def test_the_context_is_the_models_own(tmp_path: Path, model_config: object, size: int) -> None:
    config = with_own_context(compose(["conf=own", model_at(tmp_path / "m", model_config)]))
    assert config.model.context_size == size
    given = compose(["conf=own", f"model.path={tmp_path}/m", "model.context_size=10001"])
    assert with_own_context(given) is given


@pytest.mark.parametrize(
    ("model_config", "line"),
    [
        ({}, "model.context_size=None: the model's config.json does not contain .*: set model.context_size=<tokens>"),
        (
            {"max_position_embeddings": 4096},
            "generation.max_gen_toks=10000: must be below 4096, the model's own .*=2048",
        ),
        ({"max_position_embeddings": True}, "model.context_size=None: "),
    ],
)
def test_a_context_that_is_unknown_or_too_small_is_a_one_line_error(
    tmp_path: Path, model_config: object, line: str
) -> None:
    with pytest.raises(ConfigError, match=line):
        with_own_context(compose(["conf=own", model_at(tmp_path / "m", model_config)]))


def test_a_run_that_began_with_another_context_keeps_it(tmp_path: Path) -> None:
    before = compose(["conf=own", "model.path=m", "model.context_size=20000", f"output_dir={tmp_path}", "run_id=one"])
    run_directory.begin(*run_directory.place(before))
    now = replace(before, model=replace(before.model, context_size=None))
    assert run_directory.with_recorded_context(now) == before
    other = replace(now, run_id="two")
    assert run_directory.with_recorded_context(other) is other


def test_an_endpoint_run_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    old = settings(f"output_dir={tmp_path}", "run_id=one", "model.context_size=8192")
    run_directory.begin(*run_directory.place(old))
    run_directory.begin(*run_directory.place(replace(old, model=replace(old.model, context_size=None))))


def test_a_minimal_configuration_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("tasks: {a: {dataset: a, domain: d}}\nmodel: {path: m}\n", encoding="utf-8")
    assert isinstance(compose([f"conf={file}"]), Config)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.path=/nowhere/model"], "model.path='/nowhere/model': there is no such directory"),
        (["model.path=data/demo"], "model.path='data/demo': "),
        (["tasks.med_bench.dataset=data/demo/model"], "tasks.med_bench.dataset='data/demo/model'"),
        (["tasks.med_bench.dataset=nowhere.jsonl"], "tasks.med_bench.dataset='nowhere.jsonl'"),
        (["prompt.chat_template=nowhere.jinja"], "prompt.chat_template='nowhere.jinja' cannot be read"),
        (["prompt.template_kwargs.messages=x"], "prompt.template_kwargs="),
        (["gate.baseline=nowhere"], "gate.baseline='nowhere'"),
        (["model.context_size=2000"], "model.context_size=2000 is more than the 1024 positions"),
    ],
)
def test_a_mistyped_start_leaves_nothing_behind(tmp_path: Path, overrides: list[str], line: str) -> None:
    output = tmp_path / "new" / "outputs"
    with pytest.raises(UserError) as caught:
        run.main(["conf=demo", f"output_dir={output}", "limit=1", "generation.max_gen_toks=100", *overrides])
    assert str(caught.value).startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_a_mistyped_start_stays(tmp_path: Path) -> None:
    wrong = ["conf=demo", f"output_dir={tmp_path}", "run_id=one", "prompt.chat_template=nowhere.jinja"]
    begun = ArtifactStore.open(str(tmp_path)).child("run=one")
    run_directory.begin(*run_directory.place(compose(["conf=demo", f"output_dir={tmp_path}", "run_id=one"])))
    with pytest.raises(UserError):
        run.main(wrong)
    assert begun.exists("config.yaml")
    with pytest.raises(UserError):
        run.main(["run_id=two" if each == "run_id=one" else each for each in wrong])
    assert [path.name for path in tmp_path.iterdir()] == ["run=one"]


def test_a_base_is_found_next_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("common.yaml", "deep/demo.yaml"):
        (tmp_path / name).write_text("base: [demo]\nlimit: 3\n", encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("base: [common, deep/demo.yaml]\nseed: 5\n", encoding="utf-8")
    monkeypatch.chdir("/")
    config = compose([f"conf={tmp_path}/mine.yaml"])
    assert (config.limit, config.seed, config.model.dtype) == (3, 5, "float32")


def test_an_error_names_the_file_that_sets_the_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: [demo]\nlimit: -1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^limit=-1: must be null or at least 1 \(in {file}\)$"):
        compose([f"conf={file}"])
    with pytest.raises(ConfigError, match=r"^limit=-2: must be null or at least 1$"):
        compose([f"conf={file}", "limit=-2"])


def test_words_about_one_model_are_not_kept_for_another() -> None:
    other = compose(["conf=mera", "model.path=me/mine", "submission.license=MIT"]).submission
    assert (other.license, other.model_name, other.model_type, other.describes) == ("MIT", None, (), None)
    assert compose(["conf=mera", "submission.license=MIT"]).submission.model_name == "Qwen3.6-35B-A3B"
