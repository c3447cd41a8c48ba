"""The list has all runs, newest first, whatever their state; a query reads the runs and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from builders import record_manifest
from cheap_nights import make_nights

from pipeline import board, prune
from pipeline import list as list_command
from pipeline.errors import ConfigError, RunError
from pipeline.overview import sql
from pipeline.overview.run_list import find
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")


def listed(output: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    list_command.main([f"output_dir={output}", "json=true", *arguments])
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_the_table_has_scores_with_intervals_gate_and_duration(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_command.main([f"output_dir={made}", "model=WORSE", "last=16"])
    lines = capsys.readouterr().out.splitlines()
    (night,) = [line for line in lines if "2025-11-13-worse" in line]
    assert night.split()[:5] == ["2025-11-13-worse", "worse", "2025-11-13", "23:00", "0.634"]
    assert "broken: max_drop" in night
    assert night.rstrip().endswith("2h 01m")
    assert sum("-worse" in line for line in lines) == 16


def test_runs_are_listed_newest_first_and_selected_by_model(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dates = [str(run["date"]) for run in listed(made, capsys, "last=1000")]
    assert dates == sorted(dates, reverse=True)
    assert len(dates) == 43
    assert {run["model"] for run in listed(made, capsys, "model=Small")} == {"small"}
    assert [run["run_id"] for run in listed(made, capsys, "last=1")] == ["2025-11-28-worse"]


def test_incomplete_runs_are_listed_with_their_status(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ArtifactStore.open(str(output))
    config = {"engine": {"kind": "vllm"}, "model": {"path": "org/big"}}
    started = {"started_at": "2026-01-01T00:00:00Z", "config": config}
    for name, status in (("died", "running"), ("torn", "failed")):
        store.child(f"run={name}").create()
        record_manifest(store.child(f"run={name}"), status, **started, reason="no\x1b[31m room", run_id=name)
    store.child("run=empty").create()
    found = {str(run["run_id"]): run for run in listed(output, capsys, "last=100")}
    assert (found["died"]["status"], found["died"]["model"]) == ("crashed", "org/big")
    assert found["torn"]["status"] == "failed"
    assert found["empty"]["status"] == "no manifest"
    list_command.main([f"output_dir={output}", "model=org/big"])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "empty" not in printed


def test_hostile_runs_are_lines_and_their_text_is_escaped(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31m[bold]\u202e<script>"
    run = Path(make_nights(output, [0.4], model="odd", engine={"r0": {"served_model": hostile}})[0].root)
    shutil.rmtree(output / "index")
    (shutil.copytree(run, output / "run=damaged") / "manifest.json").write_text("{")
    list_command.main([f"output_dir={output}", "last=1000"])
    printed = capsys.readouterr().out
    assert "⟨U+001B⟩" in printed
    assert "warning: " in printed
    assert "run=damaged is left out: " in printed.replace("\n", "")
    assert not set(printed) & set("\x1b\u202e")


def test_an_older_index_entry_is_listed_and_made_again_for_the_board(output: Path) -> None:
    for file in (output / "index").rglob("*.json"):
        entry = json.loads(file.read_text())
        entry = {name: value for name, value in entry.items() if name not in ("domains", "pruned_at")}
        file.write_text(json.dumps(entry | {"gate": {"baseline": None, "broken": []}}))
    found = find(ArtifactStore.open(str(output)), last=100)
    assert len(found.runs) == 13
    assert {run.entry.is_of_this_version for run in found.runs if run.entry is not None} == {False}


def test_without_a_directory_or_runs_a_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"output_dir=.*gone: there is no such directory"):
        list_command.main([f"output_dir={tmp_path}/gone"])
    list_command.main([f"output_dir={tmp_path}"])
    assert "there are no such runs" in capsys.readouterr().out


def test_a_query_over_the_views_is_a_table_or_json(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "sql=SELECT model, count(*) AS num FROM runs JOIN metrics USING (run) WHERE level = 'run' GROUP BY 1 ORDER BY 1"
    )
    list_command.main([f"output_dir={made}", text, "json=true"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"model": "small", "num": 6}, {"model": "worse", "num": 80}]
    list_command.main([f"output_dir={made}", "sql=SELECT chr(27) || '[31m' AS x"])
    assert "⟨U+001B⟩[31m" in capsys.readouterr().out


def test_json_is_json_whatever_a_query_returns(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "SELECT 'nan'::double AS a, {'b': 'inf'::double} AS c, MAP {DATE '2026-01-02': 1} AS d"
    list_command.main([f"output_dir={made}", f"sql={text}", "json=true"])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"a": "nan", "c": {"b": "inf"}, "d": {"2026-01-02": 1}}
    with pytest.raises(ConfigError, match="two columns are called 'a'"):
        list_command.main([f"output_dir={made}", "sql=SELECT 1 AS a, 2 AS a", "json=true"])
    with pytest.raises(ConfigError, match=r"write CAST\(<column> AS VARCHAR\)"):
        list_command.main([f"output_dir={made}", "sql=SELECT TIMESTAMPTZ '2026-01-02 00:00:00+00'"])


def test_a_name_that_is_no_utf_8_stops_no_command(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(os.fsdecode(os.fsencode(output) + b"/run=\xff")).mkdir()
    Path(os.fsdecode(os.fsencode(output) + b"/index/\xff")).mkdir()
    assert len(listed(output, capsys)) == 13
    assert answer(output, "SELECT count(*) FROM runs") == [(13,)]
    prune.main([f"output_dir={output}", "keep_days=0"])
    board.main([f"output_dir={output}"])
    assert "of 6 runs would be removed" in capsys.readouterr().out


def test_an_index_that_is_a_link_is_not_written(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(output / "index")
    (output / "index").symlink_to(elsewhere)
    assert len(listed(output, capsys)) == 13
    list_command.main([f"output_dir={output}"])
    assert "index is a symbolic link, and what is written would go elsewhere" in capsys.readouterr().out
    assert not list(elsewhere.iterdir())
    (output / "index").unlink()
    listed(output, capsys)
    slug = next((output / "index").iterdir())
    shutil.rmtree(slug)
    slug.symlink_to(elsewhere)
    assert len(listed(output, capsys)) == 13
    assert not list(elsewhere.iterdir())


def answer(output: Path, text: str) -> list[tuple[object, ...]]:
    with sql.answer(ArtifactStore.open(str(output)), text) as (_, rows):
        return list(rows)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT content FROM read_text('/etc/hostname')",
        "SELECT content FROM read_text('file:///etc/hostname')",
        "SELECT * FROM glob('/etc/*')",
        "FROM '/etc/passwd'",
        "COPY (SELECT 1) TO 'runs://outputs/x.csv'",
        "COPY (SELECT 1) TO '/tmp/never-written.csv'",
        "ATTACH '/tmp/never-made.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SELECT 1; SELECT 2",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW runs",
        "PRAGMA version",
        "CALL pragma_version()",
        "SELEC 1",
        "SELECT nothing FROM runs",
        "",
    ],
)
def test_a_query_that_writes_or_reads_elsewhere_is_refused_in_one_line(few: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^sql=") as caught:
        answer(few, text)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("name", ["run=a/../../../secret", "run=a/link", "run=a/up/secret", "run=a/pipe"])
def test_a_query_reads_no_file_outside_and_no_link(output: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (output / "run=a").mkdir()
    (output / "run=a/link").symlink_to(tmp_path / "secret")
    (output / "run=a/up").symlink_to(tmp_path)
    os.mkfifo(output / "run=a/pipe")
    try:
        rows = answer(output, f"SELECT content FROM read_text('runs://outputs/{name}')")
    except ConfigError as error:
        rows = [(str(error),)]
    assert rows == [] or "No files found" in str(rows)


def test_a_hostile_file_in_a_run_is_no_row_of_a_view(output: Path) -> None:
    for name in ("manifest.json", "config.yaml", "metrics.parquet"):
        (output / "run=a").mkdir(exist_ok=True)
        os.mkfifo(output / "run=a" / name)
    assert answer(output, "SELECT count(*) FROM runs") == [(13,)]
    assert answer(output, "SELECT count(DISTINCT run) FROM metrics") == [(13,)]


def test_list_query_and_prune_work_on_object_storage(
    few: Path, s3_query: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"s3://runs/nights?{s3_query}"
    target = ArtifactStore.open(uri)
    for run in sorted(few.glob("run=*-small")) + sorted(few.glob("run=2025-10-2[01]-worse")):
        pafs.copy_files(str(run), target.path(run.name), destination_filesystem=target.fs)
    list_command.main([f"output_dir={uri}", "json=true"])
    assert len(json.loads(capsys.readouterr().out)) == 5
    list_command.main([f"output_dir={uri}", "sql=SELECT count(*) AS n FROM runs JOIN metrics USING (run)", "json=true"])
    assert json.loads(capsys.readouterr().out) == {"n": 60}
    board.main([f"output_dir={uri}"])
    assert "s3://runs/nights/index.html" in capsys.readouterr().out
    assert 'href="run%3D2025-10-21-worse/report.html"' in target.read_text("index.html")
    prune.main([f"output_dir={uri}", "keep_days=0", "apply=true"])
    assert "remove: run=2025-10-20-worse (worse): " in capsys.readouterr().out
    assert not target.exists("run=2025-10-20-worse/samples")
    assert target.exists("run=2025-10-21-worse/samples")
    assert target.child("run=2025-10-20-worse").pruned_at() is not None
