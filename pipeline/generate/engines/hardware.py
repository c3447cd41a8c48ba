"""What an engine runs on and what it has loaded: its GPUs, and the number of its model's parameters.

In: how many GPUs the engine takes and the value of CUDA_VISIBLE_DEVICES; a model that has been loaded, so that its
files are on this machine. Out: fields of `EngineInfo`. GPUs are described by the driver's own library (NVML), which
starts no CUDA context, so that a query costs the engine nothing; it counts all GPUs of the machine, including those
that the process cannot see. Parameters are counted from the headers of the model's safetensors files: no weights are
read and nothing is downloaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from pipeline.config.paths import expanded
from pipeline.runs.manifest import EngineInfo

HIDING = ("", "-1", "NoDevFiles")
"""Entries of CUDA_VISIBLE_DEVICES that name no GPU."""

logger = logging.getLogger(__name__)


def gpu_info(num_gpus: int, visible_devices: str | None) -> EngineInfo:
    """Return name, identity and memory of the first `num_gpus` visible GPUs, and the driver's version.

    Args:
        num_gpus: GPUs that the engine takes.
        visible_devices: CUDA_VISIBLE_DEVICES of the process: indices or UUIDs, comma separated (None: all GPUs).

    Returns:
        `gpu_names` and `gpu_uuids`, comma separated and in the same order, `gpu_memory_bytes` of the smallest one and
        `gpu_driver`; or `gpu_error` alone, when the driver does not report all of it.
    """
    import pynvml

    try:
        with nvml():
            handles = [device_handle(each) for each in visible_gpus(visible_devices)[:num_gpus]]
            if len(handles) < num_gpus:
                return EngineInfo(gpu_error=f"{num_gpus} GPUs are used, {len(handles)} are visible")
            return EngineInfo(
                gpu_names=", ".join(pynvml.nvmlDeviceGetName(handle) for handle in handles),
                gpu_uuids=", ".join(pynvml.nvmlDeviceGetUUID(handle) for handle in handles),
                gpu_memory_bytes=min(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles),
                gpu_driver=pynvml.nvmlSystemGetDriverVersion(),
            )
    except pynvml.NVMLError as error:
        return EngineInfo(gpu_error=f"NVML: {error}")


@contextmanager
def nvml() -> Iterator[None]:
    """Keep NVML open during the block.

    Raises:
        pynvml.NVMLError: There is no NVIDIA driver (`NVMLError_LibraryNotFound`), or it does not work.
    """
    import pynvml

    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(visible_devices: str | None) -> list[str]:
    """Return the GPUs that a process with this CUDA_VISIBLE_DEVICES sees, as indices or UUIDs; NVML is open.

    CUDA ignores what follows an invalid entry, and -1 is the customary one.
    """
    import pynvml

    if visible_devices is None:
        return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return list(takewhile(lambda each: each not in HIDING, (each.strip() for each in visible_devices.split(","))))


def device_handle(device: str) -> object:
    """Return NVML's handle of a GPU, by its index or UUID; NVML is open.

    Raises:
        pynvml.NVMLError: There is no such GPU, or it does not answer.
    """
    import pynvml

    if device.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(device))
    return pynvml.nvmlDeviceGetHandleByUUID(device)


def num_parameters(path: str, revision: str | None = None, download_dir: str | None = None) -> int | None:
    """Return how many parameters a model's checkpoint stores, vision towers and the like included.

    Args:
        path: Directory, or hub id of a model in the cache.
        revision: Commit, tag or branch of the hub model.
        download_dir: The cache, where it is not the default one.

    Returns:
        The sum over all tensors, as the hub shows it; None where there are no readable safetensors files.
    """
    from huggingface_hub import get_local_safetensors_metadata, snapshot_download

    try:
        directory = expanded(path)
        if not directory.is_dir():
            cached = snapshot_download(path, revision=revision, cache_dir=download_dir, local_files_only=True)
            directory = Path(cached)
        return sum(get_local_safetensors_metadata(directory).parameter_count.values())
    except Exception:  # whatever the files hold, the engine runs, and the number stays unknown
        logger.warning("The number of parameters of %s is unknown", path, exc_info=True)
        return None
