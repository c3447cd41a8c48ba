"""An unexpected template fails the run or is a warning; a template that has changed fails the resume."""

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
def config(arguments, tmp_path):
    return lambda *overrides: compose([*arguments, f"output_dir={tmp_path}/outputs", "run_id=one", *overrides])


def test_a_different_fingerprint_is_one_line_with_both_values_and_the_fix(config, tokenizer_dir):
    found = f"sha256:{'1' * 64}"
    with pytest.raises(ModelError) as error:
        check_fingerprint(config(f"prompt.expected_fingerprint={OTHER}"), PromptMetadata(template_fingerprint=found))
    assert str(error.value) == (
        f"prompt.expected_fingerprint={OTHER}: the template of model.path='{tokenizer_dir}' has {found}, so it renders "
        "other prompts: set prompt.chat_template=<file> to the template that is expected, or "
        f"prompt.expected_fingerprint={found} to take this one (null: not compared)"
    )


def test_the_line_names_the_template_file(config):
    overrides = [f"prompt.expected_fingerprint={OTHER}", "prompt.chat_template=mine.jinja"]
    with pytest.raises(ModelError, match=r"prompt\.chat_template='mine\.jinja' has sha256:1, so"):
        check_fingerprint(config(*overrides), PromptMetadata(template_fingerprint="sha256:1"))


@pytest.mark.parametrize("expected", ["null", OTHER])
def test_there_is_no_warning_when_the_fingerprint_matches_or_none_is_expected(config, expected):
    prompts = PromptMetadata(template_fingerprint=OTHER)
    assert check_fingerprint(config(f"prompt.expected_fingerprint={expected}"), prompts) is None


def test_a_template_known_only_to_the_server_is_a_warning(config, endpoint):
    warning = check_fingerprint(config(f"prompt.expected_fingerprint={OTHER}", *endpoint), PromptMetadata())
    assert warning == (
        f"prompt.expected_fingerprint={OTHER} is not compared: the server behind engine.endpoint renders with a "
        "template of its own"
    )


def test_a_run_with_an_unexpected_template_fails_before_a_prompt_is_written(config, tmp_path):
    with pytest.raises(ModelError, match=OTHER):
        execute(config(f"prompt.expected_fingerprint={OTHER}"))
    content = json.loads((tmp_path / "outputs/run=one/manifest.json").read_text())
    assert content["status"] == "failed"
    assert content["reason"].startswith(f"ModelError: prompt.expected_fingerprint={OTHER}")
    assert content["template_fingerprint"] not in (None, OTHER)
    assert not (tmp_path / "outputs/run=one/prompts").exists()


@pytest.mark.parametrize("fix", ["prompt.expected_fingerprint=null", "prompt.fingerprint_policy=warn"])
def test_the_fixed_command_resumes_under_the_same_run_id(config, fix):
    wrong = f"prompt.expected_fingerprint={OTHER}"
    run_directory.begin(*run_directory.place(config(wrong)))
    run_directory.begin(*run_directory.place(config(wrong, fix)))


def test_a_resumed_run_is_compared_too(config):
    run, begun = run_directory.place(config())
    run_directory.begin(run, begun)
    prepare(begun, run)
    with pytest.raises(ModelError, match=OTHER):
        execute(config(f"prompt.expected_fingerprint={OTHER}"))


@pytest.fixture
def run_with_a_file(config, tmp_path):
    """A run whose prompts were rendered with a template file; returns the file and the run's configuration."""
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }}\n")
    run, begun = run_directory.place(config(f"prompt.chat_template={file}"))
    run_directory.begin(run, begun)
    prepare(begun, run)
    return file, begun


def test_a_changed_template_file_fails_the_resume_and_names_the_key(run_with_a_file, tmp_path):
    file, begun = run_with_a_file
    run_directory.begin(*run_directory.place(begun))
    file.write_text("{{ messages[0].content }}!\n")
    with pytest.raises(RunError) as error:
        run_directory.begin(*run_directory.place(begun))
    assert str(error.value) == (
        f"prompt.chat_template='{file}' holds another template than when run_id='one' was begun: give back that one, "
        f"kept in {tmp_path}/outputs/run=one/prompts/chat_template.jinja, choose another run_id, or run.restart=true"
    )


def test_a_missing_template_file_fails_the_resume(run_with_a_file):
    file, begun = run_with_a_file
    file.unlink()
    with pytest.raises(ModelError, match=r"prompt\.chat_template=.*mine\.jinja' cannot be read: No such file"):
        run_directory.begin(*run_directory.place(begun))


def test_a_model_directory_whose_template_has_changed_fails_the_resume(config, tokenizer_dir, tmp_path):
    model = shutil.copytree(tokenizer_dir, tmp_path / "model")
    with pytest.raises(ModelError, match=OTHER):
        execute(config(f"model.path={model}", f"prompt.expected_fingerprint={OTHER}"))
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(RunError, match=r"model\.path=.* holds another model than when run_id='one' was begun"):
        execute(config(f"model.path={model}"))
