"""An export has all samples and metrics of its run, and what models and data sets wrote stays text in it."""

from __future__ import annotations

import csv
import gc
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from archives import completion, question, run_of
from builders import ROOT

from pipeline import cli
from pipeline.export import main
from pipeline.formats import tables
from pipeline.formats.commands import FORMATS

FORMULA = '=HYPERLINK("http://127.0.0.1/?"&A1)'
TEXTS = {1: FORMULA, 2: "+1\n-2", 3: "@SUM(1)", 4: "\t=1", 5: "  =1+1", 6: 'B, "so"', 7: "я" * 40_000, 8: ""}
"""Completions by id; that of 9 failed."""


def reply(prompt: dict[str, Any], repeat: int) -> Any:
    if prompt["id"] == 9:
        return completion(prompt, repeat, None, "| it `failed` <b>")
    return replace(completion(prompt, repeat, TEXTS[prompt["id"]]), reasoning="мысли")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a complete run of 9 questions in train and one in test."""
    prompts = [question("agro_bench", number, gold="B", split="train") for number in range(1, 10)]
    prompts = [replace(each, categories={"тема": "=1"}) for each in [*prompts, question("agro_bench", 1)]]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        output = str(tmp_path_factory.mktemp("runs"))
        made = run_of(prompts, output, "engine.endpoint.model=org/small", reply=reply)
    return Path(made.store.root)


def export(run: Path, to: str, out: Path) -> Path:
    main([f"run={run}", f"to={to}", f"out={out}"])
    return out


def test_csv_has_all_samples_and_no_formula(run: Path, tmp_path: Path) -> None:
    out = export(run, "csv", tmp_path / "out")
    with open(out / "samples.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    cells = [text for row in rows for name, text in row.items() if name not in ("id", "repeat")]
    assert [text for text in cells if re.match(r"\s*[=+@-]|\t", text)] == []
    train = {int(row["id"]): row for row in rows if row["split"] == "train"}
    assert (train[1]["completion"], train[6]["completion"]) == (f"'{FORMULA}", TEXTS[6])
    assert (train[7]["completion"], train[1]["categories"]) == (TEXTS[7], '{"тема": "=1"}')
    assert (out / "samples.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # by which Excel reads UTF-8


def test_csv_tells_null_from_an_empty_text(run: Path, tmp_path: Path) -> None:
    out = export(run, "csv", tmp_path / "out")
    options = "all_varchar = true, allow_quoted_nulls = false"
    found = duckdb.sql(f"SELECT id, completion FROM read_csv('{out}/samples.csv', {options}) WHERE id IN ('8', '9')")
    assert found.fetchall() == [("8", ""), ("9", None)]


def test_csv_has_the_metrics_of_the_run(run: Path, tmp_path: Path) -> None:
    out = export(run, "csv", tmp_path / "out")
    with open(out / "metrics.csv", encoding="utf-8-sig", newline="") as file:
        found = [float(row["value"]) for row in csv.DictReader(file) if row["value"]]
    written = pq.ParquetFile(run / "metrics.parquet").read()["value"].to_pylist()
    assert found == [value for value in written if value is not None]


def test_a_workbook_has_all_rows_and_no_formula(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("xlsxwriter")
    out = export(run, "xlsx", tmp_path / "out.xlsx")
    with zipfile.ZipFile(out) as book:
        sheets = [book.read(f"xl/worksheets/sheet{number}.xml").decode() for number in (1, 2)]
        others = [name for name in book.namelist() if "hyperlink" in name.lower() or "externalLink" in name]
    assert not any(re.search(r"<f[ >]|<hyperlink", sheet) for sheet in sheets)
    assert others == []
    assert sheets[0].count("<row ") == 11
    assert sheets[1].count("<row ") == 1 + pq.ParquetFile(run / "metrics.parquet").metadata.num_rows
    assert ">=HYPERLINK(" in sheets[0]


def test_a_text_that_is_too_long_for_a_cell_says_that_it_is_cut() -> None:
    cut = tables._cell("😀" * 20_000)
    assert len(cut.encode("utf-16-le")) // 2 <= tables.MOST_CHARACTERS
    assert cut.endswith(tables.CUT)
    assert tables._cell("я" * tables.MOST_CHARACTERS) == "я" * tables.MOST_CHARACTERS


def test_datasets_loads_the_exported_data_set(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = export(run, "hf", tmp_path / "out")
    from datasets import load_dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the library leaves a listing of the directory open
        loaded = load_dataset(str(out), "samples", cache_dir=str(tmp_path / "cache"))
        metrics = load_dataset(str(out), "metrics", cache_dir=str(tmp_path / "cache"), split="train")
        gc.collect()
    assert {split: each.num_rows for split, each in loaded.items()} == {"train": 9, "test": 1}
    assert loaded["train"][0]["categories"] == [{"key": "тема", "value": "=1"}]
    assert loaded["train"]["completion"][:2] == [TEXTS[1], TEXTS[2]]
    assert metrics.num_rows == pq.ParquetFile(run / "metrics.parquet").metadata.num_rows


def test_the_card_names_run_model_and_columns(run: Path, tmp_path: Path) -> None:
    text = (export(run, "hf", tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert "# Run `one`" in text
    assert "Model: `org/small`" in text
    assert "| `seen_letters` |" in text


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason="inspect_ai is an extra")
def test_inspect_reads_its_logs_with_the_scores_of_the_run(run: Path, tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    out = export(run, "inspect", tmp_path / "out")
    (log,) = [read_eval_log(str(file)) for file in sorted(out.glob("*train*.eval"))]
    assert (log.status, log.eval.model, len(log.samples)) == ("success", "org/small", 9)
    scores = {each.name: each.metrics["mean"].value for each in log.results.scores if "mean" in each.metrics}
    query = f"SELECT metric, value FROM '{run}/metrics.parquet' WHERE level = 'task' AND group_by IS NULL"
    assert scores == dict(duckdb.sql(f"{query} AND split = 'train' AND value IS NOT NULL").fetchall())
    samples = {sample.id: sample for sample in log.samples}
    assert [part.type for part in samples[6].output.choices[0].message.content] == ["reasoning", "text"]
    assert samples[6].output.completion == TEXTS[6]
    assert samples[9].error.message == "| it `failed` <b>"
    values = [sample.scores["em"].as_float() for sample in log.samples if sample.scores]
    assert sum(values) / len(values) == scores["em"]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is an extra")
def test_trackio_has_the_metrics_with_their_intervals(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.export", f"run={run}", "to=trackio", f"out={tmp_path / 'out'}"]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, timeout=120)
    import sqlite3

    with sqlite3.connect(tmp_path / "out" / "evaluation.db") as database:
        ((name, text),) = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
        ((config,),) = database.execute("SELECT config FROM configs").fetchall()
    values = json.loads(text)
    assert name == "one"
    assert values["task/agro_bench/train/em/ci_low"] < values["task/agro_bench/train/em/ci_high"]
    assert json.loads(config)["model"] == "org/small"


@pytest.mark.parametrize(("to", "package"), [("xlsx", "xlsxwriter"), ("inspect", "inspect_ai"), ("trackio", "trackio")])
def test_a_missing_package_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.log", None)
    monkeypatch.setenv("TRACKIO_DIR", "")
    with pytest.raises(cli.ConfigError, match=f"to={to}: the package {package} is missing: pip install") as raised:
        export(run, to, tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.glob("*")) == []


@pytest.mark.parametrize("to", ["csv", "hf"])
def test_what_is_there_is_not_replaced(run: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(cli.ConfigError, match="it exists already"):
        export(run, to, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_accepts_the_formats_that_there_are() -> None:
    (to,) = [each for each in cli.COMMANDS["export"].arguments if each.name == "to"]
    assert set(to.choices) == {*FORMATS, "trackio"}
