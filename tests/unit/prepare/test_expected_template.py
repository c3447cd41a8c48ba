"""A template that is not the expected one ends the run or is told; one that has changed since ends a resume."""

import json
import shutil

import pytest

from pipeline.config.loading import compose
from pipeline.errors import ModelError, RunError
from pipeline.orchestrator import execute
from pipeline.prepare import prepare
from pipeline.prepare.template_fingerprint import check_fingerprint
from pipeline.runs import directory as run_directory
from pipeline.runs.manifest import PromptMetadata

OTHER = f"sha256:{'0' * 64}"


@pytest.fixture
def config(words, tmp_path):
    return lambda *more: compose([*words, f"output_dir={tmp_path}/outputs", "run_id=one", *more])


def test_another_fingerprint_is_one_line_with_both_values_and_the_mend(config, tokenizer_dir):
    found = f"sha256:{'1' * 64}"
    with pytest.raises(ModelError) as error:
        check_fingerprint(config(f"prompt.expected_fingerprint={OTHER}"), PromptMetadata(template_fingerprint=found))
    assert str(error.value) == (
        f"prompt.expected_fingerprint={OTHER}: the template of model.path='{tokenizer_dir}' has {found}, so it renders "
        "other prompts: set prompt.chat_template=<file> to the template that is expected, or "
        f"prompt.expected_fingerprint={found} to take this one (null: not compared)"
    )


def test_the_line_names_the_file_where_a_file_is_the_template(config):
    words = [f"prompt.expected_fingerprint={OTHER}", "prompt.chat_template=mine.jinja"]
    with pytest.raises(ModelError, match=r"prompt\.chat_template='mine\.jinja' has sha256:1, so"):
        check_fingerprint(config(*words), PromptMetadata(template_fingerprint="sha256:1"))


@pytest.mark.parametrize("expected", ["null", OTHER])
def test_the_expected_fingerprint_and_none_expected_say_nothing(config, expected):
    prompts = PromptMetadata(template_fingerprint=OTHER)
    assert check_fingerprint(config(f"prompt.expected_fingerprint={expected}"), prompts) is None


def test_a_template_that_only_a_server_knows_is_told_and_passes(config, endpoint):
    warning = check_fingerprint(config(f"prompt.expected_fingerprint={OTHER}", *endpoint), PromptMetadata())
    assert warning == (
        f"prompt.expected_fingerprint={OTHER} is not compared: the server behind engine.endpoint renders with a "
        "template of its own"
    )


def test_a_run_with_another_template_ends_before_a_prompt_is_made(config, tmp_path):
    with pytest.raises(ModelError, match=OTHER):
        execute(config(f"prompt.expected_fingerprint={OTHER}"))
    content = json.loads((tmp_path / "outputs/run=one/manifest.json").read_text())
    assert content["status"] == "failed"
    assert content["reason"].startswith(f"ModelError: prompt.expected_fingerprint={OTHER}")
    assert content["template_fingerprint"] not in (None, OTHER)
    assert not (tmp_path / "outputs/run=one/prompts").exists()


@pytest.mark.parametrize("mend", ["prompt.expected_fingerprint=null", "prompt.fingerprint_policy=warn"])
def test_the_mended_command_goes_on_under_the_same_run_id(config, mend):
    wrong = f"prompt.expected_fingerprint={OTHER}"
    run_directory.begin(*run_directory.place(config(wrong)))
    run_directory.begin(*run_directory.place(config(wrong, mend)))


def test_a_run_that_goes_on_is_compared_too(config):
    run, begun = run_directory.place(config())
    run_directory.begin(run, begun)
    prepare(begun, run)
    with pytest.raises(ModelError, match=OTHER):
        execute(config(f"prompt.expected_fingerprint={OTHER}"))


@pytest.fixture
def begun_with_a_file(config, tmp_path):
    """A run whose prompts were made with a template file; returns the file and its configuration."""
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}\n")
    run, begun = run_directory.place(config(f"prompt.chat_template={file}"))
    run_directory.begin(run, begun)
    prepare(begun, run)
    return file, begun


def test_a_template_file_that_has_changed_ends_a_resume_by_the_keys_name(begun_with_a_file, tmp_path):
    file, begun = begun_with_a_file
    run_directory.begin(*run_directory.place(begun))
    file.write_text("{{ messages[0].content }}!\n")
    with pytest.raises(RunError) as error:
        run_directory.begin(*run_directory.place(begun))
    assert str(error.value) == (
        f"prompt.chat_template='{file}' holds another template than when run_id='one' was begun: give back that one, "
        f"kept in {tmp_path}/outputs/run=one/prompts/chat_template.jinja, choose another run_id, or run.restart=true"
    )


def test_a_template_file_that_is_gone_ends_a_resume(begun_with_a_file):
    file, begun = begun_with_a_file
    file.unlink()
    with pytest.raises(ModelError, match=r"prompt\.chat_template=.*mine\.jinja' cannot be read: No such file"):
        run_directory.begin(*run_directory.place(begun))


def test_a_model_directory_whose_template_has_changed_ends_a_resume(config, tokenizer_dir, tmp_path):
    model = shutil.copytree(tokenizer_dir, tmp_path / "model")
    with pytest.raises(ModelError, match=OTHER):
        execute(config(f"model.path={model}", f"prompt.expected_fingerprint={OTHER}"))
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(RunError, match=r"model\.path=.* holds another model than when run_id='one' was begun"):
        execute(config(f"model.path={model}"))
