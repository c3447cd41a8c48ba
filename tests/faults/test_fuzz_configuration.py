"""Configuration words and files: a configuration that says what was written, or a line with key, value and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import ENDPOINT, ROOT
from faults import fuzzing
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import COMMANDS, help_text, parse
from pipeline.config.loading import compose, describe, dump, load, plain
from pipeline.config.plain_yaml import value as at
from pipeline.config.schema import Config

KEYS = [key.replace("<name>", "agro_bench") for key, *_ in describe()]
WORDS = ["true", "false", "null", "~", "0", "1", "-1", "1.5", "1e3", "1e400", "nan", ".inf", "0123", "0x10", "1_000"]
WORDS += [
    "no",
    "yes",
    "auto",
    "[a, b]",
    "[1, [2]]",
    "{a: 1}",
    "{a: {b: c}}",
    "[",
    "{",
    "a: b",
    "!!set {a}",
    "*a",
    "???",
]
WORDS += [
    "1.10",
    "${x}",
    "${oc.env:HOME}",
    "=",
    "a=b",
    "~nosuchuser/x",
    "/",
    "x" * 5_000,
    "9" * 400,
    "2026-11-28",
    "'",
    '"',
]

keys = st.sampled_from(KEYS) | st.sampled_from(KEYS).map(lambda key: key[:-1]) | fuzzing.texts
words = st.builds("{}={}".format, keys, st.sampled_from(WORDS) | fuzzing.texts)


def require_stable(config: Config) -> None:
    """Check that the configuration that a run records reads back the same."""
    assert plain(load(dump(config), "config.yaml")) == plain(config)


@fuzzing.fuzzed(30)
@given(arguments=st.lists(words | fuzzing.texts, min_size=1, max_size=3))
@pytest.mark.usefixtures("at_root_once")
def test_words_are_a_configuration_or_a_line(arguments: list[str]) -> None:
    config = fuzzing.result_or_line(lambda: compose(["conf=demo", *ENDPOINT, *arguments]))
    if config is not None:
        require_stable(config)


TEXT_KEYS = ["model.revision", "model.name", "submission.team", "prompt.system", "tasks.agro_bench.domain", "run_id"]
NUMBER_KEYS = ["limit", "seed", "generation.max_gen_toks", "generation.repeats", "engine.endpoint.max_retries"]


@fuzzing.fuzzed(12)
@given(key=st.sampled_from([key for key in TEXT_KEYS if key in KEYS]), text=st.sampled_from(WORDS) | fuzzing.texts)
@pytest.mark.usefixtures("at_root_once")
def test_a_text_is_kept_as_it_is_written(key: str, text: str) -> None:
    config = fuzzing.result_or_line(lambda: compose(["conf=demo", *ENDPOINT, f"{key}={text}"]))
    if config is not None:
        require_stable(config)
        found = at(plain(config), *key.split("."))
        assert found == (None if text in ("null", "Null", "NULL", "~") else text)


@fuzzing.fuzzed(30)
@given(
    key=st.sampled_from(NUMBER_KEYS),
    text=st.sampled_from(WORDS) | st.integers(-(2**70), 2**70).map(str) | fuzzing.texts,
)
@pytest.mark.usefixtures("at_root_once")
def test_a_number_is_the_one_that_is_written(key: str, text: str) -> None:
    config = fuzzing.result_or_line(lambda: compose(["conf=demo", *ENDPOINT, f"{key}={text}"]))
    found = None if config is None else at(plain(config), *key.split("."))
    if found is not None:
        assert found == float(text)


files = (
    st.builds(
        lambda values: yaml.safe_dump(values, allow_unicode=True),
        fuzzing.values(st.none() | st.booleans() | st.text(max_size=9)),
    )
    | st.lists(
        st.builds(
            "{}: {}".format,
            st.sampled_from(KEYS).map(lambda key: key.partition(".")[0]),
            st.sampled_from(WORDS) | fuzzing.texts,
        ),
        max_size=3,
    ).map("\n".join)
    | fuzzing.damaged(
        b"base: [tasks/demo]\nmodel: {revision: 0123}\ngeneration: {max_gen_toks: 192, until: [x]}\nseed: 1\n"
    ).map(lambda data: data.decode("utf-8", "surrogateescape"))
)


@fuzzing.fuzzed(30)
@given(text=files)
@pytest.mark.usefixtures("at_root_once")
def test_a_file_is_a_configuration_or_a_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file: Path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    config = fuzzing.result_or_line(lambda: compose([f"conf={file}", *ENDPOINT]))
    if config is not None:
        require_stable(config)


@fuzzing.fuzzed(30)
@given(
    text=files
    | fuzzing.damaged(b"conf: demo\nseed: 1\ngeneration: {max_gen_toks: 192}\n").map(
        lambda data: data.decode("latin-1")
    )
)
def test_a_recorded_configuration_is_read_or_a_line(text: str) -> None:
    whole = text.encode("utf-8", "replace").decode()
    config = fuzzing.result_or_line(lambda: load(whole, "config.yaml"))
    if config is not None:
        require_stable(config)


own = st.sampled_from([each.name for command in COMMANDS.values() for each in command.arguments])


@fuzzing.fuzzed(50)
@given(
    name=st.sampled_from(list(COMMANDS)),
    arguments=st.lists(st.builds("{}={}".format, own, st.sampled_from(WORDS) | fuzzing.texts) | words, max_size=4),
)
def test_arguments_of_a_command_are_parsed_or_a_line(name: str, arguments: list[str]) -> None:
    found: Any = fuzzing.result_or_line(lambda: parse(name, arguments))
    assert found is None or isinstance(found[0], dict)
    assert help_text(name)


@pytest.fixture(scope="module")
def at_root_once() -> Any:
    """Change to the project's directory for the module, where conf=demo is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield
