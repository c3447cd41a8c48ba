"""logs_public.zip equals what lm-evaluation-harness 0.4.9 writes for a chat server, field by field."""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from archives import STAMP, MakeRun, Scored, completion, members, question

from pipeline.config.harness_arguments import harness_arguments
from pipeline.publish.leaderboard import archive as leaderboard_archive
from pipeline.publish.leaderboard.harness_logs import public_name

ROWS = [
    question("agro_bench", 7, gold=" B ", text="Какая «почва»?"),
    question("agro_bench", 3, gold="A, B"),
    question("agro_bench", 5),
    question("med_bench", 1, gold="A"),
]


def reply(prompt: dict[str, Any], repeat: int) -> Any:
    return completion(prompt, repeat, {7: "\n\nB", 3: " Ответ: B"}.get(prompt["id"]))


def logs(run: Scored) -> dict[str, Any]:
    """Return the results and the samples of a run's archive."""
    leaderboard_archive.pack(run.store, run.config, run.manifest)
    files = members(members(run.archive)["logs_public.zip"])
    lines = {
        name.removeprefix("samples_").removesuffix(f"_{STAMP}.jsonl"): [json.loads(line) for line in data.splitlines()]
        for name, data in files.items()
        if name.startswith("samples_")
    }
    return {"results": json.loads(files[f"results_{STAMP}.json"]), **lines}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def run(make_run: MakeRun) -> Scored:
    return make_run(ROWS, reply=reply)


def test_a_line_has_the_harness_fields_in_its_order(run: Scored) -> None:
    expected = ["doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"]
    expected += ["doc_hash", "prompt_hash", "target_hash", "f1", "em"]
    assert [list(line) for line in logs(run)["agro_bench"]] == [expected] * 3


def test_a_lines_values_are_those_of_the_row(run: Scored) -> None:
    line = logs(run)["agro_bench"][0]
    doc = json.loads(ROWS[0].doc)
    chat = json.dumps([{"role": "user", "content": "Какая «почва»? 7", "type": "text"}], ensure_ascii=False)
    sampling = {"do_sample": False, "until": ["<|im_end|>"], "max_gen_toks": 192}
    assert line == {
        "doc_id": 0,
        "doc": doc,
        "target": "B",
        "arguments": {"gen_args_0": {"arg_0": [chat], "arg_1": sampling}},
        "resps": [["\n\nB"]],
        "filtered_resps": ["B"],
        "filter": "scoring",
        "metrics": ["f1", "em"],
        "doc_hash": sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": sha256(chat),
        "target_hash": sha256("B"),
        "f1": 1.0,
        "em": 1.0,
    }


def test_the_hashes_are_those_of_the_harness_for_known_texts(run: Scored) -> None:
    # the sha256 of a known text, so that the formula is not only compared with itself
    target = "df7e70e5021544f4834bbee64a9e3789febc4be81470df629cad6ddb03320a5c"  # printf B | sha256sum
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [line["target_hash"] for line in logs(run)["agro_bench"]] == [target, sha256("A, B"), empty]


def test_a_hidden_gold_has_no_target_and_no_score(run: Scored) -> None:
    line = logs(run)["agro_bench"][2]
    assert (line["doc_id"], line["target"], line["f1"], line["em"]) == (2, "", None, None)


def test_unterminated_reasoning_is_an_empty_response(run: Scored) -> None:
    line = logs(run)["med_bench"][0]
    assert (line["resps"], line["filtered_resps"], line["em"]) == ([[""]], [""], 1.0)


def test_a_system_message_is_logged_as_the_harness_sends_it(make_run: MakeRun) -> None:
    messages = json.dumps([{"role": "system", "content": "Кратко."}, {"role": "user", "content": "?"}])
    line = logs(make_run([replace(ROWS[0], messages=messages)]))["agro_bench"][0]
    assert json.loads(line["arguments"]["gen_args_0"]["arg_0"][0]) == [
        {"role": "system", "content": "Кратко.", "type": "text"},
        {"role": "user", "content": "?", "type": "text"},
    ]


