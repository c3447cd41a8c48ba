"""Relative paths in a conf file are those next to it, or those in the working directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import ENDPOINT, ROOT, settings

from pipeline import preview, run
from pipeline.config.loading import compose
from pipeline.errors import ConfigError, DataError
from pipeline.runs.identity import identity, settings_hash
from pipeline.runs.index import model_key


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def write(file: Path, text: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


TASK = """
tasks: {t: {dataset: DATASET, domain: d}}
model: {path: models/m}
prompt: {chat_template: t.jinja}
generation: {max_gen_toks: 64}
"""


def test_paths_are_those_next_to_the_conf_file_or_in_the_working_directory(tmp_path: Path, elsewhere: Path) -> None:
    conf = write(tmp_path / "night/n.yaml", TASK.replace("DATASET", "rows/*.jsonl"))
    config = compose([f"conf={conf}"])
    paths = [config.tasks["t"].dataset, config.model.path, config.prompt.chat_template]
    assert paths == ["rows/*.jsonl", "models/m", "t.jinja"]
    write(elsewhere / "rows/test.jsonl")
    assert compose([f"conf={conf}"]).tasks["t"].dataset == "rows/*.jsonl"
    for name in ("rows/test.jsonl", "models/m/config.json", "t.jinja"):
        write(tmp_path / "night" / name)
    config = compose([f"conf={conf}"])
    paths = [config.tasks["t"].dataset, config.model.path, config.prompt.chat_template]
    assert paths == [f"{tmp_path}/night/{name}" for name in ("rows/*.jsonl", "models/m", "t.jinja")]


def test_a_path_below_the_working_directory_stays_relative_to_it(elsewhere: Path) -> None:
    write(elsewhere / "conf/n.yaml", TASK.replace("DATASET", "../rows/test.jsonl"))
    write(elsewhere / "rows/test.jsonl")
    write(elsewhere / "n.yaml", TASK.replace("DATASET", "./rows/test.jsonl"))
    assert compose(["conf=n"]).tasks["t"].dataset == "rows/test.jsonl"
    assert compose(["conf=n.yaml"]).tasks["t"].dataset == "./rows/test.jsonl"


def test_hub_ids_absolute_paths_and_the_command_line_are_left_as_they_are(tmp_path: Path, elsewhere: Path) -> None:
    text = TASK.replace("DATASET", "org/set").replace("models/m", "org/m").replace("t.jinja", "/t.jinja")
    conf = write(tmp_path / "night/n.yaml", text)
    write(tmp_path / "night/rows/test.jsonl")
    config = compose([f"conf={conf}"])
    assert [config.tasks["t"].dataset, config.model.path, config.prompt.chat_template] == [
        "org/set",
        "org/m",
        "/t.jinja",
    ]
    assert compose([f"conf={conf}", "tasks.t.dataset=rows/test.jsonl"]).tasks["t"].dataset == "rows/test.jsonl"
    assert elsewhere.exists()


def test_a_path_that_is_nowhere_is_named_with_both_places(tmp_path: Path, elsewhere: Path) -> None:
    conf = write(tmp_path / "night/n.yaml", TASK.replace("DATASET", "rows/test.jsonl"))
    words = [f"conf={conf}", "model.path=null", *ENDPOINT, "prompt.chat_template=null"]
    for main in (run.main, preview.main):
        with pytest.raises(ConfigError) as caught:
            main(words)
        assert str(caught.value) == (
            f"tasks.t.dataset='rows/test.jsonl': there is no such file or directory, neither {tmp_path}/night/rows/"
            f"test.jsonl (next to the conf file) nor {elsewhere}/rows/test.jsonl (in the working directory)"
        )
    assert not list(elsewhere.iterdir())
    with pytest.raises(DataError, match=r"tasks\.t\.dataset='other\.jsonl': .*\(seen from "):
        preview.main([*words, "tasks.t.dataset=other.jsonl"])


def test_conf_in_the_working_directory_wins(elsewhere: Path) -> None:
    write(elsewhere / "conf/demo.yaml", "base: [tasks/demo, model/demo]\nseed: 7\ngeneration: {max_gen_toks: 64}\n")
    config = compose(["conf=demo"])
    assert (config.seed, config.model.path) == (7, f"{ROOT}/data/demo/model")


def test_the_demo_is_the_same_settings_from_any_directory(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = settings(), compose(["conf=demo"])
    assert there[1].tasks["med_bench"].dataset == f"{ROOT}/data/demo/med_bench"
    for directory in (ROOT, ROOT.parent, ROOT / "tests", tmp_path):
        monkeypatch.chdir(directory)
        here = settings(), compose(["conf=demo"])
        assert [settings_hash(each) for each in here] == [settings_hash(each) for each in there]
        assert [model_key(each) for each in here] == [model_key(each) for each in there]
        assert identity(here[1])["model.path"] == "data/demo/model"
    assert elsewhere.exists()
