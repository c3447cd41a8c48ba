"""notebooks/views.sql has all rows of complete runs and ignores everything else in their directory."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import ROOT

RUNS = ["2026-11-20", "2026-11-21", "large"]


def rows(database: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = database.sql(query).to_arrow_table().to_pylist()
    return found


def runs_of(database: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    return [row["run"] for row in rows(database, f"SELECT DISTINCT run FROM {view} ORDER BY run")]


def edit(run: Path, before: str, after: str) -> None:
    file = run / "manifest.json"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.mark.parametrize("view", ["runs", "samples", "metrics"])
def test_a_view_has_only_complete_runs(database: duckdb.DuckDBPyConnection, output: Path, view: str) -> None:
    for name in ("running", "failed"):
        edit(shutil.copytree(output / "run=large", output / f"run={name}"), '"complete"', f'"{name}"')
    for name, content in {"cut": b'{"status": "complete", "conf', "binary": b"\xff\xfe{", "list": b"[1]"}.items():
        shutil.copytree(output / "run=large", output / f"run={name}")
        (output / f"run={name}/manifest.json").write_bytes(content)
    (shutil.copytree(output / "run=large", output / "run=unrecorded") / "manifest.json").unlink()
    shutil.copytree(output / "run=large", output / "replay-1")
    (output / "run=bare").mkdir()
    (output / "run=file").write_text("no directory")
    assert runs_of(database, view) == RUNS


def test_a_complete_run_without_samples_does_not_affect_the_others(
    database: duckdb.DuckDBPyConnection, output: Path
) -> None:
    shutil.rmtree(output / "run=large/samples")
    (output / "run=large/metrics.parquet").unlink()
    assert runs_of(database, "runs") == RUNS
    assert runs_of(database, "samples") == runs_of(database, "metrics") == RUNS[:2]


def test_metrics_are_those_that_the_run_wrote(database: duckdb.DuckDBPyConnection, output: Path) -> None:
    for run in RUNS:
        written = pq.ParquetFile(output / f"run={run}/metrics.parquet").read().to_pylist()
        found = rows(database, f"SELECT * EXCLUDE run FROM metrics WHERE run = '{run}'")
        assert sorted(map(str, found)) == sorted(str({name: row[name] for name in found[0]}) for row in written)


def test_samples_are_those_that_the_run_wrote(database: duckdb.DuckDBPyConnection, output: Path) -> None:
    file = next((output / "run=large/samples/task=med_bench/split=test").glob("*.parquet"))
    written = pq.ParquetFile(file).read().to_pylist()
    found = rows(
        database,
        "SELECT * EXCLUDE (run, task, split) FROM samples WHERE run = 'large' AND task = 'med_bench' ORDER BY id",
    )
    for row in written:
        row["categories"] = [(each["key"], each["value"]) for each in row["categories"]]
    assert found == [{name: row[name] for name in found[0]} for row in written]
    assert len(found) == 6


def test_the_categories_of_older_runs_are_read_with_those_of_newer_ones(
    database: duckdb.DuckDBPyConnection, output: Path
) -> None:
    expected = rows(database, "FROM samples ORDER BY ALL")
    for file in (output / "run=large").glob("samples/**/*.parquet"):
        table = pq.ParquetFile(file).read()
        pairs = [[(each["key"], each["value"]) for each in row] for row in table["categories"].to_pylist()]
        older = pa.array(pairs, pa.map_(pa.string(), pa.string()))
        pq.write_table(table.set_column(table.schema.names.index("categories"), "categories", older), file)
    assert rows(database, "FROM samples ORDER BY ALL") == expected
    subjects = rows(database, "SELECT DISTINCT run, categories['subject'] AS subject FROM samples ORDER BY ALL")
    assert [row["subject"] for row in subjects if row["run"] == "large"] == ["soil", "water $\\frac{"]


def test_a_run_has_the_values_of_its_manifest(database: duckdb.DuckDBPyConnection) -> None:
    first, _, large = rows(database, "FROM runs ORDER BY run")
    assert first == first | {
        "run": "2026-11-20",
        "conf": "demo",
        "model": "small",
        "status": "complete",
        "started_at": datetime(2026, 11, 20, 1),  # noqa: DTZ001  a TIMESTAMP has no zone
        "template_fingerprint": "sha256:abc",
        "commit": "c0ffee" * 6,
        "modified": True,
        "vllm": "0.32.0",
        "torch": "2.13.0",
        "gpus": "8 x NVIDIA A100-SXM4-80GB",
        "num_gpus": 8,
        "num_samples": 18,
        "num_failed": 1,
        "num_truncated": None,
        "num_output_tokens": 9_000,
        "cost": None,
        "currency": None,
        "is_cost_bound": None,
        "engine_start_s": 30.5,
        "generate_s": 90.0,
        "total_s": 92.0,
        "tokens_per_s": 100.0,
    }
    assert (large["model"], large["limit"], first["limit"]) == ("org/large: one", 6, None)
    assert json.loads(first["config"])["engine"]["endpoint"]["model"] == "small"
    assert first["settings_hash"] != large["settings_hash"]


def test_the_model_of_an_endpoint_is_the_one_that_it_served(database: duckdb.DuckDBPyConnection, output: Path) -> None:
    edit(output / "run=2026-11-20", '"r0": {', '"r0": {"served_model": "org/served", ')
    assert rows(database, "FROM runs ORDER BY run")[0]["model"] == "org/served"


def test_a_manifest_of_an_older_version_has_no_configuration(database: duckdb.DuckDBPyConnection, output: Path) -> None:
    edit(output / "run=large", '"config": {', '"older": {')
    row = rows(database, "FROM runs WHERE run = 'large'")[0]
    assert (row["model"], row["limit"], row["config"], row["num_samples"]) == (None, None, None, 18)


def test_the_files_of_samples_and_metrics_say_whose_they_are(output: Path) -> None:
    run = output / "run=large"
    for file in (run / "metrics.parquet", *run.glob("samples/**/*.parquet")):
        footer = {name.decode(): value.decode() for name, value in pq.read_schema(file).metadata.items()}
        assert footer["pipeline.run_id"] == "large"
        assert footer["pipeline.model"] == "org/large: one"
        assert footer["pipeline.limit"] == "6"
        assert footer["pipeline.settings_hash"] == json.loads((run / "manifest.json").read_text())["settings_hash"]


def test_the_cost_of_a_run_is_in_its_currency(database: duckdb.DuckDBPyConnection, output: Path) -> None:
    file = output / "run=large/manifest.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["cost"] = {"amount": 1.25, "currency": "RUB", "num_unknown": 3}
    file.write_text(json.dumps(content), encoding="utf-8")
    row = rows(database, "FROM runs WHERE run = 'large'")[0]
    assert (row["cost"], row["currency"], row["is_cost_bound"]) == (1.25, "RUB", True)


@pytest.mark.parametrize(
    ("before", "after"), [('"s1"', '"s2"'), ('"generate": 90.0', '"generate": 0.2')], ids=["sessions", "nothing left"]
)
def test_the_time_of_a_resumed_run_is_unknown(
    database: duckdb.DuckDBPyConnection, output: Path, before: str, after: str
) -> None:
    file = output / "run=large/manifest.json"
    file.write_text(file.read_text(encoding="utf-8").replace(before, after, 1), encoding="utf-8")
    row = rows(database, "FROM runs WHERE run = 'large'")[0]
    assert (row["generate_s"], row["total_s"], row["tokens_per_s"]) == (None, None, None)
    assert row["num_output_tokens"] == 9_000


@pytest.mark.parametrize(
    ("gpus", "text", "number"),
    [
        ("[]", "", 0),
        ("null", None, None),
        ('["2 x A, 6 x B 4 x C"]', "2 x A, 6 x B 4 x C", 8),
        ('["8 x A", "4 x B"]', "8 x A; 4 x B", None),
    ],
    ids=["a CPU", "not recorded", "of two kinds", "resumed on others"],
)
def test_gpus_are_counted_where_their_number_is_known(
    database: duckdb.DuckDBPyConnection, output: Path, gpus: str, text: str | None, number: int | None
) -> None:
    file = output / "run=large/manifest.json"
    content = re.sub(r'"gpus": \[.*?\]', lambda _: f'"gpus": {gpus}', file.read_text(encoding="utf-8"), flags=re.S)
    file.write_text(content, encoding="utf-8")
    row = rows(database, "FROM runs WHERE run = 'large'")[0]
    assert (row["gpus"], row["num_gpus"]) == (text, number)


def test_a_run_without_newer_columns_has_null_in_them(output: Path) -> None:
    for run in RUNS:
        for file in (output / f"run={run}").glob("samples/**/*.parquet"):
            drop(file, "instruction")
    drop(output / "run=large/metrics.parquet", "bound_low")
    with duckdb.connect() as database:
        database.execute("SET VARIABLE outputs = $output", {"output": str(output)})
        database.execute((ROOT / "notebooks/views.sql").read_text(encoding="utf-8"))
        assert rows(database, "SELECT count(*) AS n, count(instruction) AS k FROM samples") == [{"n": 54, "k": 0}]
        known = rows(database, "SELECT run, count(bound_low) > 0 AS known FROM metrics GROUP BY run ORDER BY run")
    assert [row["known"] for row in known] == [True, True, False]


def drop(file: Path, column: str) -> None:
    table: pa.Table = pq.ParquetFile(file).read()
    pq.write_table(table.drop_columns([column]), file)


def test_a_new_run_and_another_directory_are_in_the_next_query(
    database: duckdb.DuckDBPyConnection, output: Path, made: Path
) -> None:
    shutil.copytree(output / "run=large", output / "run=later")
    assert runs_of(database, "samples") == [*RUNS[:2], "large", "later"]
    database.execute("SET VARIABLE outputs = $made", {"made": str(made)})
    assert runs_of(database, "samples") == RUNS


def test_the_lines_of_the_docs_open_the_views(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    (output.parent / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(output.parent)
    exec(lines, names := {})
    assert [row[0] for row in names["duckdb"].sql("SELECT run FROM runs ORDER BY run").fetchall()] == RUNS


def test_trends_and_changes_are_what_the_gates_recorded(database: duckdb.DuckDBPyConnection, output: Path) -> None:
    trend = {"level": "run", "task": "all", "split": "train", "num_runs": 9, "value": 0.6, "mean": 0.7, "sigma": 0.1}
    trend |= {"statistic": 3.5, "limit": 7.0, "since": None, "has_declined": False}
    changed = {"since": "n1", "before": None, "num_questions": 20, "num_changed": 3, "num_before": None}
    gate = {"baseline": "n1", "broken": [], "rules": [], "notes": [], "trends": [trend, trend | {"level": "domain"}]}
    odd = ("a text", {"trends": {"level": 1}, "changed": [1]}, {"trends": 5, "changed": "b"})
    for place, record in enumerate((gate | {"changed": changed | {"p_value": None}}, *odd)):
        run = output / "run=large" if place == 0 else shutil.copytree(output / "run=large", output / f"run=odd{place}")
        content = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
        (run / "manifest.json").write_text(json.dumps(content | {"gate": record}), encoding="utf-8")
    names = ("num_runs", "value", "statistic", "limit", "since", "has_declined")
    found = rows(database, "FROM trends WHERE run <> '2026-11-21' ORDER BY level")
    assert [(row["level"], *(row[name] for name in names)) for row in found] == [
        ("domain", 9, 0.6, 3.5, 7.0, None, False), ("run", 9, 0.6, 3.5, 7.0, None, False),
    ]  # fmt: skip
    (row,) = rows(database, "FROM changes WHERE run <> '2026-11-21'")
    assert (row["run"], row["since"], row["num_changed"], row["num_questions"], row["p_value"]) == (
        "large", "n1", 3, 20, None,
    )  # fmt: skip
