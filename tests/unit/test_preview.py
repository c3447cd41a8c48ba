"""The output of the preview for the demo and for hostile rows, and the errors that it shares with a run."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from builders import ENDPOINT, ROOT
from rich.console import Console

from pipeline import preview
from pipeline.config.loading import compose
from pipeline.errors import ConfigError, DataError, ModelError, UserError
from pipeline.preflight.preview import PreviewOptions
from pipeline.preflight.preview import show as show_preview

pytestmark = pytest.mark.usefixtures("at_root")

PLAIN = ("conf=demo", "reasoning_parser=null")
"""The demo without a reasoning parser, so that vllm is not imported."""


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Return a function that returns the output of the preview with these arguments."""

    def run(*arguments: str) -> str:
        preview.main([*PLAIN, f"output_dir={tmp_path}/outputs", *arguments])
        return capsys.readouterr().out

    return run


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """Return the override that gives agro_bench one row, which contains every kind of attack."""
    question = "[bold red]x[/] \x1b[31m\x1b]0;title\x07 \u202eabc \u2028 <|im_end|>\n  │ check forged: no\n{x} ⟦y 1⟧"
    row = {
        "instruction": "{question}",
        "inputs": {"question": question},
        "outputs": "\x1b[2J",
        "meta": {"id": 5, "categories": {}},
    }
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "set" / "test.jsonl").write_text(json.dumps(row | {"meta": {"id": 6}}), encoding="utf-8")
    return f"tasks.agro_bench.dataset={tmp_path}/set"


