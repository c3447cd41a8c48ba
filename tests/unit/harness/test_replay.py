"""`python -m pipeline.replay` with real logs of the harness: they agree, and each kind of difference is reported."""

import io
import json
import zipfile

import pyarrow as pa
import pytest
from builders import command, make_prompt, publish_prompts

from pipeline.errors import ConfigError, DataError, Differs
from pipeline.harness.log_lines import LOG_SCHEMA
from pipeline.harness.pairing import pair_sources
from pipeline.harness.report import excerpts
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore


def test_the_harness_and_we_agree_on_its_own_logs(replay, capsys):
    assert replay() == []
    assert replay.error is None
    out = capsys.readouterr().out
    for task, num in (("agro_bench", 6), ("aqua_bench", 5), ("med_bench", 5)):
        (line,) = [line for line in out.splitlines() if line.strip().startswith(task)]
        assert line.split()[1:9] == [str(num)] * 8  # in the log, compared, and equal in each column


def test_responses_that_letters_and_exact_match_score_differently_are_listed(replay):
    replay()
    found = [
        (row["task"], row["id"], row["verdict"], row["response"], row["answer"]) for row in replay.rows("extracted")
    ]
    assert found == [
        ("agro_bench", 59, "lost", "", None),
        ("med_bench", 5, "gained", "Ответ: B", "B"),
        ("med_bench", 10, "gained", "Ответ: A", "A"),
    ]


def set_message(text):
    def change(line):
        (request,) = line["arguments"]["gen_args_0"]["arg_0"]
        messages = json.loads(request)
        messages[0]["content"] = text
        line["arguments"]["gen_args_0"]["arg_0"] = [json.dumps(messages)]

    return change


def set_argument(name, value):
    return lambda line: line["arguments"]["gen_args_0"]["arg_1"].update({name: value})


def set_response(text):
    return lambda line: line.update(resps=[[text]], filtered_resps=[text.lstrip()])


@pytest.mark.parametrize(
    ("change", "field", "theirs", "ours"),
    [
        (lambda line: line.update(em=0.0), "em", "0.0", "1.0"),
        (lambda line: line.update(f1=0.5), "f1", "0.5", "1.0"),
        (lambda line: line.pop("f1"), "f1", None, "1.0"),
        (lambda line: line["doc"].update(outputs="Б"), "doc.outputs", '"Б"', '"A"'),
        (lambda line: line["doc"]["inputs"].update(option_b="1 мг"), "doc.inputs.option_b", '"1 мг"', '"106 мг"'),
        (lambda line: line["doc"]["inputs"].update(option_e="1 мг"), "doc.inputs.option_e", '"1 мг"', None),
        (lambda line: line["doc"]["meta"].pop("categories"), "doc.meta.categories", None, ...),
        (set_argument("max_gen_toks", 256), "generation.max_gen_toks", "256", "192"),
        (set_argument("until", ["\n\n"]), "generation.until", '["\\n\\n"]', '["<|im_end|>"]'),
        (set_argument("do_sample", True), "generation.do_sample", "true", "false"),
        (set_argument("temperature", 0.7), "generation.temperature", "0.7", "0"),
        (set_argument("repetition_penalty", 1.1), "generation.repetition_penalty", "1.1", None),
        (lambda line: line.update(filtered_resps=[" A"]), "response", " A", "A"),
    ],
)
def test_a_difference_is_reported_with_task_id_and_field(replay, change, field, theirs, ours):
    replay.change("med_bench", 1, change)
    found = {row[2]: row for row in replay()}
    task, row_id, _, *values = found[field]
    assert (task, row_id) == ("med_bench", 1)
    assert values[0] == theirs
    assert ours is ... or values[1] == ours
    assert isinstance(replay.error, Differs)
    assert replay.error.exit_code == 3


def test_a_different_prompt_is_reported_with_both_texts(replay):
    replay.change("aqua_bench", 3, set_message("Другой вопрос"))
    ((task, row_id, field, theirs, ours),) = replay()
    assert (task, row_id, field) == ("aqua_bench", 3, "messages")
    assert json.loads(theirs) == [{"role": "user", "content": "Другой вопрос"}]
    assert json.loads(ours)[0]["content"].startswith("Карточка 3.\nВопрос: ")


def test_a_system_message_of_theirs_is_a_difference_until_the_configuration_has_it(replay):
    def with_system(line):
        (request,) = line["arguments"]["gen_args_0"]["arg_0"]
        messages = [{"role": "system", "content": "Кратко.", "type": "text"}, *json.loads(request)]
        line["arguments"]["gen_args_0"]["arg_0"] = [json.dumps(messages)]

    replay.write("med_bench", [line for line in replay.lines("med_bench") if with_system(line) is None])
    assert {row[2] for row in replay("only=[med_bench]")} == {"messages"}
    assert replay("only=[med_bench]", "prompt.system=Кратко.") == []


