"""Logs of lm-evaluation-harness: a line is read with its own values, or it is named with what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from archives import zipped
from faults import fuzzing
from hypothesis import given
from hypothesis import strategies as st

from pipeline.harness.log_files import LogFile, choose, find_logs
from pipeline.harness.log_lines import LOG_SCHEMA, Logged, read_line, write_log
from pipeline.storage.artifacts import ArtifactStore

LINE = {
    "doc": {"instruction": "?", "inputs": {"question": "?"}, "outputs": "A", "meta": {"id": 1}},
    "arguments": {"gen_args_0": {"arg_0": ['[{"role": "user", "content": "?"}]'], "arg_1": {"until": ["x"]}}},
    "resps": [["A"]],
    "filtered_resps": ["A"],
    "em": 1.0,
    "f1": 0.5,
}
NAME = "samples_med_bench_2026-11-21T00-00-00.000000.jsonl"
ARCHIVE = zipped({f"a/{NAME}": json.dumps(LINE).encode()})


def require_same(row: Logged, line: dict[str, Any]) -> None:
    assert (row.id, row.response) == (line["doc"]["meta"]["id"], line["filtered_resps"][0])
    assert (row.em, row.f1) == (line.get("em"), line.get("f1"))
    pa.Table.from_pylist([asdict(row)], schema=LOG_SCHEMA)


@fuzzing.fuzzed(100)
@given(line=fuzzing.changed(LINE), escaped=st.booleans())
def test_a_line_is_read_with_its_values_or_named(line: Any, escaped: bool) -> None:
    data = json.dumps(line, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    row = fuzzing.result_or_line(lambda: read_line(NAME, 3, data))
    if row is not None:
        require_same(row, line)


@fuzzing.fuzzed(100)
@given(data=fuzzing.damaged(json.dumps(LINE).encode()) | st.binary(max_size=50))
def test_a_damaged_line_is_read_with_its_values_or_named(data: bytes) -> None:
    row = fuzzing.result_or_line(lambda: read_line(NAME, 3, data))
    if row is not None:
        require_same(row, json.loads(data.decode("utf-8-sig")))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@fuzzing.fuzzed(60)
@given(content=fuzzing.damaged(ARCHIVE) | fuzzing.damaged(zipped({"x/logs_public.zip": ARCHIVE})))
def test_a_damaged_archive_of_logs_is_read_or_named(work: Path, content: bytes) -> None:
    (work / "logs.zip").write_bytes(content)
    num_read = fuzzing.result_or_line(lambda: _num_read(work))
    assert num_read in (None, 1) or content.count(b"PK\x01\x02") > 1


def _num_read(work: Path) -> int:
    store = ArtifactStore.open(str(work / "store"))
    with find_logs(str(work / "logs.zip")) as files:
        logs: dict[str, LogFile] = choose(files, ["med_bench"], [], None)
        with store.publish("logs", LOG_SCHEMA) as written:
            for task, file in logs.items():
                write_log(written, task, file)
    return int(store.require_artifact("logs", LOG_SCHEMA).dataset().count_rows())
