"""What a command prints and how it ends, and that the README says the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import ROOT, command

from pipeline import cli
from pipeline.compose import describe
from pipeline.errors import DataError, Interrupted, TooManyFailedRows


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["conf=demo", "--help"]])
def test_help_shows_commands_confs_and_keys(words: list[str]) -> None:
    done = command("pipeline.run", *words)
    assert done.returncode == 0
    for part in ("rescore", "demo, mera", "engine.endpoint.api_key_env", "generation.max_gen_toks", "int = 10000"):
        assert part in done.stdout


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


def test_mera_without_the_hub_is_one_line_that_says_what_to_set(tmp_path: Path) -> None:
    done = command("pipeline.run", "conf=mera", f"output_dir={tmp_path}")
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