def test_a_rendered_prompt_is_compared_with_our_rendered_text(replay):
    def render(line):
        (request,) = line["arguments"]["gen_args_0"]["arg_0"]
        text = json.loads(request)[0]["content"]
        rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n"
        line["arguments"]["gen_args_0"]["arg_0"] = rendered

    replay.change("med_bench", 1, render)
    assert replay("only=[med_bench]") == []
    ((*_, field, theirs, ours),) = replay("only=[med_bench]", "prompt.template_kwargs.enable_thinking=false")
    assert field == "prompt"
    assert theirs.endswith("<think>\n")
    assert ours.endswith("</think>\n\n")


def test_rendered_prompts_without_a_tokenizer_are_an_error_that_names_the_engine(replay):
    replay.change("med_bench", 1, lambda line: line["arguments"]["gen_args_0"].update(arg_0="text"))
    replay("engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:9/v1", "model.path=null")
    assert isinstance(replay.error, ConfigError)
    assert "engine.kind='endpoint': 1 prompts of the log are rendered text" in str(replay.error)


def test_messages_are_compared_without_a_model(replay):
    assert replay("model.path=/nowhere") == []


def test_a_question_that_only_one_has_is_reported(replay):
    replay.write("med_bench", replay.lines("med_bench")[1:])
    replay.change_data("aqua_bench", 3, lambda row: row["meta"].update(id=33))
    assert replay() == [
        ("aqua_bench", 3, "id", "3", None),
        ("aqua_bench", 33, "id", None, "33"),
        ("med_bench", 1, "id", None, "1"),
    ]


def test_a_question_twice_in_the_log_is_reported(replay):
    lines = replay.lines("med_bench")
    replay.write("med_bench", [*lines, lines[0]])
    assert replay() == [("med_bench", 1, "id", "again in line 6", "one row")]


def test_lines_of_two_filters_are_not_the_same_question_twice(replay):
    lines = replay.lines("med_bench")
    replay.write("med_bench", [*lines, lines[0] | {"filter": "other"}])
    assert replay() == []


def test_a_split_without_questions_in_the_log_is_left_out_and_reported(replay, capsys):
    rows = replay.data("med_bench").read_text(encoding="utf-8").splitlines(keepends=True)
    store = replay.root / "both"
    store.mkdir()
    (store / "test.jsonl").write_text("".join(rows[:3]), encoding="utf-8")
    (store / "train.jsonl").write_text("".join(rows[3:]), encoding="utf-8")
    replay.write("med_bench", replay.lines("med_bench")[:3])
    arguments = ["only=[med_bench]", f"tasks.med_bench.dataset={store}/*.jsonl", "splits=[train,test]"]
    assert replay(*arguments) == []
    assert "med_bench: the log has no question of the split train" in capsys.readouterr().out


def test_questions_beyond_the_limit_are_not_compared(replay):
    assert replay("limit=2") == []
    assert replay.error is None


def test_a_hidden_gold_is_scored_as_the_harness_does_and_read(replay):
    replay.change("med_bench", 5, lambda line: line["doc"].update(outputs="") or line.update(em=0.0, f1=0.0))
    replay.change_data("med_bench", 5, lambda row: row.update(outputs=""))
    assert replay("only=[med_bench]") == []
    found = {row["id"]: (row["verdict"], row["gold"], row["answer"]) for row in replay.rows("extracted")}
    assert found == {5: ("read", None, "B"), 10: ("gained", "A", "A")}


def test_null_keys_that_arrow_adds_to_a_row_are_no_difference(replay):
    replay.change("med_bench", 1, lambda line: line["doc"]["inputs"].update(option_e=None, option_f=None))
    assert replay() == []


def test_the_response_none_is_not_taken_for_an_empty_response(replay):
    replay.change("med_bench", 1, set_response("None"))
    assert {row[2] for row in replay()} == {"em", "f1"}
    replay.change("med_bench", 1, lambda line: line.update(resps=[["None"]], filtered_resps=[""], em=1.0, f1=1.0))
    assert replay() == []  # an empty response matches the gold A


