"""Chat templates: each row is rendered with its own text, or failed with a reason; or the template is refused."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from builders import ROOT
from faults import fuzzing
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.prepare.chat_template import Chat, open_chat
from pipeline.prepare.dataset import find_source
from pipeline.prepare.stage import Inputs, prepare
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

QUESTIONS = ["Что?", "{{ 7 * 7 }} {% raw %} <|im_end|>", "Длинный\n\nвопрос", "плохо", "🌱 é \u202e"]

pieces = st.sampled_from(
    [
        *("{% for m in messages %}", "{% endfor %}", "{% for p in m.content %}", "{{ p.text }}", "{{ m.content }}"),
        *("{{ m['content'] | trim }}", "{{ m.content | upper }}", "{{ m.content[:3] }}", "{{ m['role'] }}"),
        *("{{ messages[0]['content'] }}", "{{ messages[0].content }}", "{{ messages[-1].content | tojson }}"),
        *("{% if add_generation_prompt %}", "{% endif %}", "{% if messages|length > 1 %}", "{% else %}"),
        *("{{ raise_exception('нет') }}", "{{ raise_exception('x' * 100000) }}", '{{ raise_exception("\\ud800") }}'),
        *("{{ 1 // 0 }}", "{{ undefined_name.x }}", "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"),
        *("{% if 'плохо' in messages[0].content %}{{ raise_exception('слово') }}{% endif %}",),
        *(
            "{% set x = namespace(v='') %}",
            "{% set x.v = m.content %}",
            "{{ x.v }}",
            "{{ '\\ud800' }}",
            "{{ '\\x00' }}",
        ),
        *(
            "{% macro f(a) %}",
            "{% endmacro %}",
            "{{ f(messages[0].content) }}",
            "{% include 'x' %}",
            "{% extends 'x' %}",
        ),
        *("{{ 'x' * 1000 }}", "{{ '%s' % (1,) }}", "{{ strftime_now('%Y') }}", "{{ bos_token }}", "{{ tools }}"),
        *("{% generation %}", "{% endgeneration %}", "{% break %}", "{#", "#}", "{%", "}}", "{{", "{{ '((((' }}"),
        *(
            "<|im_start|>",
            "<think>\n",
            "{{- '\\n' -}}",
            "\ufeff",
            "\r\n",
            "{{ enable_thinking }}",
            "{{ range(3) | list }}",
        ),
    ]
)
USUAL = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
templates = (
    st.lists(pieces | fuzzing.texts, max_size=10).map("".join)
    | st.tuples(st.lists(pieces, max_size=3), st.lists(pieces, max_size=3)).map(
        lambda both: "".join(both[0]) + USUAL + "".join(both[1])
    )
    | fuzzing.damaged(USUAL.encode()).map(lambda data: data.decode("utf-8", "surrogateescape"))
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    directory = tmp_path_factory.mktemp("templates")
    rows = [
        {"instruction": "{q}", "inputs": {"q": text}, "outputs": "A", "meta": {"id": number}}
        for number, text in enumerate(QUESTIONS)
    ]
    (directory / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    conf = directory / "one.yaml"
    conf.write_text(
        f"tasks: {{agro: {{dataset: {directory / 'test.jsonl'}, domain: agriculture}}}}\n"
        "generation: {max_gen_toks: 100}\nsplits: [test]\nmodel: {context_size: 1000}\n"
    )
    return compose([f"conf={conf}", f"model.path={ROOT / 'data/demo/model'}"])


@pytest.fixture(scope="module")
def chat(config: Config) -> Chat:
    return open_chat(config)


@fuzzing.fuzzed(25)
@given(template=templates)
@example(template="{{ '\\ud800' }}")
@example(template="{{ raise_exception('\\ud800') }}")
def test_a_template_renders_each_row_fails_it_or_is_refused(config: Config, chat: Chat, template: str) -> None:
    template = template.encode("utf-8", "replace").decode()  # others are refused before

    def prepared() -> list[dict[str, object]]:
        with tempfile.TemporaryDirectory() as directory:
            run = ArtifactStore.open(directory)
            sources = [find_source(name, task, config.splits) for name, task in config.active_tasks.items()]
            prepare(config, run, Inputs(sources, replace(chat, template=template)))
            found = run.require_artifact("prompts", PROMPT_SCHEMA).dataset().to_table().to_pylist()
        return list(found)

    rows = fuzzing.result_or_line(prepared)
    if rows is None:
        return
    assert [row["id"] for row in rows] == list(range(len(QUESTIONS)))
    for row, question in zip(rows, QUESTIONS, strict=True):
        if row["error"] is not None:
            assert 0 < len(str(row["error"])) < fuzzing.LONGEST_LINE
        else:
            assert "".join(question.split()) in "".join(str(row["prompt"]).split())
            assert len(row["prompt_token_ids"]) == row["num_prompt_tokens"] > 0  # type: ignore[arg-type]


@fuzzing.fuzzed(15)
@given(content=st.binary(max_size=30) | fuzzing.damaged(USUAL.encode()))
def test_a_template_file_is_read_or_refused(
    config: Config, tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file: Path = tmp_path_factory.getbasetemp() / "t.jinja"
    file.write_bytes(content)
    prompt = replace(config.prompt, chat_template=str(file))
    found = fuzzing.result_or_line(lambda: open_chat(replace(config, prompt=prompt)))
    assert found is None or found.template == content.decode("utf-8-sig")
