"""The output and exit code of commands."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import ROOT, command

from pipeline import __version__, cli, preview, replay, rescore, run
from pipeline.config.loading import describe
from pipeline.errors import ConfigError, DataError, Interrupted, TooManyFailedRows


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["conf=demo", "--help"]])
def test_help_lists_commands_configurations_and_keys(arguments: list[str]) -> None:
    done = command("pipeline.run", *arguments)
    assert done.returncode == 0
    for part in ("rescore", "preview", "demo, mera", "engine.endpoint.api_key_env", "generation.max_gen_toks"):
        assert part in done.stdout
    assert "int = 10000" in done.stdout


ARGUMENTS = [(name, argument) for name, own in cli.COMMANDS.items() for argument in own.arguments]


def test_every_command_of_the_table_is_a_module_and_vice_versa() -> None:
    modules = {
        file.stem for file in (ROOT / "pipeline").glob("*.py") if "command(main)" in file.read_text(encoding="utf-8")
    }
    assert modules == {*cli.COMMANDS, "__main__"}


def test_the_package_lists_the_commands_with_a_line_each() -> None:
    done = command("pipeline")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for name, own in cli.COMMANDS.items():
        assert [line for line in lines if line.split() == [name, *own.help.split()]]
    assert command("pipeline", "--help").stdout == done.stdout


def test_an_unknown_command_suggests_the_closest() -> None:
    done = command("pipeline", "rescor")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: 'rescor': write python -m pipeline.rescore; the commands are run, preview")


@pytest.mark.parametrize("module", ["pipeline", *(f"pipeline.{name}" for name in cli.COMMANDS)])
def test_the_version_is_printed(module: str) -> None:
    done = command(module, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pipeline {__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_commands_help_begins_with_its_own_arguments_and_lists_the_keys_that_it_accepts(name: str) -> None:
    done = command(f"pipeline.{name}", "--help")
    own = cli.COMMANDS[name]
    usage, what, example, *groups = done.stdout.split("\n\n")
    assert usage.startswith(f"usage: python -m pipeline.{name} ")
    assert (what, example) == (f"{name}: {own.help}", f"for instance: python -m pipeline.{name} {own.example}")
    assert groups[0].startswith("arguments\n")
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    keys = {key for key, *_ in describe()} - {"conf"}
    assert keys & {*listed} == {key for key in keys if own.keys is not None and key.startswith(own.keys)}


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS, ids=[f"{name}-{each.name}" for name, each in ARGUMENTS])
def test_help_shows_each_argument_with_its_help_default_and_bounds(name: str, argument: cli.Argument) -> None:
    text = " ".join(cli.help_text(name).split())
    _, _, rest = text.partition(f" {argument.name}=<{argument.value}> {argument.help}")
    details = rest[rest.index("(") : rest.index(")")]
    assert argument.default is None or f" = {str(argument.default).replace('False', 'false')}" in details
    assert argument.minimum == cli.MIN_INT or f"from {argument.minimum}" in details
    assert argument.maximum == cli.MAX_INT or f"to {argument.maximum}" in details
    assert all(choice in details for choice in argument.choices)
    assert ("required" in details) == argument.required


@pytest.mark.parametrize("name", [*cli.COMMANDS, "__main__"])
def test_help_fits_100_columns(name: str) -> None:
    assert max(map(len, cli.help_text(name).splitlines())) <= 100


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_example_of_a_command_parses(name: str) -> None:
    _, overrides = cli.parse(name, cli.COMMANDS[name].example.split())
    assert {override.partition("=")[0] for override in overrides} <= {key for key, *_ in describe()}


def test_own_arguments_are_converted_and_all_others_are_overrides() -> None:
    own, overrides = cli.parse("preview", ["id=-5", "conf=demo", "engine.kind=vllm", "limit=2"])
    assert own == {"task": None, "row_id": -5, "num_prompts": 3, "plan": False, "write": None}
    assert overrides == ["conf=demo", "engine.kind=vllm", "limit=2"]
    own, _ = cli.parse("preview", ["conf=demo", "plan=true", "gpus=4"])
    assert own == {"plan": True} | cli.parse("plan", ["conf=demo", "gpus=4"])[0]
    assert own["num_gpus"] == 4


RUN = "give one run, for instance run=outputs/run=2026-11-21"


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("plan", ["gpu_s=8"], "'gpu_s=8': plan has no argument gpu_s=. Did you mean: 'gpus'?"),
        ("preview", ["tak=x"], "'tak=x': preview has no argument tak=. Did you mean: 'task'?"),
        ("run", ["limt=3"], "'limt=3': run has no argument limt=. Did you mean: 'limit'?"),
        ("run", ["max_gen_toks=3"], "'max_gen_toks=3': run has no argument max_gen_toks=. Did you mean: "
         "'generation.max_gen_toks'?"),
        ("rescore", ["x=1"], "'x=1': rescore has no argument x=: write for instance run=outputs/run=2026-11-21"),
        ("rescore", ["conf=demo"], "'conf=demo': rescore has no argument conf=: write for instance run=outputs/run="),
        ("pack", ["run=a", "run.restart=true"], "'run.restart=true': only keys of submission can be given"),
        ("compare", ["bas=x"], "'bas=x': compare has no argument bas=. Did you mean: 'base'?"),
        ("compare", ["base"], "'base' is not key=value: write for instance base=outputs/run=2026-11-20 new="),
        ("run", ["=3"], "'=3' is not key=value: write for instance conf=mera"),
        ("rescore", [], f"run= is missing: {RUN}"),
        ("rescore", ["run="], f"run='': {RUN}"),
        ("rescore", ["run=a", "run=b"], f"run= is given twice: {RUN}"),
        ("compare", ["base=x"], "new= is missing: give one run, for instance new=outputs/run=2026-11-21"),
        ("preview", ["n=1", "n=1"], "n= is given twice: give a number from 0 to 1000"),
        ("preview", ["n=1001"], "n='1001': give a number from 0 to 1000"),
        ("preview", [f"id={2**63}"], f"id='{2**63}': give a number"),
        ("preview", ["id=１"], "id='１': give a number"),
        ("plan", [f"gpus={'9' * 5000}"], "gpus='999"),
        ("plan", ["rows=1e3"], "rows='1e3': give a number from 1"),
        ("plan", ["gpu="], "gpu='': there are A100-SXM4-40GB, "),
        ("list", ["sql=SELECT '\udcff'"], "\"sql=SELECT '\\udcff'\" is not Unicode text: give it in UTF-8"),
        ("night", ["night=n", "runs=\udcff"], "'runs=\\udcff' is not Unicode text: give it in UTF-8"),
    ],
)  # fmt: skip
def test_an_unknown_missing_repeated_or_out_of_bounds_argument_is_a_one_line_error(
    name: str, arguments: list[str], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        cli.parse(name, arguments)
    assert str(caught.value).startswith(line)
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("at_root")
def test_the_command_plan_prints_what_the_preview_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["conf=demo", f"output_dir={tmp_path}", "gpus=2"]
    done = command("pipeline.plan", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fastest with engine.max_num_seqs=" in done.stdout
    preview.main([*arguments, "plan=true"])
    assert capsys.readouterr().out == done.stdout


def test_make_without_a_target_lists_the_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "clean"):
        assert [line for line in done.stdout.splitlines() if line.split()[:1] == [target] and len(line.split()) > 2]


CUT_SHORT = [
    ["pipeline.run", "--help"],
    ["pipeline.compare", "--help"],  # shorter than the buffer: written only at exit
    pytest.param(["pipeline.preview", "conf=demo", "reasoning_parser=null", "n=100"], marks=pytest.mark.slow),
    ["pipeline.validate", "archive=LICENSE", "conf=demo"],
]


@pytest.mark.parametrize("command_line", CUT_SHORT)
def test_a_command_ends_silently_when_its_reader_is_gone(command_line: list[str], tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    line = [sys.executable, "-m", *command_line, f"output_dir={tmp_path}"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        line, cwd=ROOT, env=buffered, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_closed_standard_output_is_no_error() -> None:
    line = f"{sys.executable} -m pipeline.run --help >&-"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


HOSTILE = """
import os, sys
from pathlib import Path
from pipeline import cli
from pipeline.errors import GateFailed
from pipeline.terminal.console import plain, quiet
sys.argv = ["x", "conf=demo"]
def main(_):
    plain().print("\u0437\u0430\u0434\u0430\u0447\u0430 \u2265 [x] " * 10_000)
    with quiet(Path(os.environ["LOG"])) as console:
        console.print("\u0437\u0430\u0434\u0430\u0447\u0430 " * 10_000)
    plain().print("end")
    raise GateFailed("broken \x1b[31m\u202e [x]")
