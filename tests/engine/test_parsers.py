"""vLLM's own reasoning parsers with the demo's tokenizer and template. No engine is started."""

from __future__ import annotations

import subprocess
import sys

import pytest
from builders import ROOT, command

from pipeline import preview
from pipeline.config.loading import compose
from pipeline.errors import ConfigError
from pipeline.generate.engines.reasoning import parser_of
from pipeline.prepare.chat_template import open_chat
from pipeline.prepare.checks.parser_facts import ParserFacts, parser_facts

pytestmark = [
    pytest.mark.usefixtures("at_root"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, when vllm imports it
]

OFF = "prompt.template_kwargs.enable_thinking=false"
STOP = "generation.until=['<|im_start|>']"


def facts(*overrides: str) -> ParserFacts:
    config = compose(["conf=demo", *overrides])
    tokenizer = open_chat(config).tokenizer
    return parser_facts(parser_of(config, tokenizer), tokenizer)


def check_names(printed: str) -> list[str]:
    return [line.split()[1].rstrip(":") for line in printed.splitlines() if line.startswith("check ")]


def test_the_behaviour_of_a_parser_is_found_by_running_it() -> None:
    found = facts()
    assert (found.start, found.end, found.missing) == ("<think>", "</think>", [])
    assert (found.takes_plain, found.takes_opened, found.takes_whole, found.refusal) == (False, True, True, None)
    assert not found.drops_special_tokens
    assert facts(OFF).takes_plain
    assert not facts(OFF, "reasoning_parser=deepseek_r1").takes_plain
    assert facts("reasoning_parser=deepseek_r1").drops_special_tokens
    assert facts("reasoning_parser=gemma4").missing == ["<|channel>", "<channel|>"]
    assert "NotImplementedError" in (facts("reasoning_parser=openai_gptoss").refusal or "")


def test_a_parser_that_a_run_rejects_is_rejected_with_the_same_message() -> None:
    with pytest.raises(ConfigError, match=r"reasoning_parser='qwen' is not known to vLLM: choose of .*qwen3"):
        facts("reasoning_parser=qwen")
    with pytest.raises(ConfigError, match="reasoning_parser='minimax_m3' does not fit the model"):
        facts("reasoning_parser=minimax_m3")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), ["short-thinking"]),
        ((OFF,), []),
        ((OFF, "reasoning_parser=deepseek_r1"), ["parser-takes-answers"]),
        (("reasoning_parser=gemma4",), ["parser-mismatch", "short-thinking"]),
        (("reasoning_parser=deepseek_r1", STOP), ["stop-never-matches", "short-thinking"]),
        (("reasoning_parser=qwen3", STOP), ["short-thinking"]),
    ],
)
def test_the_checks_of_the_demo_use_the_parser(
    overrides: tuple[str, ...], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    preview.main(["conf=demo", "n=0", "limit=2", *overrides])  # in this process vLLM is imported only once
    printed = capsys.readouterr()
    assert printed.err == ""
    assert check_names(printed.out) == expected


def test_the_preview_command_prints_the_checks_and_no_output_of_vllm() -> None:
    done = command("pipeline.preview", "conf=demo", "n=0", "limit=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert check_names(done.stdout) == ["short-thinking"]


def test_without_vllm_the_parser_is_reported_as_unchecked() -> None:
    code = (
        "import sys\nsys.modules['vllm'] = None\nfrom pipeline import preview\n"
        "preview.main(['conf=demo', 'n=0', 'limit=1'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "reasoning_parser='qwen3' is not checked: vllm cannot be imported here" in done.stdout
    assert "skip_special_tokens  unknown" in done.stdout
