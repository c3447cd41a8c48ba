"""The house's rules of who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pipeline"
STAGES = ("prepare", "generate", "score", "publish")
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Return the modules that a file names in import statements, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def stage_of(file: Path) -> str | None:
    part = file.relative_to(PACKAGE).parts[0]
    return part if part in STAGES else None


def names(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


@pytest.mark.parametrize("file", [file for file in FILES if stage_of(file)], ids=names)
def test_a_stage_imports_nothing_from_another_stage_or_a_command(file: Path) -> None:
    shared = {"config", "errors", "metrics", "records", "runs", "storage", "terminal"}
    own = [module.split(".") for module in imported(file) if module.split(".")[0] == "pipeline"]
    strangers = {module[1] for module in own if len(module) > 1} - shared - {stage_of(file)}
    assert not strangers


@pytest.mark.parametrize("file", FILES, ids=names)
def test_ray_and_vllm_are_imported_only_where_they_belong(file: Path) -> None:
    roots = {module.split(".")[0] for module in imported(file)}
    if stage_of(file) != "generate":
        assert "ray" not in roots
    if names(file) not in (
        "generate/engines/vllm_engine.py",
        "generate/engines/vllm_arguments.py",
        "generate/engines/reasoning.py",
    ):
        assert "vllm" not in roots


@pytest.mark.parametrize(
    "words",
    [
        ["pipeline.run", "--help"],
        ["pipeline.run", "conf=nowhere"],
        ["pipeline.run", "from=nowhere"],
        ["pipeline.rescore", "--help"],
        ["pipeline.rescore", "run=gone"],
        ["pipeline.preview", "--help"],
        ["pipeline.preview", "conf=nowhere"],
        ["pipeline.preview", "conf=demo", "n=x"],
        ["pipeline.pack", "run=x"],
        ["pipeline.compare", "base=x", "new=y"],
        ["pipeline.run", "conf=demo", "gate.baseline=gone"],
        ["pipeline.validate", "--help"],
        ["pipeline.replay", "logs=gone", "conf=demo"],
    ],
)
def test_help_and_errors_answer_without_ray_torch_vllm_or_pandas(words: list[str]) -> None:
    module, *arguments = words
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', *{arguments!r}]\n"
        f"try:\n    runpy.run_module({module!r}, run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "heavy = {'ray', 'torch', 'vllm', 'transformers', 'datasets', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=PACKAGE.parent)
