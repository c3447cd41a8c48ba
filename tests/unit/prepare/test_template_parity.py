"""Compares our rendering with that of transformers, and the fingerprint with changes of the template's source.

The two implementations share only the function that runs Jinja. Ours reads the template from a file through
`prompt.chat_template` and its variables from the configuration, renders text and tokenizes it. The reference is a model
directory with the template in it, loaded and rendered to tokens by transformers alone. The test fails on a modified
template, a lost variable, a missing generation prompt or an extra special token.
"""

import json
import re
import shutil

import pytest
from builders import ROOT, printed_template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.lexer import Lexer
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipeline.config.loading import compose
from pipeline.prepare.chat_template import TemplateFailed, open_chat
from pipeline.prepare.template_fingerprint import template_fingerprint
from pipeline.prepare.template_probes import TOOLS

OWN = (ROOT / "tests/unit/prepare/long_template.jinja").read_text(encoding="utf-8").rstrip()
SWITCHES = ({}, {"enable_thinking": True}, {"enable_thinking": False})
SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=["own", "printed"])
def template(request):
    found = OWN if request.param == "own" else printed_template()
    return found if found is not None else pytest.skip("the submission's form is not beside the project")


@pytest.fixture(scope="module")
def open_template(tmp_path_factory):
    """Return a function that opens a template through prompt.chat_template, with the demo's tokenizer."""
    directory = tmp_path_factory.mktemp("templates")
    conf, file = directory / "one.yaml", directory / "t.jinja"
    conf.write_text("tasks: {agro: {dataset: x, domain: d}}\ngeneration: {max_gen_toks: 1}\n")

    def go(template, model=ROOT / "data/demo/model", **switches):
        file.write_bytes(template.encode("utf-8"))
        overrides = [f"prompt.chat_template={file}", f"prompt.template_kwargs={json.dumps(switches)}"]
        return open_chat(compose([f"conf={conf}", f"model.path={model}", *overrides]))

    return go


@pytest.fixture(scope="module")
def theirs(template, tokenizer_dir, tmp_path_factory):
    """The tokenizer of a model whose own template is `template`, with rendered white space around it."""
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(tokenizer_dir, directory)
    (directory / "chat_template.jinja").write_bytes(framed(template).encode("utf-8"))
    return AutoTokenizer.from_pretrained(directory)


def framed(template):
    return f" \n{{{{ eos_token }}}}\n{template}\n\n end \n"


snippets = st.sampled_from(
    ["<think>", "</think>", "<|im_end|>", "<tool_response>", "</tool_response>", "{{ x }}", "\n\n", "  ", "\t", "почва"]
)
words = st.text("абвABC \n<>{}%'\"\\&é漢🌱", max_size=12)
texts = st.lists(st.one_of(words, snippets), max_size=4).map("".join)
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
contents = st.one_of(texts, parts)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(texts, inner, max_size=2)),
    max_leaves=4,
)
calls = st.lists(
    st.fixed_dictionaries({"name": texts, "arguments": st.dictionaries(texts, values, max_size=3)}).flatmap(
        lambda call: st.sampled_from([call, {"type": "function", "function": call}])
    ),
    min_size=1,
    max_size=2,
)


@st.composite
def turns(draw):
    """Return a question, optional tool calls with their results, and an answer with optional reasoning."""
    messages = [{"role": "user", "content": draw(contents)}]
    if draw(st.booleans()):
        called = {"role": "assistant", "content": draw(st.one_of(contents, st.none())), "tool_calls": draw(calls)}
        messages += [called, *({"role": "tool", "content": draw(contents)} for _ in called["tool_calls"])]
    answer = {"role": "assistant", "content": draw(contents)}
    if draw(st.booleans()):
        answer["reasoning_content"] = draw(texts)
    return [*messages, answer]


@st.composite
def conversations(draw):
    """Return a conversation that the template can render: an optional system message, turns and a final question."""
    system = [{"role": "system", "content": draw(contents)}] if draw(st.booleans()) else []
    history = [message for turn in draw(st.lists(turns(), max_size=3)) for message in turn]
    last = {"role": "user", "content": draw(words)}
    return [*system, *history, last]


def outcome(render):
    try:
        return render()
    except Exception as error:
        return str(error if not isinstance(error, TemplateFailed) else error.__cause__), "raised"


def test_our_rendering_equals_that_of_transformers_on_at_least_200_conversations(
    template, open_template, theirs, tokenizer_dir
):
    chats = [open_template(framed(template), tokenizer_dir, **switches) for switches in SWITCHES]
    rendered = set()

    @settings(SLOW, max_examples=300)
    @given(conversations(), st.sampled_from(range(len(SWITCHES))), st.sampled_from([None, TOOLS]))
    def agree(messages, number, tools):
        chat, switches = chats[number], SWITCHES[number]
        stored = json.loads(json.dumps(messages, ensure_ascii=False))  # as stored in prompts/

        def ours():
            if tools is None:
                text = chat.render(stored)
            else:
                text = chat.apply(stored, tools=tools, add_generation_prompt=True, **switches)
            return text, chat.encode([text])[0]

        def reference():
            apply, common = theirs.apply_chat_template, {"tools": tools, "add_generation_prompt": True, **switches}
            return apply(messages, tokenize=False, **common), apply(messages, return_dict=False, **common)

        both = outcome(ours), outcome(reference)
        assert both[0] == both[1]
        if both[1][1] != "raised":
            rendered.add(json.dumps([messages, number, tools]))

    agree()
    assert len(rendered) >= 200


