"""Hosts for the checks of machines: packages as if built for CUDA, and a recorded driver."""

from __future__ import annotations

import os
from pathlib import Path

NEW_DRIVER = {"NVML_DRIVER": "580.82.07"}


def cuda_packages(directory: Path, cuda: str = "13.0") -> Path:
    """Make importable packages torch, of a build for this CUDA, and vllm, without content; return the directory."""
    for module in ("torch/__init__.py", "vllm/__init__.py", "vllm/v1/__init__.py", "vllm/v1/engine/async_llm.py"):
        path = directory / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (directory / "torch/version.py").write_text(f"cuda = {cuda!r}\n", encoding="utf-8")
    return directory


def host_environment(packages: Path, driver: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a process on a host with these packages and this driver library."""
    removed = ("CUDA_VISIBLE_DEVICES", "CC")
    base = {name: value for name, value in os.environ.items() if name not in removed}
    path = os.pathsep.join([str(packages), os.environ["PYTHONPATH"]])
    return base | {"PYTHONPATH": path, "LD_LIBRARY_PATH": str(driver)} | NEW_DRIVER | variables
