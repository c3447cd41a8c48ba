"""The demo on real vLLM: it answers, its completions equal plain vLLM's, and an endpoint gives the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from builders import ROOT, command

from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, SAMPLE_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

NUM_ROWS = 214
NUM_TWICE = 19
"""Rows of the second pass, which noise.share=0.1 generates in the same engine."""


def samples(run: ArtifactStore) -> dict[str, dict[str, Any]]:
    found = run.artifact("samples", SAMPLE_SCHEMA)
    assert found is not None
    return {f"{row['task']}/{row['split']}/{row['id']}": row for row in found.dataset().to_table().to_pylist()}


def test_the_demo_really_answers(demo_run: ArtifactStore) -> None:
    rows = [row for name, row in samples(demo_run).items() if "/test/" in name]
    assert 0.4 <= sum(row["em"] for row in rows) / len(rows) <= 0.95
    assert sum(row["finish_reason"] == "stop" for row in rows) > 0.8 * len(rows)
    assert any(row["finish_reason"] == "length" for row in rows)
    assert any(row["finish_reason"] == "stop" and row["answer"] is None for row in rows)
    assert not any(row["error"] for row in rows)


def test_thinking_is_split_from_the_answer(demo_run: ArtifactStore) -> None:
    for name, row in samples(demo_run).items():
        assert "think>" not in row["response"], name
        if row["finish_reason"] == "stop":
            assert row["reasoning"], name
            assert row["completion"].startswith(row["reasoning"]), name
            assert row["response"] == row["response"].lstrip(), name


def test_completions_equal_plain_vllm(demo_run: ArtifactStore, plain_outputs: dict[str, list[object]]) -> None:
    ours = {
        name: [row["completion"], row["finish_reason"], row["num_output_tokens"]]
        for name, row in samples(demo_run).items()
    }
    assert ours.keys() == plain_outputs.keys()
    same = sum(ours[name] == plain_outputs[name] for name in ours)
    print(f"identical rows: {same} of {len(ours)}")
    assert same >= 0.99 * len(ours)


@pytest.mark.slow
def test_an_endpoint_gives_the_same_prompts_and_responses(
    demo_run: ArtifactStore, api_server: str, tmp_path: Path
) -> None:
    arguments = ["conf=demo", "run_id=endpoint", f"output_dir={tmp_path}", "model.path=null"]
    arguments += ["engine.kind=endpoint", f"engine.endpoint.base_url={api_server}"]
    done = command("pipeline.run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    run = ArtifactStore.open(str(tmp_path / "run=endpoint"))
    (server,) = json.loads(run.read_text("manifest.json"))["engine"].values()
    assert (server["served_model"], server["max_model_len"]) == ("demo", 1024)
    assert server["server"].startswith("vllm ")
    theirs, ours = samples(run), samples(demo_run)
    assert theirs.keys() == ours.keys()
    for name, row in theirs.items():
        assert row["num_prompt_tokens"] == ours[name]["num_prompt_tokens"], name
        assert json.loads(row["messages"]) == json.loads(ours[name]["messages"]), name
        assert row["prompt"] is None, name
    same = sum(row["response"] == ours[name]["response"] for name, row in theirs.items())
    print(f"identical responses: {same} of {len(theirs)}")
    assert same >= 0.99 * len(theirs)
    assert all(row["finish_reason"] == ours[name]["finish_reason"] for name, row in theirs.items())


def test_every_question_is_in_every_artifact(demo_run: ArtifactStore) -> None:
    for name, schema in (("prompts", PROMPT_SCHEMA), ("completions", COMPLETION_SCHEMA), ("samples", SAMPLE_SCHEMA)):
        found = demo_run.artifact(name, schema)
        assert found is not None
        assert found.num_rows == NUM_ROWS


def test_the_manifest_records_the_run(demo_run: ArtifactStore) -> None:
    manifest = json.loads(demo_run.read_text("manifest.json"))
    assert (manifest["status"], manifest["run_id"], manifest["counts"]["num_samples"]) == ("complete", "demo", NUM_ROWS)
    assert manifest["versions"]["torch"]
    (engine,) = manifest["engine"].values()
    assert (engine["dtype"], engine["device"]) == ("float32", "cpu")
    assert (engine["max_model_len"], engine["max_num_seqs"]) == (1024, 64)
    assert engine["num_kv_blocks"] > 0
    assert engine["kv_concurrency"] == pytest.approx(engine["num_kv_tokens"] / 1024, rel=0.02)
    assert isinstance(engine["prefix_caching"], bool)
    assert engine["max_num_batched_tokens"] >= 64
    assert engine["cuda_graph_mode"] == "NONE"
    assert (engine["num_preemptions"], engine["num_preempted_rows"]) == (0, 0)
    assert 1 <= engine["peak_running"] <= 64
    assert 0 < engine["peak_kv_cache_usage"] < 1
    assert (engine["architecture"], engine["num_layers"], engine["num_parameters"]) == ("Qwen3ForCausalLM", 3, 572_864)
    assert manifest["hardware"]["gpus"] == []
    assert manifest["timings_s"]["generate"] > 0


def test_the_card_of_the_demo_contains_only_measured_values(demo_run: ArtifactStore) -> None:
    fields = json.loads(demo_run.read_text("card.json"))["fields"]
    manifest = json.loads(demo_run.read_text("manifest.json"))
    unknown = {name for name, field in fields.items() if field["source"] == "todo"}
    assert unknown == {
        *("mera_version", "team", "model_name", "model_link", "model_type", "additional_links"),
        *("training_description", "license", "created", "rank.agriculture", "rank.medicine"),
    }
    assert fields["torch"]["value"] == manifest["versions"]["torch"]
    assert fields["transformers"]["value"] == manifest["versions"]["transformers"]
    assert fields["codebase"]["value"].startswith((manifest["codebase"] or {"commit": "pipeline"})["commit"][:7])
    assert fields["chat_template"]["value"] == (ROOT / "data/demo/model/chat_template.jinja").read_text()
    assert (fields["gpus"]["value"], fields["cuda"]["value"]) == ("0 (CPU)", "none")
    assert (fields["precision"]["value"], fields["model_size"]["value"]) == ("float32", "572.9K")


def test_the_terminal_shows_scores_and_paths_and_no_logs(demo_run: ArtifactStore) -> None:
    text = (Path(demo_run.root).parent / "stdout.txt").read_text()
    for name in (
        "agro_bench",
        "aqua_bench",
        "med_bench",
        "agriculture",
        "medicine",
        "tokens/s",
        "metrics.parquet",
        "card.md",
    ):
        assert name in text
    assert re.search(r"^generate: replica \S+: the engine is starting$", text, re.MULTILINE)
    assert re.search(r"the engine is starting, \d+ s: [a-z].+ \(\d+ s\)$", text, re.MULTILINE)
    assert re.search(r"^generate: replica \S+: ready after \d+ s$", text, re.MULTILINE)
    pace = r"^generate: \d+ of 233 rows \(\d+%\), [\d,]+ tokens/s, 0 failed, ETA \d:\d\d:\d\d, 1 of 1 replicas ready$"
    assert re.search(pace, text, re.MULTILINE)
    assert re.search(r"^generate: 233 of 233 rows \(100%\) in \d:\d\d:\d\d, ", text, re.MULTILINE)
    for unwanted in ("INFO", "WARNING", "Traceback", "raylet", "pid="):
        assert unwanted not in text
    assert (Path(demo_run.root) / "logs" / "driver.log").is_file()


def test_the_events_tell_the_run(demo_run: ArtifactStore) -> None:
    events = [json.loads(line) for line in demo_run.read_text("logs/events.jsonl").splitlines()]
    kinds = [event["event"] for event in events]
    assert [kind for kind in kinds if kind != "progress"] == ["begin", "engine_starting", "replica_ready", "end"]
    assert {event["run_id"] for event in events} == {"demo"}
    phases = [phase for event in events if event["event"] == "progress" for phase in event["phases"]]
    assert any(phase.startswith(("reading the model", "starting the engine", "loading weights")) for phase in phases)
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["num_done"], last["percent"], last["num_failed"]) == (NUM_ROWS + NUM_TWICE, 100.0, 0)
    assert last["num_output_tokens"] > sum(row["num_output_tokens"] for row in samples(demo_run).values())


def test_the_logs_of_a_successful_run_contain_no_traceback(demo_run: ArtifactStore) -> None:
    logs = list((Path(demo_run.root) / "logs").glob("*.log"))
    assert len(logs) == 2  # of the driver and of the replica
    for log in logs:
        assert "Traceback" not in log.read_text(errors="replace"), log


def test_the_second_pass_runs_in_the_engine_that_is_up(demo_run: ArtifactStore) -> None:
    noise = json.loads(demo_run.read_text("manifest.json"))["noise"]
    assert noise["num_questions"] > 10
    assert noise["num_failed"] == 0
    (log,) = (Path(demo_run.root) / "logs").glob("*-*.log")
    assert log.read_text(errors="replace").count("Starting to load model") == 1
    assert not demo_run.exists("noise/logs")


def test_no_process_is_left_behind(demo_run: ArtifactStore) -> None:
    assert demo_run.exists("manifest.json")
    commands = [
        path.read_bytes().replace(b"\0", b" ") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
    ]
    assert not [line for line in commands if demo_run.root.encode() in line]


def test_rescoring_gives_the_same_samples_and_metrics(demo_run: ArtifactStore) -> None:
    before = samples(demo_run)
    metrics = Path(demo_run.path("metrics.parquet")).read_bytes()
    done = command("pipeline.rescore", f"run={demo_run.root}")
    assert done.returncode == 0, done.stderr
    assert samples(demo_run) == before
    assert Path(demo_run.path("metrics.parquet")).read_bytes() == metrics


def test_the_same_command_prints_the_summary_of_the_complete_run_again(demo_run: ArtifactStore) -> None:
    output = Path(demo_run.root).parent
    done = command("pipeline.run", "conf=demo", "run_id=demo", f"output_dir={output}")
    assert (done.returncode, done.stderr) == (0, "")
    title, *summary = done.stdout.splitlines()
    assert title == f"run demo is complete in {demo_run.root}: nothing is generated"
    assert [line for line in summary if "tokens/s" not in line][-5:] == [
        line for line in (output / "stdout.txt").read_text().splitlines() if "tokens/s" not in line
    ][-5:]


def documented_queries() -> list[str]:
    text = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    return re.findall(r"```sql\n(.*?)```", text, flags=re.S)


@pytest.mark.parametrize("number", range(4))
def test_the_queries_of_the_docs_work_as_printed(demo_run: ArtifactStore, number: int) -> None:
    query = documented_queries()[number].replace("outputs/run=*", f"{Path(demo_run.root).parent}/run=*")
    assert duckdb.sql(query).fetchall()
