"""The GPUs that an engine holds, as the driver's own library (NVML) describes them.

In: how many GPUs the engine takes and what CUDA_VISIBLE_DEVICES says. Out: flat facts. NVML starts no CUDA context, so
asking costs the engine nothing. It counts all GPUs of the machine, whatever the process may see.
"""

from __future__ import annotations

from pipeline.runs.manifest import EngineInfo


def gpu_info(num_gpus: int, visible_devices: str | None) -> EngineInfo:
    """Return name, identity and memory of the first `num_gpus` visible GPUs, and the driver's version.

    Args:
        num_gpus: GPUs that the engine takes.
        visible_devices: CUDA_VISIBLE_DEVICES of the process: indices or UUIDs, comma separated (None: all GPUs).

    Returns:
        `gpu_names` and `gpu_uuids`, comma separated and in the same order, `gpu_memory_bytes` of the smallest one and
        `gpu_driver`; or `gpu_error` alone, when the driver does not tell all of it.
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
