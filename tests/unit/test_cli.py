"""What a command prints and how it ends, and that the README says the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import ROOT, command

from pipeline import cli, replay, validate
from pipeline.config.loading import describe
from pipeline.errors import DataError, Interrupted, TooManyFailedRows
from pipeline.planner import report as plan_report


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["conf=demo", "--help"]])
def test_help_shows_commands_confs_and_keys(words: list[str]) -> None:
    done = command("pipeline.run", *words)
    assert done.returncode == 0
    for part in ("rescore", "preview", "demo, mera", "engine.endpoint.api_key_env", "generation.max_gen_toks"):
        assert part in done.stdout
    assert "int = 10000" in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_commands_help_begins_with_its_own_words(name: str) -> None:
    done = command(f"pipeline.{name}", "--help")
    own = cli.COMMANDS[name]
    first, _, what, _, title, *rest = done.stdout.splitlines()
    assert (done.returncode, first) == (0, f"usage: python -m pipeline.{name} {own.arguments[0][0]} ...")
    assert (what, title) == (f"{name}: {own.what}", "words")
    assert [line.split()[0] for line in rest[: len(own.arguments)]] == [word for word, _ in own.arguments]
    keys = {line.split()[0] for line in rest if line.startswith("  ")} & {key for key, *_ in describe()}
    assert keys == {key for key, *_ in describe() if own.keys is not None and key.startswith(own.keys)}


def test_every_word_that_a_command_takes_of_its_own_is_in_its_help() -> None:
    """The commands' own lists of their words are the measure."""
    told = {
        name: {word.partition("=")[0] for word, _ in own.arguments} - {"conf"} for name, own in cli.COMMANDS.items()
    }
    assert told["preview"] == {*plan_report.ARGUMENTS, "task", "id", "n"}
    assert told["replay"] == set(replay.OWN)
    assert told["validate"] == set(validate.OWN_ARGUMENTS)


def test_columns_of_the_help_do_not_run_into_each_other() -> None:
    shown = cli.help_text("run")
    for name, kind, default, meaning in describe():
        assert f"{kind} = {default}  " in shown, name
        assert f"  {meaning}\n" in f"{shown}\n", name


CUT_SHORT = [
    ["pipeline.run", "--help"],
    ["pipeline.compare", "--help"],  # shorter than the buffer: written at the end alone
    ["pipeline.preview", "conf=demo", "reasoning_parser=null", "n=100"],
    ["pipeline.validate", "archive=/dev/null", "conf=demo"],
]


@pytest.mark.parametrize("words", CUT_SHORT, ids=[words[0] for words in CUT_SHORT])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(words: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", *words, f"output_dir={tmp_path}"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        line, cwd=ROOT, env=buffered, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_output_that_was_closed_before_is_no_error() -> None:
    words = f"{sys.executable} -m pipeline.run --help >&-"
    done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_connection_that_breaks_is_not_taken_for_a_reader_that_has_gone() -> None:
    code = "import sys\nfrom pipeline import cli\nsys.argv = ['x', 'conf=demo']\n"
    code += "def main(_):\n    raise BrokenPipeError('a socket')\ncli.command(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "BrokenPipeError: a socket" in done.stderr


@pytest.mark.parametrize(
    ("module", "words", "line"),
    [
        ("pipeline.run", ["conf=mer"], "error: conf='mer': no such configuration. Did you mean: 'mera'?\n"),
        ("pipeline.run", ["conf=demo", "limit=-1"], "error: limit=-1: must be null or at least 1\n"),
        ("pipeline.rescore", ["run=nowhere"], "error: run=nowhere: there is no such directory\n"),
        ("pipeline.replay", ["logs=gone", "conf=demo"], "error: logs='gone': there is no such file or directory\n"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(module: str, words: list[str], line: str) -> None:
    done = command(module, *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("module", ["pipeline.run", "pipeline.preview"])
def test_mera_without_the_hub_is_one_line_that_says_what_to_set(module: str, tmp_path: Path) -> None:
    done = command(module, "conf=mera", f"output_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for part in (
        "tasks.agro_bench.dataset",
        "MERA-evaluation/ruTXTAgroBench",
        "HF_TOKEN",
        "tasks.agro_bench.dataset=<dir>",
    ):
        assert part in done.stderr


def fail(error: BaseException) -> Callable[[list[str]], None]:
    def main(_: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("x"), 2), (TooManyFailedRows("x"), 4), (Interrupted("x"), 130), (KeyboardInterrupt(), 130)],
)
def test_an_errors_kind_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "conf=demo"])
    assert cli.command(fail(error)) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "conf=demo"])
    with pytest.raises(ZeroDivisionError):
        cli.command(fail(ZeroDivisionError()))


def test_a_message_of_many_lines_is_shown_on_one() -> None:
    assert str(DataError("one\n  two\tthree")) == "one two three"


def test_the_readme_lists_every_key_with_its_default() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, _, default, meaning in describe():
        assert any(
            f"| {name} |" in line and f"`{default}`" in line and meaning in line for line in readme.splitlines()
        ), name


def test_the_readme_names_every_direct_dependency() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = "import tomllib, pathlib, re; p = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']; "
    code += "print(*(re.split('[<>=]', each)[0] for each in p['dependencies']))"
    names = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in names.split() if name not in readme] == []