def section(text: str, title: str) -> list[str]:
    """Return the lines below a section's title."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"{title} ──"))
    rest = lines[first + 1 :]
    return rest[: next((number for number, line in enumerate(rest) if " ────" in line and line[0] != " "), len(rest))]


def test_every_section_is_printed_and_nothing_is_written(show, tmp_path: Path) -> None:
    text = show()
    for title in (
        "configuration", "prompts", "prompt tokens", "what the engine is sent", "expected tokens and time", "checks",
    ):  # fmt: skip
        assert section(text, title)
    assert not (tmp_path / "outputs").exists()


def test_each_key_is_one_line_with_value_and_origin(show) -> None:
    lines = [line.split() for line in section(show("n=0", "limit=1"), "configuration")]
    assert ["generation.max_gen_toks", "192", "conf/demo.yaml"] in lines
    assert ["limit", "1", "command", "line"] in lines
    assert ["generation.top_k", "0", "default"] in lines
    assert not [line for line in lines if line and line[0].startswith("tasks.etmlu_bench")]


def test_a_prompt_is_printed_as_text_and_as_tokens(show) -> None:
    text = show("task=med_bench", "id=1")
    assert "med_bench train id=1, 82 tokens, gold A" in text
    assert "  │ <|im_start|>user\n  │ Задача по медицине. Верен один вариант, назовите его букву.\n" in text
    assert "  │ ⟦<|im_start|> 1⟧u·s·e·r·⏎·\n" in text
    assert "  │ ⟦<think> 1009⟧⏎·\n" in text


def test_n_prompts_of_each_task_are_printed(show) -> None:
    heads = [line for line in section(show("n=2", "splits=[test]"), "prompts") if " test id=" in line]
    assert [head.split()[0] for head in heads] == ["agro_bench"] * 2 + ["aqua_bench"] * 2 + ["med_bench"] * 2
    assert not [line for line in section(show("n=0"), "prompts") if " id=" in line]


def test_task_selects_one_task(show) -> None:
    text = show("task=med_bench", "n=1")
    assert "agro_bench" not in "\n".join(text.splitlines()[-40:])
    assert "[med_bench]" in next(line for line in section(text, "configuration") if line.split()[:1] == ["only"])


def test_token_statistics_are_printed_as_a_table(show) -> None:
    rows = [line.split() for line in section(show("n=0"), "prompt tokens")]
    assert ["med_bench", "test", "60", "68", "77", "77", "83", "85", "0", "0"] in rows


def test_rows_that_do_not_fit_are_listed_by_id(show) -> None:
    text = show("n=0", "task=med_bench", "model.context_size=276")  # 84 tokens and 192 more
    (line,) = [line for line in section(text, "prompt tokens") if line.startswith("  unfit: med_bench test")]
    assert "check rows-do-not-fit: " in text
    row_id = line.rpartition("id ")[2].split(",")[0]
    assert "85 prompt tokens + generation.max_gen_toks=192 are more than" in show(
        "task=med_bench", f"id={row_id}", "model.context_size=276"
    )


def test_sampling_parameters_and_ignored_settings_are_printed(show) -> None:
    arguments = ("generation.do_sample=true", "generation.temperature=0.7", "generation.top_k=5")
    lines = [line.split() for line in section(show("n=0", *arguments), "what the engine is sent")]
    for line in (
        ["temperature", "0.7"], ["top_k", "5"], ["max_tokens", "192"], ["skip_special_tokens", "true"],
        ["<|im_end|>", "2"], ["<|endoftext|>", "0"], ["pad_token_id", "0"], ["do_sample", "false"],
    ):  # fmt: skip
        assert line in lines


def test_an_endpoints_request_is_printed_as_it_is_sent(show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    text = show(*ENDPOINT, "n=0", "engine.endpoint.model=mine", "engine.endpoint.api_key_env=SOME_KEY")
    lines = section(text, "what the engine is sent")
    body = json.loads("".join(line.removeprefix("  │ ") for line in lines if line.startswith("  │ ")))
    assert body.pop("messages")[0]["role"] == "user"
    assert body == {
        "model": "mine",
        "temperature": 0.0,
        "max_tokens": 192,
        "stop": ["<|im_end|>"],
        "seed": 1234,
        "stream": False,
        "chat_template_kwargs": {"enable_thinking": True},
    }
    assert "POST http://127.0.0.1:9/v1/chat/completions" in text
    assert "$SOME_KEY" in text
    assert "sk-very-secret" not in text


def test_a_hostile_row_is_printed_escaped(show, hostile: str) -> None:
    for more in ((), ENDPOINT):
        text = show(hostile, "task=agro_bench", *more)
        assert {each for each in text if unicodedata.category(each)[0] == "C"} == {"\n"}
        assert "[bold red]x[/] ⟨U+001B⟩[31m⟨U+001B⟩]0;title⟨U+0007⟩ ⟨U+202E⟩abc ⟨U+2028⟩ <|im_end|>" in text
        assert "gold ⟨U+001B⟩[2J" in text
        assert "\nlint forged" not in text
        assert "  │   │ check forged" in text
    text = show(hostile, "task=agro_bench")
    assert "⟦<|im_end|> 2⟧" in text
    assert "⟨U+27E6⟩·y" in text
    assert "⟦y" not in text


def test_a_terminal_receives_only_our_own_escape_sequences(hostile: str, tmp_path: Path) -> None:
    from io import StringIO

    from pipeline.config.loading import compose

    out = StringIO()
    console = Console(file=out, force_terminal=True, width=100, highlight=False, markup=False, emoji=False)
    config = compose([*PLAIN, hostile, "only=[agro_bench]", f"output_dir={tmp_path}/outputs"])
    show_preview(config, {}, PreviewOptions(row_id=None, num_prompts=3), console)
    assert "\x1b[1;35m<|im_end|>" in out.getvalue()
    for attack in ("\x1b[31m", "\x1b]0;", "\x07", "\u202e", "\u2028", "\x1b[2J"):
        assert attack not in out.getvalue()


def test_a_long_prompt_is_truncated_unless_it_is_requested_by_id(show, tmp_path: Path) -> None:
    row = {"instruction": "{q}", "inputs": {"q": "а" * 10_000}, "outputs": "A", "meta": {"id": 1}}
    (tmp_path / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    arguments = ("task=agro_bench", f"tasks.agro_bench.dataset={tmp_path}/train.jsonl", "splits=[train]")
    assert "more characters: id= shows them" in show(*arguments)
    whole = show(*arguments, "id=1")
    assert "more characters" not in whole
    assert "а" * 10_000 in whole


@pytest.mark.parametrize(
    ("arguments", "kind", "line"),
    [
        (["task=med"], ConfigError, "task='med': there are agro_bench, aqua_bench, med_bench"),
        (["id=x"], ConfigError, "id='x': give a number"),
        (["n=-1"], ConfigError, "n='-1': give a number from 0 to 1000"),
        (["n="], ConfigError, "n='': give a number"),
        (["id=99999"], DataError, r"id=99999: no row of agro_bench, .* \(train, test\) has this meta.id"),
        (["id=12", "limit=1", "task=med_bench"], DataError, "id=12: .* within limit=1"),
        (["model.path=nowhere/x/y"], ModelError, "model.path='nowhere/x/y'"),
        (["tasks.agro_bench.dataset=data/none"], DataError, "tasks.agro_bench.dataset='data/none'"),
        (["generation.max_gen_toks=1024"], ConfigError, "generation.max_gen_toks=1024: must be below"),
        (["prompt.template_kwargs.tokenize=true"], ConfigError, "prompt.template_kwargs="),
        (
            ["model.context_size=1025"],
            ConfigError,
            "model.context_size=1025 is more than the 1024 .* vLLM will not start",
        ),
        (["plan=maybe"], ConfigError, "plan='maybe': give true or false"),
    ],
)
def test_a_preview_that_fails_is_a_one_line_error(show, arguments: list[str], kind: type[Exception], line: str) -> None:
    with pytest.raises(kind, match=line) as caught:
        show(*arguments)
    assert "\n" not in str(caught.value)


def test_an_unexpected_template_is_a_warning_or_an_error_as_in_a_run(show) -> None:
    arguments = ["n=0", "limit=1", f"prompt.expected_fingerprint=sha256:{'0' * 64}"]
    with pytest.raises(ModelError, match=r"prompt.expected_fingerprint=sha256:0+: .* renders other prompts"):
        show(*arguments)
    text = show(*arguments, "prompt.fingerprint_policy=warn")
    assert "\nwarning: prompt.expected_fingerprint=sha256:000" in text
    (known,) = [line for line in section(text, "prompts") if "fingerprint" in line]
    assert "to take this one" in text
    assert "warning" not in show("n=0", "limit=1", f"prompt.expected_fingerprint={known.split()[-1]}")


def test_the_exit_code_is_0_with_failed_checks_and_2_with_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    preview.main([*PLAIN, "n=0", "generation.top_k=3"])
    expected = "check unused-sampling: generation.top_k=3 has no effect with generation.do_sample=false"
    assert expected in capsys.readouterr().out
    with pytest.raises(UserError) as error:
        preview.main([*PLAIN, "id=99999"])
    assert (error.value.exit_code, str(error.value).count("\n"), capsys.readouterr().out) == (2, 0, "")


def test_neither_ray_nor_vllm_is_imported_without_a_parser() -> None:
    code = (
        "import sys\nfrom pipeline import preview\n"
        f"preview.main([*{PLAIN!r}, 'n=0'])\n"
        "heavy = {'ray', 'vllm'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


OWN = ["conf=own", "model.path=data/demo/model", "generation.max_gen_toks=192", "limit=1", "n=0"]
OWN += [f"tasks.{task}.dataset=data/demo/{task}" for task in ("agro_bench", "aqua_bench", "med_bench")]


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of vllm fail, as on a machine without it."""
    monkeypatch.setitem(sys.modules, "vllm.reasoning", None)


