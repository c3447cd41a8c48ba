"""The fingerprint of a model directory changes only with the model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.config.schema import ModelConfig
from pipeline.runs import model_files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(model_files.WHOLE_BYTES + 100)
    return directory


def of(directory: Path) -> str | None:
    return model_files.model_fingerprint(ModelConfig(path=str(directory)))


def test_a_copy_elsewhere_is_the_same_model(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "config.json", (1, 1))
    assert of(model) == of(tmp_path / "copy") != None  # noqa: E711


@pytest.mark.parametrize("change", ["small", "tail", "size", "new", "name"])
def test_a_change_is_detected(model: Path, change: str) -> None:
    before = of(model)
    weights = model / "model.safetensors"
    if change == "small":
        (model / "config.json").write_text('{"a": 1}')
    elif change == "tail":
        with weights.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
    elif change == "size":
        os.truncate(weights, model_files.WHOLE_BYTES + 99)
    elif change == "new":
        (model / "adapter.json").write_text("{}")
    else:
        (model / "config.json").rename(model / "config2.json")
    assert of(model) != before


def test_metadata_of_a_download_tool_is_not_part_of_the_model(model: Path) -> None:
    before = of(model)
    (model / ".cache" / "huggingface").mkdir(parents=True)
    (model / ".cache" / "huggingface" / "config.json.metadata").write_text("today")
    assert of(model) == before


def test_a_path_that_is_not_a_directory_has_no_fingerprint() -> None:
    assert model_files.model_fingerprint(ModelConfig(path="Qwen/Qwen3.6-35B-A3B")) is None
    assert model_files.model_fingerprint(ModelConfig(path=None)) is None
