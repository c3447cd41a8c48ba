"""Every column of a schema has a description, which the Parquet files hold, and other programs load the samples."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import ROOT

from pipeline.records import SAMPLE_SCHEMA
from pipeline.score.row_scores import score_batch
from pipeline.storage.artifacts import ArtifactStore

SCHEMAS = [
    (".".join(file.relative_to(ROOT).with_suffix("").parts), name)
    for file in sorted((ROOT / "pipeline").rglob("*.py"))
    for name in re.findall(r"^([A-Z]\w*_SCHEMA) = ", file.read_text(encoding="utf-8"), re.MULTILINE)
]

JOINED = {
    "id": 1,
    "repeat": 0,
    "categories": [{"key": "topic", "value": "почва"}],
    "messages": "[]",
    "prompt": "Q",
    "prompt_sha256": "s",
    "num_prompt_tokens": 1,
    "gold": "B",
    "completion": "B",
    "reasoning": None,
    "finish_reason": "stop",
    "num_output_tokens": 1,
    "error": None,
    "attempts": 1,
    "replica": "r",
    "queued_s": 0.0,
    "generated_s": 0.1,
}


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Write two samples, the second without categories."""
    joined = pa.schema([field for field in SAMPLE_SCHEMA if field.name in JOINED])
    table = pa.Table.from_pylist([JOINED, JOINED | {"id": 2, "categories": []}], schema=joined)
    rows = table.append_column("content", [["B", "C"]]).append_column("doc", [["{}", "{}"]])
    store = ArtifactStore.open(str(tmp_path / "run"))
    store.create()
    store.write_parquet("samples.parquet", SAMPLE_SCHEMA, [score_batch(rows.to_batches()[0])])
    return Path(store.path("samples.parquet"))


def test_all_schemas_are_found() -> None:
    assert {"PROMPT_SCHEMA", "SAMPLE_SCHEMA", "METRIC_SCHEMA", "LOG_SCHEMA", "WORK_SCHEMA"} <= {
        name for _, name in SCHEMAS
    }


@pytest.mark.parametrize(("module", "name"), SCHEMAS, ids=lambda each: each)
def test_every_column_has_a_description(module: str, name: str) -> None:
    schema: pa.Schema = getattr(importlib.import_module(module), name)
    described = {field.name: (field.metadata or {}).get(b"description", b"").decode() for field in schema}
    assert [column for column, text in described.items() if not text.endswith(".")] == []


def test_a_parquet_file_holds_the_descriptions(samples: Path) -> None:
    for field in pq.read_schema(samples):
        assert field.metadata[b"description"] == SAMPLE_SCHEMA.field(field.name).metadata[b"description"]


def test_hugging_face_datasets_loads_samples(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    loaded = load_dataset("parquet", data_files=str(samples), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == SAMPLE_SCHEMA.names
    assert loaded["categories"][:] == [[{"key": "topic", "value": "почва"}], []]
    assert loaded["correct"][:] == [1.0, 0.0]