@pytest.mark.skipif(printed_template() is None, reason="the submission's form is not beside the project")
def test_the_expected_fingerprint_in_conf_is_that_of_the_printed_template(open_template):
    expected = compose(["conf=mera"]).prompt
    assert expected.expected_fingerprint == template_fingerprint(open_template(printed_template()))
    assert expected.fingerprint_policy == "error"


GAP = re.compile(r"(?<=[%}#]\})\s*(?=\{[{%#]-)")
INSIDE = re.compile(r"(?<=\{[{%]-)\s+")


def test_white_space_between_and_inside_the_tags_does_not_change_the_fingerprint(template, open_template):
    before = template_fingerprint(open_template(template))
    assert template_fingerprint(open_template(template.replace("\n", " "))) == before

    @settings(SLOW, max_examples=12)
    @given(st.data())
    def unchanged(data):
        spaces = st.sampled_from([" ", "\n", "\n    ", "\t", "\r\n", "\n\n"])
        laid_out = GAP.sub(lambda _: data.draw(spaces), INSIDE.sub(lambda _: data.draw(spaces), template))
        assert template_fingerprint(open_template(laid_out)) == before

    unchanged()


def printed_characters(template):
    """Return the positions of the characters in the source that the template prints literally.

    These are in the strings inside every `{{ }}` that does not call raise_exception; escapes such as \\n are excluded.
    """
    found, block, position = [], [], 0
    lexer = Lexer(ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True))
    for _, kind, value in lexer.tokeniter(template, None):
        position = template.index(value, position)
        if kind == "variable_begin":
            block, raises = [], False
        elif kind == "name" and value == "raise_exception":
            raises = True
        elif kind == "string":
            letters = re.finditer(r"\\.|([^'\"])", value)
            block += [position + letter.start() for letter in letters if letter[1]]
        elif kind == "variable_end" and not raises:
            found += block
        position += len(value)
    return found


def test_one_printed_character_changes_the_fingerprint(template, open_template):
    before = template_fingerprint(open_template(template))
    places = printed_characters(template)
    assert len(places) > 200

    @settings(SLOW, max_examples=20)
    @given(st.sampled_from(places), st.sampled_from("Ж7q"))
    def changed(place, other):
        letter = other if template[place] != other else "_"
        assert template_fingerprint(open_template(template[:place] + letter + template[place + 1 :])) != before

    changed()


def test_a_date_in_the_template_does_not_change_the_fingerprint_between_days(open_template):
    dated = template_fingerprint(open_template("{{ strftime_now('%d.%m.%Y %H:%M') }}"))
    assert dated == template_fingerprint(open_template("03.02.2001 04:05"))
    assert open_template("{{ strftime_now('%Y') }}").render([{"role": "user", "content": ""}]) != "2001"


def test_the_fingerprint_depends_on_whether_a_template_raises_and_not_on_the_message(open_template):
    def of(refusal):
        return template_fingerprint(open_template("{% if tools %}" + refusal + "{% endif %}" + "ok"))

    assert of("{{ raise_exception('no tools') }}") == of("{{ raise_exception('tools: none') }}") == of("{{ 1 / 0 }}")
    assert len({of(""), of("no tools"), of("{{ raise_exception('no tools') }}")}) == 3


@pytest.mark.parametrize(
    ("text", "is_same"), [("<|im_start|>{{ messages[0].content }}", True), ("{{ pad_token }}", False)]
)
def test_the_tokenizer_matters_only_when_the_template_writes_its_special_tokens(
    open_template, tokenizer_dir, text, is_same
):
    here = template_fingerprint(open_template(text))
    assert (template_fingerprint(open_template(text, model=tokenizer_dir)) == here) is is_same


def test_template_kwargs_do_not_change_the_fingerprint(open_template):
    chats = [open_template(OWN, **switches) for switches in SWITCHES]
    assert len({template_fingerprint(chat) for chat in chats}) == 1


def test_the_probes_have_not_changed_since_the_fingerprints_in_conf_were_computed():
    """Changing the probes changes every fingerprint in conf/ and in existing manifests: announce it."""
    conf = compose(["conf=demo", f"model.path={ROOT}/data/demo/model"])
    assert template_fingerprint(open_chat(conf)) == (
        "sha256:f0d2b91ba53844bd61a20aa4c34c1197878c34117ee6c8dfaed6fb79dd5d3024"
    )