def test_the_extracted_mode_scores_and_logs_what_it_submits(make_run: MakeRun) -> None:
    found = logs(make_run(ROWS, "submission.mode=extracted", reply=reply))
    first, second, third = found["agro_bench"]
    assert [line["filter"] for line in (first, second, third)] == ["extracted"] * 3
    assert (second["resps"], second["filtered_resps"], second["em"]) == ([[" Ответ: B"]], ["B"], 1.0)
    assert third["filtered_resps"] == [""]
    results = found["results"]
    assert (results["pipeline"]["submission_mode"], results["pipeline"]["num_extracted"]) == (
        "extracted",
        {"agro_bench": 2, "med_bench": 0},
    )
    assert results["results"]["agro_bench"]["em,extracted"] == 1.0


def test_a_sampled_run_logs_its_temperature_and_a_greedy_one_none(make_run: MakeRun) -> None:
    config = make_run(ROWS, "generation.do_sample=true", "generation.top_k=20", "generation.until=[]").config
    assert harness_arguments(config.generation) == {
        "do_sample": True,
        "until": [],
        "max_gen_toks": 192,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 20,
    }
    greedy = replace(config, generation=replace(config.generation, do_sample=False))
    assert list(harness_arguments(greedy.generation)) == ["do_sample", "until", "max_gen_toks"]


def test_the_results_hold_mean_and_standard_error_of_the_lines(demo_run: Scored) -> None:
    found = logs(demo_run)
    for task in ("agro_bench", "aqua_bench", "med_bench"):
        results = found["results"]["results"][task]
        for metric in ("em", "f1"):
            values = [line[metric] for line in found[task]]
            assert results[f"{metric},scoring"] == pytest.approx(statistics.fmean(values), abs=1e-12)
            expected = statistics.stdev(values) / len(values) ** 0.5
            assert results[f"{metric}_stderr,scoring"] == pytest.approx(expected, abs=1e-12)


def test_only_hidden_golds_have_no_mean(make_run: MakeRun) -> None:
    results = logs(make_run([question("agro_bench", 1)]))["results"]["results"]["agro_bench"]
    assert (results["em,scoring"], results["em_stderr,scoring"]) == ("N/A", "N/A")


def test_a_tasks_hash_is_over_the_hashes_of_its_lines(run: Scored) -> None:
    found = logs(run)
    text = "".join(line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in found["agro_bench"])
    assert found["results"]["task_hashes"]["agro_bench"] == sha256(text)


def test_the_results_record_how_the_run_was_made(run: Scored) -> None:
    results = logs(run)["results"]
    assert results["config"]["gen_kwargs"]["max_gen_toks"] == 192
    assert (results["config"]["model"], results["config"]["random_seed"]) == ("local-chat-completions", 1234)
    assert results["n-samples"]["agro_bench"] == {"original": 3, "effective": 3}
    assert results["date"] == datetime(2026, 11, 21, 22, 38, 40, tzinfo=UTC).timestamp()
    assert (results["git_hash"], results["lm_eval_version"]) == ("c0ffee", None)
    assert (results["pipeline"]["repeats"], results["pipeline"]["submitted_repeat"]) == (1, 0)


def test_the_endpoints_address_and_key_are_not_published(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    run = make_run(ROWS, "engine.endpoint.base_url=http://inside.example:8000/v1", "engine.endpoint.api_key_env=MY_KEY")
    leaderboard_archive.pack(run.store, run.config, run.manifest)
    files = members(members(run.archive)["logs_public.zip"])
    assert not [name for name, data in files.items() if b"inside.example" in data or b"s3cret" in data]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3.6-35B-A3B", "Qwen/Qwen3.6-35B-A3B"),
        ("/home/me/models/mine/", "mine"),
        ("data/demo/model", "model"),
        ("~/mine", "mine"),
        ("./x", "x"),
        (None, None),
    ],
)
def test_of_a_path_only_the_last_name_is_published(path: str | None, name: str | None) -> None:
    assert public_name(path) == name
