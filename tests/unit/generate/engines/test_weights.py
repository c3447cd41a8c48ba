"""The number of parameters is read from the headers of a model's own files, or stays unknown."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
from builders import ROOT

from pipeline.generate.engines.hardware import num_parameters

COMMIT = "a" * 40


def write_weights(path: Path, tensors: dict[str, list[int]]) -> None:
    """Write a safetensors file without weights: only the header is read."""
    header = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_the_parameters_of_the_demos_model_are_counted() -> None:
    assert num_parameters(str(ROOT / "data/demo/model")) == 572_864


def test_the_shards_in_the_index_are_summed(tmp_path: Path) -> None:
    write_weights(tmp_path / "model-1.safetensors", {"a": [2, 3], "b": [4]})
    write_weights(tmp_path / "model-2.safetensors", {"c": [10]})
    write_weights(tmp_path / "consolidated.safetensors", {"a": [2, 3], "b": [4], "c": [10]})
    names = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert num_parameters(str(tmp_path)) == 20


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_model_of_the_hub_is_read_from_the_cache(tmp_path: Path, revision: str | None) -> None:
    repository = tmp_path / "models--me--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    write_weights(repository / "snapshots" / COMMIT / "model.safetensors", {"a": [7]})
    assert num_parameters("me/tiny", revision, str(tmp_path)) == 7


def test_a_model_that_is_not_in_the_cache_is_not_downloaded(tmp_path: Path) -> None:
    assert num_parameters("me/tiny", None, str(tmp_path)) is None


@pytest.mark.parametrize("content", [b"", b"x" * 7, struct.pack("<Q", 2**60), struct.pack("<Q", 2) + b"[]", b"\0" * 40])
def test_an_invalid_safetensors_file_leaves_the_number_unknown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert num_parameters(str(tmp_path)) is None


def test_other_formats_leave_the_number_unknown(tmp_path: Path) -> None:
    shutil.copy(ROOT / "data/demo/model/config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert num_parameters(str(tmp_path)) is None