raise SystemExit(cli.command(main))
"""


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full 2> /dev/full", ">/dev/null"])
def test_no_terminal_loses_an_exit_code(redirection: str, tmp_path: Path) -> None:
    environment = os.environ | {"LOG": str(tmp_path / "log"), "PYTHONIOENCODING": "ascii", "CODE": HOSTILE}
    line = f'{sys.executable} -c "$CODE" {redirection}'
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    if "2>" not in redirection:
        assert done.stderr == "error: broken ⟨U+001B⟩[31m⟨U+202E⟩ [x]\n".encode("ascii", "backslashreplace").decode()
    assert (tmp_path / "log").read_text() == ""


def test_a_terminal_that_has_gone_loses_no_exit_code(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = os.environ | {"LOG": str(tmp_path / "log")}
    with subprocess.Popen(
        [sys.executable, "-c", HOSTILE], cwd=ROOT, env=environment, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        os.close(ours)
    assert process.returncode == 3


def test_a_working_directory_that_was_deleted_is_a_one_line_error(tmp_path: Path) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    line = f"cd {place} && rmdir {place} && {sys.executable} -m pipeline.rescore run=x"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the working directory cannot be used")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (rescore.main, ["run=" + "x" * 5_000]),
        (rescore.main, ["run=" + "x/" * 2_500]),
        (rescore.main, ["run=~nosuchuser/run=1"]),
        (rescore.main, ["run=a\0b"]),
        (replay.main, ["conf=demo", "logs=" + "x" * 5_000]),
        (replay.main, ["conf=demo", "logs=~nosuchuser/x"]),
        (preview.main, ["conf=" + "x" * 5_000]),
        (preview.main, ["conf=demo", "model.path=~nosuchuser/model"]),
        (preview.main, ["conf=demo", "model.path=" + "x" * 5_000]),
        (preview.main, ["conf=demo", "tasks.med_bench.dataset=/" + "x" * 5_000]),
        (run.main, ["conf=demo", "run_id=x", "output_dir=" + "x" * 5_000]),
    ],
    ids=lambda each: each.__module__ if callable(each) else str(each)[:40],
)
def test_a_path_that_cannot_be_is_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], None],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    assert cli.command(main) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_no_temporary_directory_is_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    monkeypatch.setattr(sys, "argv", ["x", "conf=demo"])
    assert cli.command(lambda _: None) == 2
    assert capsys.readouterr().err.endswith("set TMPDIR to a directory that can be written\n")


def test_a_broken_connection_is_not_taken_for_a_reader_that_is_gone() -> None:
    code = "import sys\nfrom pipeline import cli\nsys.argv = ['x', 'conf=demo']\n"
    code += "def main(_):\n    raise BrokenPipeError('a socket')\ncli.command(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "BrokenPipeError: a socket" in done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("pipeline.run", ["conf=mer"], "error: conf='mer': no such configuration. Did you mean: 'mera'?\n"),
        ("pipeline.run", ["conf=demo", "limit=-1"], "error: limit=-1: must be null or at least 1\n"),
        ("pipeline.rescore", ["run=nowhere"], "error: run=nowhere: there is no such directory\n"),
        ("pipeline.replay", ["logs=gone", "conf=demo"], "error: logs='gone': there is no such file or directory\n"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(module: str, arguments: list[str], line: str) -> None:
    done = command(module, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("module", ["pipeline.run", "pipeline.preview"])
def test_mera_without_the_hub_is_a_one_line_error_with_the_fix(module: str, tmp_path: Path) -> None:
    done = command(module, "conf=mera", f"output_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for part in (
        "tasks.agro_bench.dataset",
        "MERA-evaluation/ruTXTAgroBench",
        "Put a copy of the data set",
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
def test_the_type_of_an_error_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "conf=demo"])
    assert cli.command(fail(error)) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "conf=demo"])
    with pytest.raises(ZeroDivisionError):
        cli.command(fail(ZeroDivisionError()))


def test_a_message_of_several_lines_is_printed_as_one() -> None:
    assert str(DataError("one\n  two\tthree")) == "one two three"


def test_the_architecture_page_names_every_direct_dependency() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    code = "import tomllib, pathlib, re; p = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']; "
    code += "print(*(re.split('[<>=]', each)[0] for each in p['dependencies']))"
    names = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [name for name in names.split() if name not in page] == []
