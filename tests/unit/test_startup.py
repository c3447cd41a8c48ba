"""Help and errors print at once, without heavy imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
from builders import ROOT


@pytest.mark.parametrize(
    "command_line",
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
        ["pipeline.night", "night=n", "runs=gone"],
        ["pipeline.replay", "logs=gone", "conf=demo"],
        ["pipeline.list", "output_dir=gone"],
        ["pipeline.prune", "output_dir=gone"],
        ["pipeline.board", "output_dir=gone"],
        ["pipeline.export", "run=gone", "to=csv"],
    ],
)
def test_help_and_errors_print_without_ray_torch_vllm_or_pandas(command_line: list[str]) -> None:
    assert imported(command_line) & {"ray", "torch", "vllm", "transformers", "datasets", "pandas"} == set()


@pytest.mark.parametrize(
    "command_line",
    [
        ["pipeline.rescore", "run=gone"],
        ["pipeline.pack", "run=gone"],
        ["pipeline.validate", "archive=x.zip", "run=gone"],
        ["pipeline.run", "conf=demo", "limit=-1"],
        ["pipeline.night", "night=n", "runs=conf/night.yaml", "wait_s=x"],
        ["pipeline.preview", "conf=demo", "task=gone"],
        ["pipeline.plan", "conf=nowhere"],
        ["pipeline.list", "last=0"],
        ["pipeline.prune", "keep_days=90"],
        ["pipeline.board", "conf=demo"],
        ["pipeline.export", "run=gone", "to=pdf"],
    ],
)
def test_wrong_arguments_are_reported_before_the_stages_are_imported(command_line: list[str]) -> None:
    assert (
        imported(command_line) & {"pipeline.orchestrator", "pipeline.planner.report", "duckdb", "scipy", "rich"}
        == set()
    )


def imported(command_line: list[str]) -> set[str]:
    """Return the modules that a command has imported when it exits."""
    module, *arguments = command_line
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', *{arguments!r}]\n"
        f"try:\n    runpy.run_module({module!r}, run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print('imported:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.rpartition("imported:")[2].split())
