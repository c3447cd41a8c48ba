"""The model's tokenizer and chat template."""

import inspect
import json
import shutil

import pytest

from pipeline.config.loading import compose
from pipeline.errors import ConfigError, ModelError
from pipeline.prepare import chat_template
from pipeline.prepare.chat_template import RESERVED_KWARGS, TemplateFailed, check_template_kwargs, open_chat

HELLO = [{"role": "user", "content": "Привет"}]


@pytest.fixture
def opened(arguments):
    return lambda *overrides: open_chat(compose([*arguments, *overrides]))


def message(opened, *overrides):
    with pytest.raises(ModelError) as error:
        opened(*overrides)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_models_own_template_renders_the_prompt(opened):
    assert opened().render(HELLO) == "<|im_start|>user\nПривет<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_template_kwargs_reach_the_template(opened):
    chat = opened("prompt.template_kwargs.enable_thinking=false")
    assert chat.render(HELLO).endswith("<think>\n\n</think>\n\n")


def test_a_template_file_replaces_the_models_own(opened, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages[0]['content'] }}!")
    chat = opened(f"prompt.chat_template={file}")
    assert chat.render(HELLO) == "Привет!"
    assert chat.template_sha256 != opened().template_sha256


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
            "does not hold the text",
        ),
        ("{{ messages[0].content[:3] }}", "does not hold the text"),
        ("{{ messages[0].content }}{{ '\\ud800' }}", "not Unicode text"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes longer than 0.2 s"),
    ],
)
def test_a_prompt_that_cannot_be_the_question_is_refused(opened, tmp_path, monkeypatch, template, reason):
    monkeypatch.setattr(chat_template, "MAX_RENDER_S", 0.2)
    file = tmp_path / "t.jinja"
    file.write_text(template)
    with pytest.raises(TemplateFailed, match=reason):
        opened(f"prompt.chat_template={file}").render_question(HELLO)


def test_white_space_of_the_question_may_change_and_a_byte_order_mark_is_no_part_of_a_template(opened, tmp_path):
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages[0].content | trim }}", encoding="utf-8-sig")
    chat = opened(f"prompt.chat_template={file}")
    assert chat.render_question([{"role": "user", "content": " a\n b "}]) == "a\n b"


def test_special_tokens_of_the_template_are_single_tokens_and_no_others_are_added(opened):
    assert len(opened().encode(["<|im_start|>ab<|im_end|>"])[0]) == 4


def test_the_reserved_arguments_are_those_of_the_installed_transformers():
    from transformers import PreTrainedTokenizerBase

    own = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters.keys() - {"self", "kwargs"}
    assert own | {"messages"} == RESERVED_KWARGS


@pytest.mark.parametrize("name", ["tokenize", "messages", "add_generation_prompt", "chat_template"])
def test_template_kwargs_may_not_hold_the_pipelines_own_arguments(arguments, name):
    with pytest.raises(ConfigError) as error:
        check_template_kwargs(compose([*arguments, f"prompt.template_kwargs.{name}=1"]))
    assert str(error.value) == (
        f"prompt.template_kwargs=['{name}']: is set by the pipeline: only variables of the chat template belong here, "
        "such as enable_thinking"
    )


def test_a_missing_template_file_is_named(opened, tmp_path):
    text = message(opened, f"prompt.chat_template={tmp_path}/none.jinja")
    assert text == f"prompt.chat_template='{tmp_path}/none.jinja' cannot be read: No such file or directory"


def test_a_template_file_that_is_not_utf8_is_named(opened, tmp_path):
    (tmp_path / "t.jinja").write_bytes(b"\xff\xfe")
    text = message(opened, f"prompt.chat_template={tmp_path}/t.jinja")
    assert text.startswith(f"prompt.chat_template='{tmp_path}/t.jinja' is not UTF-8 text: ")


def test_an_empty_template_file_is_named(opened, tmp_path):
    (tmp_path / "t.jinja").write_text(" \n")
    text = message(opened, f"prompt.chat_template={tmp_path}/t.jinja")
    assert text == (
        f"prompt.chat_template='{tmp_path}/t.jinja' is empty: write a Jinja chat template into it, or set it to null"
    )


def test_a_model_without_a_template_reports_the_key_to_set(opened, tokenizer_dir, tmp_path):
    bare = shutil.copytree(tokenizer_dir, tmp_path / "bare", ignore=shutil.ignore_patterns("*.jinja"))
    assert message(opened, f"model.path={bare}") == (
        f"model.path='{bare}' has no chat template of its own: set prompt.chat_template=<file>"
    )


def test_a_missing_model_directory_is_named(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("data/none", f"{tmp_path}/none", "./none"):
        text = f"model.path={path!r}: there is no such directory (seen from {tmp_path})"
        assert message(opened, f"model.path={path}") == text


def test_a_directory_without_a_tokenizer_is_reported_with_the_fix(opened, tmp_path):
    text = message(opened, f"model.path={tmp_path}")
    assert text.startswith(f"model.path='{tmp_path}': no tokenizer can be loaded (Couldn't instantiate the backend ")
    assert text.endswith("): put tokenizer.json and tokenizer_config.json there")


def test_a_directory_with_only_a_config_has_no_vocabulary(opened, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    assert message(opened, f"model.path={tmp_path}") == (
        f"model.path='{tmp_path}': its tokenizer has no vocabulary: put tokenizer.json and tokenizer_config.json there"
    )


def test_a_damaged_tokenizer_is_named(opened, tokenizer_dir, tmp_path):
    broken = shutil.copytree(tokenizer_dir, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    assert message(opened, f"model.path={broken}").startswith(f"model.path='{broken}': no tokenizer can be loaded (")


def test_a_tokenizer_that_is_code_requires_trust_remote_code(opened, tmp_path):
    auto_map = {"auto_map": {"AutoTokenizer": ["tok.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(auto_map))
    assert message(opened, f"model.path={tmp_path}") == (
        f"model.path='{tmp_path}': its tokenizer is Python code: if you trust it, set model.trust_remote_code=true"
    )


def test_an_unreachable_hub_is_one_line_with_the_fix(opened, hub):
    hub.stop()
    assert message(opened, "model.path=Qwen/Qwen3.6-35B-A3B", "model.revision=v1") == (
        "model.path='Qwen/Qwen3.6-35B-A3B' model.revision='v1': the hub cannot be reached and the cache holds no copy. "
        "Put a copy of the model in a directory and set model.path=<dir>"
    )


def test_only_the_tokenizer_of_a_hub_model_is_downloaded_and_its_commit_is_recorded(opened, hub, tokenizer_dir):
    hub.files.update({file.name: file.read_bytes() for file in tokenizer_dir.iterdir()})
    hub.files.update({"model.safetensors": b"weights", "modeling.py": b"raise SystemExit"})
    chat = opened("model.path=org/model")
    assert (chat.revision, chat.render(HELLO)[:16]) == (hub.commit, "<|im_start|>user")
    assert not [path for path in hub.paths if path.endswith((".safetensors", ".py"))]


def test_a_template_with_half_of_a_character_in_the_tokenizers_json_is_refused(tokenizer_dir, tmp_path, arguments):
    model = shutil.copytree(tokenizer_dir, tmp_path / "half")
    (model / "chat_template.jinja").unlink(missing_ok=True)
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": "{{ messages }}\ud800"}))
    with pytest.raises(ModelError, match="half of a character"):
        open_chat(compose([*arguments, f"model.path={model}"]))
