"""What an engine runs on and what it has loaded: its GPUs, and the number of its model's parameters.

In: how many GPUs the engine takes and the value of CUDA_VISIBLE_DEVICES; a model that has been loaded, so that its
files are on this machine. Out: fields of `EngineInfo`. GPUs are described by the driver's own library (NVML), which
starts no CUDA context, so that a query costs the engine nothing; it counts all GPUs of the machine, including those
that the process cannot see. Parameters are counted from the headers of the model's safetensors files: no weights are
read and nothing is downloaded.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.runs.manifest import EngineInfo

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
        pynvml.nvmlInit()
        try:
            devices = range(pynvml.nvmlDeviceGetCount()) if visible_devices is None else visible_devices.split(",")
            handles = [_handle(str(device).strip()) for device in devices[:num_gpus]]
            if len(handles) < num_gpus:
                return EngineInfo(gpu_error=f"{num_gpus} GPUs are used, {len(handles)} are visible")
            return EngineInfo(
                gpu_names=", ".join(pynvml.nvmlDeviceGetName(handle) for handle in handles),
                gpu_uuids=", ".join(pynvml.nvmlDeviceGetUUID(handle) for handle in handles),
                gpu_memory_bytes=min(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles),
                gpu_driver=pynvml.nvmlSystemGetDriverVersion(),
            )
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return EngineInfo(gpu_error=f"NVML: {error}")


def _handle(device: str) -> object:
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
        directory = Path(path).expanduser()
        if not directory.is_dir():
            cached = snapshot_download(path, revision=revision, cache_dir=download_dir, local_files_only=True)
            directory = Path(cached)
        return sum(get_local_safetensors_metadata(directory).parameter_count.values())
    except Exception:  # whatever the files hold, the engine runs, and the number stays unknown
        logger.warning("The number of parameters of %s is unknown", path, exc_info=True)
        return None