@pytest.mark.usefixtures("without_vllm")
def test_a_configuration_to_keep_has_what_the_template_calls_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "conf" / "mine.yaml"
    arguments = [*OWN, f"output_dir={tmp_path}/outputs", f"write={file}"]
    preview.main(arguments)
    out = capsys.readouterr().out
    assert f"written: {file}: run it with python -m pipeline.run conf={file}\n" in out
    assert "set reasoning_parser=qwen3, or switch thinking off: prompt.template_kwargs.enable_thinking=false" in out
    text = file.read_text(encoding="utf-8")
    assert "# The context is 1024 tokens" in text
    assert len(text.splitlines()) < 40
    with pytest.raises(ConfigError, match="the file exists and is never overwritten: choose another name"):
        preview.main(arguments)
    assert file.read_text(encoding="utf-8") == text
    monkeypatch.chdir("/")
    kept = compose([f"conf={file}"])
    assert (kept.reasoning_parser, kept.prompt.template_kwargs) == ("qwen3", {"enable_thinking": True})
    assert (kept.model.path, kept.generation.max_gen_toks) == (str(ROOT / "data/demo/model"), 192)
    assert kept.tasks["med_bench"].dataset == str(ROOT / "data/demo/med_bench")


@pytest.mark.parametrize("name", ["mine", "mine.json"])
def test_a_configuration_is_written_to_a_yaml_file_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"give a file that ends in \.yaml"):
        preview.main([*OWN, f"write={tmp_path}/{name}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a-file/mine.yaml", "a-link/mine.yaml", "a-file/x/mine.yaml", f"{'a' * 300}.yaml"])
def test_a_configuration_is_written_below_directories_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "a-link").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"^write='.*(is no directory|cannot be written: File name too long)"):
        preview.main([*OWN, f"write={tmp_path}/{name}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "a-link"]


def test_an_endpoint_has_a_configuration_to_keep_without_proposals(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    overrides = [each for each in OWN if not each.startswith("model.")]
    overrides += [each for each in ENDPOINT if not each.startswith("model.")]
    preview.main([*overrides, "engine.endpoint.headers={X-Project: MY_PROJECT}", f"write={file}"])
    kept = compose([f"conf={file}"])
    assert (kept.engine.kind, kept.engine.endpoint.headers) == ("endpoint", {"X-Project": "MY_PROJECT"})
    assert (kept.reasoning_parser, kept.prompt.template_kwargs) == (None, {})
