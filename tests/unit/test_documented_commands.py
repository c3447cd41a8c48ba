"""Every command, query and snippet of configuration that a page prints works, or has a reason why it is not run.

Commands of the pipeline are parsed and their configuration is composed; SQL and Python run on a small run's files;
YAML is loaded as a conf file. A block that is not run has the line `<!-- not run: reason -->` above it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
from archives import Scored, completion, question, run_of
from builders import ROOT

from pipeline import cli
from pipeline.config.loading import compose

PAGES = [
    *(ROOT / name for name in ("README.md", "README.ru.md", "CONTRIBUTING.md", "data/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

NOT_RUN = {
    "docker": "needs Docker",
    "make": "its target is looked up; what it runs is tested as such",
    "ray": "starts a cluster",
    "hf": "downloads from the hub",
    "inspect": "serves a page until it is interrupted",
    "trackio": "serves a page until it is interrupted",
    "jupyter": "the notebook is executed by tests/notebooks",
    "duckdb": "the shell of DuckDB is not a dependency; tests/notebooks opens the same file",
    "tail": "follows a file",
    "source": "activates an environment",
    "for": "a loop over the commands in it",
    "done": "ends a loop",
    "cd": "changes the directory",
    "git": "the project's history",
    "kubectl": "needs Kubernetes",
    "aws": "needs the bucket",
    "find": "tests/unit/test_kuberay.py runs it",
    "curl": "needs a node of a cluster",
    "jq": "is no dependency",
    ".": "reads a file of the host",
    "sed": "what it prints goes to kubectl; tests/unit/test_kuberay.py runs the same on the same file",
    "/opt/pipeline/conf/hosts/nightly.sh": "tests/unit/test_kuberay.py runs it",
    "crontab": "changes the user's timetable",
    "systemctl": "changes the user's services",
}
"""Commands that no test runs, by their first word, each with the reason."""

MODULES = {
    "pip": "installs",
    "gpu_check": "tests/unit/gpu_check runs it",
    "bench": "measures for minutes; tests/unit/bench tests its parts",
}
"""Modules of `python -m` that are not the pipeline's commands, likewise."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, those in lists included."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"(?ms)^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", text):
        before = text[: found.start()].rstrip().rpartition("\n")[2]
        reason = re.fullmatch(r"\s*<!-- not run: (.+) -->", before)
        line = text.count("\n", 0, found.start()) + 1
        body = re.sub(rf"(?m)^{found['indent']}", "", found["text"])
        yield Block(page, line, found["language"], body, reason and reason[1])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages and block.reason is None]


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block, without comments, leading variables and the path of .venv."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Za-z_]\w*=.*", words[0]):
            words.pop(0)
        if words:
            words[0] = re.sub(r"^(?:.*/)?\.venv[\w-]*/bin/", "", words[0])
            yield words


def check_pipeline(command: str, arguments: list[str]) -> None:
    """Parse the arguments of a command of the pipeline and compose its configuration, as it would itself."""
    if arguments == ["--help"]:
        return
    _, overrides = cli.parse(command, arguments)
    if any(each.startswith("conf=") for each in overrides):
        compose([each for each in overrides if not each.startswith("write=")])
    elif cli.COMMANDS[command].keys == "":
        assert any(each.startswith(("run=", "runs=", "from=")) for each in arguments), "neither conf= nor a run"


def check(words: list[str]) -> None:
    match words:
        case ["export", *_]:
            pass
        case ["python", "-m", module, *arguments] if module.startswith("pipeline."):
            check_pipeline(module.removeprefix("pipeline."), arguments)
        case ["python", "-m", "pipeline", *_]:
            pass
        case ["python", "-m", module, *_]:
            assert module.partition(".")[0] in MODULES
        case ["python", "-c", code]:
            exec(code, {})
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case ["make", *targets]:
            known = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
            assert {target for target in targets if "=" not in target} <= known
        case ["ray", "job", "submit", *_] if "-m" in words:
            check(["python", *words[words.index("-m") :]])
        case [first, *_]:
            assert first in NOT_RUN, "run it here, or give the reason in NOT_RUN"


@pytest.mark.parametrize("block", of("sh", "bash", "console"), ids=str)
def test_every_command_of_a_page_is_accepted(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for words in commands_of(block.text):
        check(words)


def inline_commands() -> list[str]:
    """Return the commands of the pipeline in sentences and indented blocks, but those that stand for any command."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        codes = re.findall(r"(?<!`)`(?:\S*/)?python -m (pipeline\.[^`]+)`", text)
        indented = re.sub(r"(?ms)^ *```.*?^ *```$", "", text).replace("\\\n", " ")
        for code in [*codes, *re.findall(r"(?m)^ {4}(?:\S*/)?python -m (pipeline\..+?)(?: +#.*)?$", indented)]:
            words = " ".join(code.split())
            if "<command>" not in words and "<команда>" not in words and "..." not in words:
                found.append(words)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("text", inline_commands())
def test_every_command_in_a_sentence_is_accepted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module, *arguments = shlex.split(text)
    if arguments and "<" not in " ".join(each for each in arguments if each.startswith("conf=")):
        check_pipeline(module.removeprefix("pipeline."), arguments)
    else:
        assert module.removeprefix("pipeline.") in cli.COMMANDS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Make a run of two tasks in outputs/ of a directory; some of its answers cannot be read."""
    directory = tmp_path_factory.mktemp("documents")
    (directory / "notebooks").symlink_to(ROOT / "notebooks")
    prompts = [
        question(task, number, split=split, gold="B")
        for task in ("agro_bench", "med_bench")
        for split in ("train", "test")
        for number in range(1, 4)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return run_of(
            prompts,
            str(directory / "outputs"),
            reply=lambda each, repeat: completion(each, repeat, "не знаю" if each["id"] == 1 else "B"),
        )


@pytest.mark.parametrize("block", of("sql"), ids=str)
def test_every_query_of_a_page_has_an_answer(block: Block, run: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(run.store.root).parent.parent)
    query = block.text.replace("outputs/run=2026-11-21", f"outputs/{Path(run.store.root).name}")
    with duckdb.connect() as database:
        assert database.execute(query).fetchall()


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_every_python_block_of_a_page_runs(block: Block, run: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(run.store.root).parent.parent)
    exec(block.text.replace("outputs/run=2026-11-21", f"outputs/{Path(run.store.root).name}"), {})


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_every_piece_of_configuration_of_a_page_is_valid(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "piece.yaml"
    file.write_text(
        block.text if "base:" in block.text.split("#")[0] else f"base: [demo]\n{block.text}", encoding="utf-8"
    )
    overrides = ["generation.max_gen_toks=64"] if "generation:" not in block.text else []
    compose([f"conf={file}", *overrides])


def test_every_block_has_a_language_that_is_checked_or_is_text() -> None:
    languages = {"sh", "bash", "console", "sql", "python", "yaml", "text", "json", "csv", ""}
    assert [str(block) for block in BLOCKS if block.language not in languages] == []