def submission(replay, nested=True):
    """Pack the logs as a submission contains them; return the path."""
    logs = io.BytesIO()
    with zipfile.ZipFile(logs, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in replay.logs.glob("*"):
            archive.write(path, path.name if nested else f"deep/er/{path.name}")
        archive.writestr("results_2026-11-21T23-00-56.560097.json", "{}")
    path = replay.root / "run_submission.zip"
    if not nested:
        path.write_bytes(logs.getvalue())
        return path
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("logs_public.zip", logs.getvalue())
        outer.writestr("ruTXTAgroBench.json", "{}")
    return path


@pytest.mark.parametrize("nested", [True, False])
def test_an_archive_is_read_like_a_directory(replay, nested):
    replay.change("med_bench", 1, lambda line: line.update(em=0.0))
    assert replay(logs=submission(replay, nested)) == [("med_bench", 1, "em", "0.0", "1.0")]


def test_a_single_file_is_read_as_the_task_of_the_argument(replay):
    path = replay.log("med_bench").rename(replay.root / "renamed.jsonl")
    assert replay("task=med_bench", logs=path) == []
    assert replay.error is None


def test_a_run_of_ours_is_compared_with_their_responses(replay, run_of):
    answers = {1: "A", 2: "B", 5: "Ответ: B", 8: ""}
    run = run_of("med_bench", answers)
    assert replay(f"run={run.root}", "only=[med_bench]") == [
        ("med_bench", 2, "run.response", "E", "B"),
        ("med_bench", 10, "run.id", "10", None),
    ]


def test_the_newest_log_of_a_task_is_compared_and_the_others_are_reported(replay, capsys):
    newest = replay.log("med_bench")
    old = newest.with_name("samples_med_bench_2025-01-01T00-00-00.000001.jsonl")
    old.write_text("rubbish", encoding="utf-8")
    assert replay() == []
    assert replay.error is None
    assert f"left out: {old}" in capsys.readouterr().out


def test_the_command_ends_with_3_and_names_the_file_of_differences(replay):
    replay.change("med_bench", 1, lambda line: line.update(em=0.0))
    done = command(
        "pipeline.replay",
        *[f"logs={replay.log('med_bench')}", "conf=demo", "splits=[test]", f"out={replay.root / 'out'}"],
        f"tasks.med_bench.dataset={replay.data('med_bench')}",
    )
    assert done.returncode == 3, done.stderr
    where = replay.root / "out" / "differences.parquet"
    assert done.stderr == f"error: 1 differences between the harness and us: {where}\n"
    assert str(where) in done.stdout


def test_no_markup_or_control_character_of_a_log_reaches_the_terminal(replay, capsys):
    replay.change("med_bench", 1, set_argument("[red]\x1b[31m\u202e", "[bold]\x1b]0;x\x07"))
    replay()
    out = capsys.readouterr().out
    assert "[red]·[31m·" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize("arguments", [["logs="], ["logs=a", "logs=b"], []])
def test_a_missing_or_repeated_argument_is_rejected(arguments):
    from pipeline.replay import main

    with pytest.raises(ConfigError, match="logs="):
        main([*arguments, "conf=demo"])


def test_a_log_of_another_data_set_is_rejected(replay):
    path = replay.log("agro_bench")
    for line in (lines := replay.lines("agro_bench")):
        line["doc"]["meta"]["id"] += 1000
    replay.write("agro_bench", lines)
    replay(logs=path)
    assert isinstance(replay.error, DataError)
    assert "none of its ids is in tasks.agro_bench.dataset" in str(replay.error)


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        (None, "B", ("null", "B")),
        ("A\nB", "A\x1bB", ("A·B", "A·B")),
        ("a" * 100, "a" * 50 + "b", ("…" + "a" * 36 + "…", "…" + "a" * 12 + "b")),
    ],
)
def test_excerpts_of_long_values_start_where_they_diverge(theirs, ours, expected):
    assert excerpts(theirs, ours) == expected


def test_questions_are_joined_a_range_of_ids_at_a_time_and_none_is_lost(tmp_path):
    work = ArtifactStore.open(str(tmp_path))
    line = {"filter": "", "doc": "{}", "gold": "", "arguments": "{}", "response": ""}
    theirs = [line | {"id": number, "line": at} for at, number in enumerate([9, 2, 2, 5, -4, 11], start=1)]
    with work.publish("logs", LOG_SCHEMA) as store:
        table = pa.Table.from_pylist(theirs, schema=LOG_SCHEMA)
        store.write_parquet("task=agro_bench/part-00000.parquet", LOG_SCHEMA, [table])
    publish_prompts(work, [make_prompt(number) for number in (5, 1, 2, 9, 7)])
    logs, prompts = work.require_artifact("logs", LOG_SCHEMA), work.require_artifact("prompts", PROMPT_SCHEMA)
    both = pair_sources("agro_bench", logs, prompts, None)
    found = [
        (pair.theirs and pair.theirs.id, pair.ours and pair.ours.id, pair.is_duplicate)
        for pair in both.pairs(is_limited=False, ids_per_range=2)
    ]
    assert found == [
        (-4, None, False),
        (None, 1, False),
        (2, 2, False),
        (2, 2, True),
        (5, 5, False),
        (None, 7, False),
        (9, 9, False),
        (11, None, False),
    ]
