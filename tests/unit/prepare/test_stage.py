"""The prepare stage as a whole: the content of prompts/, rows with an error, and errors that stop a run."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from pipeline.config.loading import compose
from pipeline.errors import ConfigError, DataError, ModelError, RunError
from pipeline.prepare import prepare
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

FAILS_ON_BAD = (
    "{% if 'плохо' in messages[0]['content'] %}{{ raise_exception('слово') }}{% endif %}{{ messages[0]['content'] }}"
)


def rejection(prepared, kind, *overrides):
    with pytest.raises(kind) as error:
        prepared(*overrides)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_row_is_rendered_with_the_models_template(prepared):
    row = prepared()[0]
    text = "<|im_start|>user\nВопрос: Вопрос номер 1?\nA. да<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert row["prompt"] == text
    assert row["prompt_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert json.loads(row["messages"]) == [{"role": "user", "content": "Вопрос: Вопрос номер 1?\nA. да"}]
    assert "Вопрос" in row["messages"]
    one_byte_each = text.replace("<|im_start|>", "s").replace("<|im_end|>", "e").encode()
    assert row["num_prompt_tokens"] == len(row["prompt_token_ids"]) == len(one_byte_each)
    assert (row["task"], row["split"], row["id"], row["gold"], row["error"]) == ("agro", "train", 1, "A", None)
    assert row["categories"] == [{"key": "topic", "value": "почва"}]


def test_every_row_of_every_split_is_prepared_and_hidden_golds_are_null(prepared):
    rows = prepared()
    assert [(row["split"], row["id"], row["gold"]) for row in rows] == [
        ("train", 1, "A"),
        ("test", 2, None),
        ("test", 3, None),
    ]


def test_files_are_partitioned_by_task_and_split(prepared, run):
    prepared()
    assert run.artifact("prompts", PROMPT_SCHEMA).files == {
        "task=agro/split=test/part-00000.parquet": 2,
        "task=agro/split=train/part-00000.parquet": 1,
    }


def test_the_metadata_records_the_data_set_and_the_template(prepared, run):
    prepared()
    metadata = run.artifact("prompts", PROMPT_SCHEMA).metadata
    assert sorted(name for name in metadata if not name.startswith("warning.")) == [
        "chat_template_sha256",
        "dataset_revision.agro",
        "model_fingerprint",
        "template_fingerprint",
    ]
    assert metadata["dataset_revision.agro"].startswith("sha256:")


def test_the_template_is_stored_next_to_the_prompts(prepared, run, tmp_path, tokenizer_dir):
    prepared()
    assert run.read_text("prompts/chat_template.jinja") == (tokenizer_dir / "chat_template.jinja").read_text()
    (tmp_path / "t.jinja").write_text("{{ messages[0]['content'] }}\n\n")
    prepared(f"prompt.chat_template={tmp_path}/t.jinja")
    assert run.read_text("prompts/chat_template.jinja") == "{{ messages[0]['content'] }}\n\n"


def test_rejected_metadata_leaves_the_run_unchanged(prepared, run):
    def reject(metadata):
        raise ModelError(str(metadata.template_fingerprint))

    with pytest.raises(ModelError, match="sha256:"):
        prepared(on_metadata=reject)
    assert run.directories() == []


def test_the_metadata_records_the_commits_of_the_hub(prepared, run, hub, dataset, tokenizer_dir):
    files = [*dataset.iterdir(), *tokenizer_dir.iterdir()]
    hub.files.update({file.name: file.read_bytes() for file in files})
    prepared("tasks.agro.dataset=org/set", "model.path=org/model")
    metadata = run.artifact("prompts", PROMPT_SCHEMA).metadata
    assert (metadata["dataset_revision.agro"], metadata["model_revision"]) == (hub.commit, hub.commit)
    assert f"tasks.agro.revision={hub.commit} model.revision={hub.commit}" in metadata["warning.no-revision"]


def test_a_system_message_comes_before_the_question(prepared):
    row = prepared("prompt.system=Отвечай буквой.")[0]
    assert json.loads(row["messages"])[0] == {"role": "system", "content": "Отвечай буквой."}
    assert row["prompt"].startswith("<|im_start|>system\nОтвечай буквой.<|im_end|>\n<|im_start|>user\n")


def test_limit_takes_the_first_rows_of_each_task_and_split(prepared):
    assert [row["id"] for row in prepared("limit=1")] == [1, 2]


def test_only_the_requested_splits_are_read(prepared, dataset):
    (dataset / "train.jsonl").unlink()
    assert [row["id"] for row in prepared("splits=[test]")] == [2, 3]


def test_progress_adds_up_to_the_rows(prepared):
    counts = []
    prepared(on_rows=counts.append)
    assert counts == [1, 2]


def test_a_long_split_is_written_in_several_files(prepared, run, dataset, make_row, write_rows, endpoint):
    write_rows(dataset / "test.jsonl", [make_row(i) for i in range(2, 20_580)])
    rows = prepared("splits=[test]", *endpoint)
    assert list(run.artifact("prompts", PROMPT_SCHEMA).files.values()) == [20_480, 98]
    assert [row["id"] for row in rows] == list(range(2, 20_580))


def test_a_prompt_that_fits_exactly_has_no_error_and_one_token_more_is_an_error(prepared):
    num_tokens = prepared()[0]["num_prompt_tokens"]
    (fits, *_) = prepared(f"model.context_size={num_tokens + 100}")
    (over, *_) = prepared(f"model.context_size={num_tokens + 99}")
    assert fits["error"] is None
    assert over["error"] == (
        f"{num_tokens} prompt tokens + generation.max_gen_toks=100 are more than model.context_size={num_tokens + 99}: "
        "raise model.context_size or lower generation.max_gen_toks"
    )
    assert (over["num_prompt_tokens"], over["prompt_token_ids"]) == (num_tokens, None)


def test_a_template_that_fails_on_a_later_row_makes_that_row_an_error(
    prepared, dataset, tmp_path, make_row, write_rows
):
    (tmp_path / "t.jinja").write_text(FAILS_ON_BAD)
    write_rows(dataset / "train.jsonl", [make_row(1), make_row(5, instruction="плохо")])
    write_rows(dataset / "test.jsonl", [make_row(2, instruction="плохо"), make_row(3)])
    rows = prepared(f"prompt.chat_template={tmp_path}/t.jinja")
    assert [row["prompt"] is None for row in rows] == [False, True, True, False]
    assert rows[1]["error"] == (f"prompt.chat_template='{tmp_path}/t.jinja' fails on this row: TemplateError: слово")
    assert rows[1]["prompt_sha256"] == hashlib.sha256(rows[1]["messages"].encode()).hexdigest()


def test_a_template_that_fails_on_the_first_row_stops_the_run(prepared, run, dataset, tmp_path, make_row, write_rows):
    (tmp_path / "t.jinja").write_text(FAILS_ON_BAD)
    write_rows(dataset / "train.jsonl", [make_row(1, instruction="плохо")])
    assert rejection(prepared, ModelError, f"prompt.chat_template={tmp_path}/t.jinja") == (
        f"prompt.chat_template='{tmp_path}/t.jinja' fails on the first row, agro train id=1: TemplateError: слово"
    )
    assert run.artifact("prompts", PROMPT_SCHEMA) is None


def test_a_template_that_is_not_jinja_stops_the_run(prepared, tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}\n{{ m }}")
    text = rejection(prepared, ModelError, f"prompt.chat_template={tmp_path}/t.jinja")
    assert text.startswith(
        f"prompt.chat_template='{tmp_path}/t.jinja' is not Jinja: line 2: Unexpected end of template."
    )


def test_an_endpoint_gets_messages_and_needs_no_tokenizer(prepared, run, endpoint):
    row = prepared(*endpoint)[0]
    assert (row["prompt"], row["prompt_token_ids"], row["num_prompt_tokens"]) == (None, None, None)
    assert row["prompt_sha256"] == hashlib.sha256(row["messages"].encode()).hexdigest()
    assert list(run.artifact("prompts", PROMPT_SCHEMA).metadata) == ["dataset_revision.agro"]


def test_an_endpoint_of_json_rows_imports_neither_transformers_nor_torch(arguments, endpoint, tmp_path):
    code = (
        "import sys\nfrom pipeline.config.loading import compose\nfrom pipeline.prepare import prepare\n"
        "from pipeline.storage.artifacts import ArtifactStore\n"
        "config = compose(sys.argv[2:])\n"
        "assert not {'transformers', 'datasets'} & set(sys.modules), 'imported before it is needed'\n"
        "prepare(config, ArtifactStore.open(sys.argv[1]))\n"
        "assert 'transformers' not in sys.modules, 'imported for an endpoint'\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), *arguments, *endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_id_in_two_splits_is_rejected(prepared, dataset, make_row, write_rows):
    write_rows(dataset / "test.jsonl", [make_row(2), make_row(1)])
    assert rejection(prepared, DataError) == (
        "agro test and train id=1: 2 rows have this meta.id: it must be unique in the task"
    )


def test_an_id_twice_in_one_split_is_rejected(prepared, run, dataset, make_row, write_rows):
    write_rows(dataset / "test.jsonl", [make_row(2), make_row(3), make_row(3), make_row(3)])
    text = "agro test id=3: 3 rows have this meta.id: it must be unique in the task"
    assert rejection(prepared, DataError) == text
    assert run.artifact("prompts", PROMPT_SCHEMA) is None


def test_two_tasks_may_have_the_same_ids(prepared, dataset, tmp_path):
    shutil.copytree(dataset, tmp_path / "other")
    rows = prepared(f"tasks.med.dataset={tmp_path}/other", "tasks.med.domain=medicine")
    assert sorted((row["task"], row["id"]) for row in rows) == [(t, i) for t in ("agro", "med") for i in (1, 2, 3)]


@pytest.mark.parametrize(("name", "content"), [("train.jsonl", ""), ("train.json", "[]")])
def test_a_split_without_rows_is_rejected(prepared, dataset, name, content):
    (dataset / "train.jsonl").unlink()
    (dataset / name).write_text(content)
    assert rejection(prepared, DataError, "splits=[train]", f"tasks.agro.dataset={dataset}/{name}") == (
        f"tasks.agro.dataset: split train has no rows ({dataset}/{name}): take it out of splits"
    )


def test_an_invalid_row_stops_the_run_and_keeps_the_prompts_prepared_before(
    prepared, run, dataset, make_row, write_rows
):
    prepared()
    write_rows(dataset / "test.jsonl", [make_row(2), make_row(3, inputs=...)])
    assert rejection(prepared, DataError) == "agro test id=3: inputs is missing: give an object of texts"
    assert run.artifact("prompts", PROMPT_SCHEMA).num_rows == 3
    assert run.directories() == ["prompts"]


def test_reserved_template_arguments_are_rejected_before_anything_is_read(prepared, dataset):
    shutil.rmtree(dataset)
    text = rejection(prepared, ConfigError, "prompt.template_kwargs.tokenize=true")
    assert text.startswith("prompt.template_kwargs=['tokenize']: is set by the pipeline")


def test_a_run_directory_that_cannot_be_written_is_reported(arguments, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        prepare(compose(arguments), ArtifactStore.open(str(tmp_path / "file" / "run")))


def test_parquet_and_json_rows_give_the_same_prompts(prepared, dataset, make_row, write_rows):
    rows = [make_row(2, instruction="{option_e}", inputs={"option_e": "д"}), make_row(3, meta={"id": 3})]
    write_rows(dataset / "test.jsonl", rows)
    of_json = prepared("splits=[test]")
    shutil.rmtree(dataset)
    write_rows(dataset / "test.parquet", rows)
    assert prepared("splits=[test]") == of_json
