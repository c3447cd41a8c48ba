"""Rows of a data set: each becomes a prompt with its own text and answer, or the data set is refused with a line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import fuzzing
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.prepare.dataset import Source
from pipeline.prepare.stage import Inputs, prepare
from pipeline.records import PROMPT_SCHEMA, without_nulls
from pipeline.storage.artifacts import ArtifactStore

ROW = {
    "instruction": "Вопрос: {question}\nA. {option_a}",
    "inputs": {"question": "Что?", "option_a": "да"},
    "outputs": "A",
    "meta": {"id": 1, "categories": {"topic": "почва"}},
}
instructions = st.lists(
    st.sampled_from(
        ["Вопрос", "{question}", "{option_a}", "{id}", "{{", "}}", "{", "{question.x}", "{question!r}", "{0}"]
    )
    | fuzzing.texts,
    max_size=5,
).map("".join)


@st.composite
def rows(draw: st.DrawFn) -> list[Any]:
    """Draw up to four rows: good ones, changed ones, ones with another instruction, and what is no row."""
    found: list[Any] = []
    for number in range(draw(st.integers(0, 4))):
        row: Any = draw(fuzzing.changed(ROW | {"meta": {"id": number, "categories": {"topic": "почва"}}}))
        if isinstance(row, dict) and draw(st.booleans()):
            row["instruction"] = draw(instructions)
        found.append(row if draw(st.integers(0, 9)) else draw(fuzzing.values()))
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    conf = tmp_path_factory.mktemp("conf") / "one.yaml"
    conf.write_text(
        "tasks: {agro: {dataset: x, domain: agriculture, strip: false}}\n"
        "generation: {max_gen_toks: 100}\nsplits: [test]\n"
    )
    endpoint = ["engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:1/v1", "model.path=null"]
    return compose([f"conf={conf}", *endpoint])


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def prompts(config: Config, work: Path, name: str, content: bytes) -> list[dict[str, Any]] | None:
    """Return the prompts of a file of the test split, or None when it is refused."""
    file = work / name
    file.write_bytes(content)

    def prepared() -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory(dir=work) as directory:
            run = ArtifactStore.open(directory)
            prepare(config, run, Inputs([Source("agro", {"test": (file,)}, "sha256:0")], None))
            found = run.require_artifact("prompts", PROMPT_SCHEMA).dataset().to_table().to_pylist()
        return list(found)

    return fuzzing.result_or_line(prepared)


def require_same(row: dict[str, Any], prompt: dict[str, Any]) -> None:
    """Check that a prompt is that of a row, by Python's own formatting."""
    text = row["instruction"].format_map({**row["meta"], **row["inputs"]})
    assert json.loads(prompt["messages"]) == [{"role": "user", "content": text}]
    assert (prompt["id"], prompt["gold"]) == (row["meta"]["id"], row["outputs"] if row["outputs"].strip() else None)


@fuzzing.fuzzed(25)
@given(rows=rows(), escaped=st.booleans())
def test_json_rows_are_prompts_or_refused(config: Config, work: Path, rows: list[Any], escaped: bool) -> None:
    lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    found = prompts(config, work, "test.jsonl", content)
    if found is not None:
        assert len(found) == len(rows)
        for row, prompt in zip(rows, found, strict=True):
            require_same(row, prompt)
            assert json.loads(prompt["doc"]) == without_nulls(row)  # null is absent


@pytest.mark.parametrize("depth", [30, 600, 990, 3_000, 200_000])
def test_nested_json_is_prompts_or_refused(config: Config, work: Path, depth: int) -> None:
    line = json.dumps(ROW | {"extra": "DEEP"}).replace('"DEEP"', "[" * depth + "]" * depth)
    found = prompts(config, work, "test.jsonl", line.encode())
    assert (found is None) == (depth > 30)


@fuzzing.fuzzed(25)
@given(content=fuzzing.damaged(b"\n".join(json.dumps(ROW | {"meta": {"id": n}}).encode() for n in range(3))))
def test_damaged_json_is_prompts_or_refused(config: Config, work: Path, content: bytes) -> None:
    found = prompts(config, work, "test.jsonl", content)
    if found is not None:
        lines = [json.loads(line) for line in content.decode("utf-8-sig").splitlines() if line.strip()]
        assert len(found) == len(lines)
        for row, prompt in zip(lines, found, strict=True):
            require_same(row, prompt)


@fuzzing.fuzzed(15)
@given(rows=rows())
def test_parquet_rows_are_prompts_or_refused(config: Config, work: Path, rows: list[Any]) -> None:
    try:
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, work / "made.parquet")
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError, RecursionError):
        assume(False)  # Parquet cannot hold these
    found = prompts(config, work, "test.parquet", (work / "made.parquet").read_bytes())
    if found is not None:
        stored = table.to_pylist()
        assert len(found) == len(stored)
        for row, prompt in zip(stored, found, strict=True):
            inner = {key: {k: v for k, v in row[key].items() if v is not None} for key in ("meta", "inputs")}
            require_same(row | inner, prompt)


@pytest.fixture(scope="module")
def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([ROW | {"meta": {"id": number}} for number in range(3)]), sink)
    return bytes(sink.getvalue())


@fuzzing.fuzzed(25)
@given(data=st.data())
def test_damaged_parquet_is_prompts_or_refused(config: Config, work: Path, parquet: bytes, data: st.DataObject) -> None:
    found = prompts(config, work, "test.parquet", data.draw(fuzzing.damaged(parquet)))
    assert found is None or all(json.loads(prompt["messages"]) for prompt in found)
