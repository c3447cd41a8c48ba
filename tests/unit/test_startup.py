"""Help and errors appear at once: nothing heavy is imported for them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from builders import ROOT


@pytest.mark.parametrize(
    "words",
    [
        ["pipeline.__main__"],
        ["pipeline.run", "--help"],
        ["pipeline.run", "conf=nowhere"],
        ["pipeline.run", "from=nowhere"],
        ["pipeline.rescore", "--help"],
        ["pipeline.rescore", "run=gone"],
        ["pipeline.preview", "--help"],
        ["pipeline.preview", "conf=nowhere"],
        ["pipeline.preview", "conf=demo", "n=x"],
        ["pipeline.plan", "conf=demo", "gpus=0"],
        ["pipeline.pack", "run=x"],
        ["pipeline.compare", "base=x", "new=y"],
        ["pipeline.run", "conf=demo", "gate.baseline=gone"],
        ["pipeline.validate", "--help"],
        ["pipeline.replay", "logs=gone", "conf=demo"],
    ],
)
def test_help_and_errors_answer_without_ray_torch_vllm_or_pandas(words: list[str]) -> None:
    assert imported(words) & {"ray", "torch", "vllm", "transformers", "datasets", "pandas"} == set()


@pytest.mark.parametrize(
    "words",
    [
        ["pipeline.rescore", "run=gone"],
        ["pipeline.pack", "run=gone"],
        ["pipeline.validate", "archive=x.zip", "run=gone"],
        ["pipeline.run", "conf=demo", "limit=-1"],
        ["pipeline.preview", "conf=demo", "task=gone"],
        ["pipeline.plan", "conf=nowhere"],
    ],
)
def test_what_the_user_named_wrongly_is_reported_before_the_stages_are_imported(words: list[str]) -> None:
    assert imported(words) & {"pipeline.orchestrator", "pipeline.planner.report", "duckdb", "scipy", "rich"} == set()


def imported(words: list[str]) -> set[str]:
    """Return the modules that a command has imported when it ends."""
    module, *arguments = words
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', *{arguments!r}]\n"
        f"try:\n    runpy.run_module({module!r}, run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print('imported:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.rpartition("imported:")[2].split())
