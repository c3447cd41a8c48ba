"""Which of this machine's GPUs lack the memory that an engine takes, and which processes hold it.

In: the engine's share of a GPU's memory; NVIDIA's driver. Out: a line for each GPU. vLLM 0.32 refuses to start where
less is free than `gpu_memory_utilization` of the total (v1/worker/utils.py:763). NVML's total is more than the one that
vLLM sees, by what the driver reserves; so a GPU is named only where less is free, beyond doubt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pipeline.config.schema import EngineConfig
from pipeline.generate.engines.hardware import device_handle, nvml, visible_gpus

RESERVED_BYTES = 1 << 30
"""More than the driver reserves; of an A100-SXM4-80GB it is 0.7 GiB."""

RELEASE_S = 20.0
"""Seconds that the memory of an engine that has just been killed may take to be free."""

GIB = 1 << 30


def num_visible_gpus() -> int:
    """Return how many GPUs a process on this machine sees; 0 where the driver does not answer."""
    return len(_visible())


def short_gpus(engine: EngineConfig, num_gpus: int) -> list[str]:
    """Return a line for each of the first visible GPUs that does not answer or lacks the memory of an engine."""
    import pynvml

    devices = _visible()[:num_gpus]
    if not devices:
        return []
    with nvml():
        lines = []
        for device in devices:
            try:
                line = _short(device, engine.gpu_memory_utilization)
            except pynvml.NVMLError_NotSupported:  # memory that the GPU shares with the processor
                continue
            except pynvml.NVMLError as error:
                fix = "reset it or restart the host, or leave it out of CUDA_VISIBLE_DEVICES"
                line = f"GPU {device} does not answer (NVML: {error}): {fix}"
            lines += [line] if line else []
        return lines


def settled(look: Callable[[], list[str]], num_spare: int) -> list[str]:
    """Return the lines of `look` as soon as there are at most `num_spare`, or else those after `RELEASE_S`."""
    until = time.monotonic() + RELEASE_S
    while len(lines := look()) > num_spare and time.monotonic() < until:
        time.sleep(1)
    return lines


def _visible() -> list[str]:
    import pynvml

    try:
        with nvml():
            return visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    except pynvml.NVMLError:  # `host_checks` names the fault
        return []


def _short(device: str, utilization: float) -> str | None:
    """Return the line of a GPU that lacks memory, or None.

    Raises:
        pynvml.NVMLError: It does not answer.
    """
    import pynvml

    handle = device_handle(device)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    total, free = int(memory.total), int(memory.free)
    if free >= (total - RESERVED_BYTES) * utilization:
        return None
    return (
        f"GPU {device} ({pynvml.nvmlDeviceGetName(handle)}): {free / GIB:.1f} of {total / GIB:.1f} GiB are free, and "
        f"engine.gpu_memory_utilization={utilization} takes {total * utilization / GIB:.1f}: {_holders(handle)}, or "
        "decrease engine.gpu_memory_utilization, or leave it out of CUDA_VISIBLE_DEVICES"
    )


def _holders(handle: object) -> str:
    """Return the fix that names the processes on a GPU, the largest first."""
    import pynvml

    try:
        found = [(each.usedGpuMemory, each.pid) for each in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    except pynvml.NVMLError:
        found = []
    if not found:
        return "end what holds it (nvidia-smi on the host; in a container other containers are not seen)"
    held = [
        f"{pid} ({size / GIB:.1f} GiB)" if size else str(pid) for size, pid in sorted(found, key=_size, reverse=True)
    ]
    return f"end process {', '.join(held)}"


def _size(holder: tuple[int | None, int]) -> tuple[int, int]:
    return holder[0] or 0, holder[1]
