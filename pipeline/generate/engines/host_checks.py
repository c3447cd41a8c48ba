"""Checks this machine before an engine starts on it: what vLLM's CUDA build needs and the machine may lack.

In: the configuration, and what this process sees: packages, NVIDIA's driver, compiler, /dev/shm and disks. Out:
`HostFindings`, a line for each fault with its fix. A fault is certain: vLLM would not start. What is not certain is a
warning; what cannot be seen is neither. No CUDA context is made, and torch is not imported in this process. Where
torch is a build for the CPU only vLLM itself is checked. Try it: `python -m pipeline.preview conf=demo`.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.paths import expanded
from pipeline.config.schema import Config, EngineConfig
from pipeline.errors import HostError
from pipeline.generate import connection
from pipeline.generate.engines.gpu_memory import num_visible_gpus, settled, short_gpus
from pipeline.generate.engines.hardware import nvml
from pipeline.runs.model_files import LOCAL
from pipeline.storage.filesystem import free_bytes
from pipeline.storage.hub import Weights, find_weights
from pipeline.terminal.text import escape_control, one_line

OLDEST_DRIVERS = {11: "450", 12: "525", 13: "580"}
"""Oldest driver by CUDA's major version; any minor version of the toolkit runs on it.

Source: docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1.
"""

SHM = "/dev/shm"  # noqa: S108

SHM_BYTES = 10 * ((24 << 20) + 2)
"""What vLLM 0.32 demands of /dev/shm for a replica of several GPUs.

Each worker makes a `MessageQueue(1, 1)` (v1/executor/multiproc_executor.py:624): 10 chunks of 24 MiB, with 2 bytes
each; `check_shm_free_space` (distributed/device_communicators/shm_broadcast.py:336) raises when they do not fit.
"""

LITTLE_SHM_BYTES = 1 << 30
"""What NCCL's guide gives a container, in "Shared memory" of its troubleshooting; GPUs with peer access need less."""

LITTLE_DISK_BYTES = 1 << 30
"""Free space of output_dir below which there is a warning."""

COMPILE_S, IMPORT_S = 10.0, 30.0
"""Seconds after which a trial ends without an outcome, as on a slow disk."""

LONGEST_REASON = 200
MIB, GB = 1 << 20, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFindings:
    """What is wrong with a machine, a line each: `faults` are certain, `warnings` are not."""

    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def require_fit(config: Config, *, starts: bool) -> list[str]:
    """Check this machine, where the run starts a Ray of its own; return the warnings.

    Args:
        config: The run's configuration. With an endpoint or an existing cluster nothing is checked.
        starts: Whether engines are about to start: then a CUDA build without a GPU is a fault, and memory of an engine
            that has been killed is waited for. If not, a machine without a GPU is left alone.

    Raises:
        HostError: An engine does not start here; a line for each fault.
    """
    if config.engine.kind != "vllm" or not connection.address_of(config).is_local:
        return []
    if cuda_version() is None:
        weights, num_gpus = None, 0
    else:
        weights, num_gpus = find_weights_to_load(config), num_visible_gpus()
    found = look(config, weights, starts=starts)
    num_spare = num_gpus - _num_used(config.engine, num_gpus)
    waits = starts and not found.faults
    short = settled(lambda: short_gpus(config.engine, num_gpus), num_spare if waits else num_gpus)
    is_certain = len(short) > num_spare
    if found.faults or is_certain:
        raise HostError(*found.faults, *(short if is_certain else ()))
    return [*found.warnings, *short]


def _num_used(engine: EngineConfig, num_gpus: int) -> int:
    """Return how many of this machine's GPUs the engines take."""
    return num_gpus if engine.replicas == "auto" else min(num_gpus, int(engine.replicas) * engine.gpus_per_replica)


def find_weights_to_load(config: Config) -> Weights | None:
    """Return the weights of a hub model, as far as the hub knows; None for a model in a directory."""
    path = config.model.path
    if path is None or LOCAL.match(path) or Path(path).exists():
        return None
    return find_weights(path, config.model.revision, config.engine.extra.get("download_dir"))


def look(
    config: Config, weights: Weights | None, *, starts: bool, spans_hosts: bool = False, imports: bool = True
) -> HostFindings:
    """Return what is wrong with this machine, apart from the memory of its GPUs.

    Args:
        config: The run's configuration.
        weights: What the engines download if it is not in the cache.
        starts: As for `require_fit`.
        spans_hosts: Whether the GPUs of a replica are on several machines.
        imports: Whether to import vLLM, which may take long on a slow disk.
    """
    cuda = cuda_version()
    is_visible, driver_fault = _driver(cuda)
    if not (starts or is_visible):
        return HostFindings()
    if cuda is None:
        missing = _missing_package()
        return HostFindings(faults=(missing,) if missing else ())
    disk_fault, disk_warning = _disk(config, weights)
    shm_fault, shm_warning = _shared_memory(config.engine) if not spans_hosts else (None, None)
    faults = [
        driver_fault,
        _missing_package() or (_failing_import() if imports else None),
        _compiler_fault(),
        shm_fault,
        disk_fault,
    ]
    return HostFindings(
        faults=tuple(each for each in faults if each),
        warnings=tuple(each for each in (shm_warning, disk_warning) if each),
    )


def cuda_version() -> str | None:
    """Return `torch.version.cuda`, or None for a build without CUDA or no torch; does not import torch."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin is not None else None
    if version is None or not version.is_file():
        return None
    cuda = runpy.run_path(str(version)).get("cuda")
    return str(cuda) if cuda else None


def _driver(cuda: str | None) -> tuple[bool, str | None]:
    """Return whether this machine has NVIDIA GPUs, working or not, and why torch cannot use them."""
    import pynvml

    built = f"torch is built for CUDA {cuda}"
    try:
        with nvml():
            reason = _too_old(cuda) if cuda else None
    except pynvml.NVMLError_LibraryNotFound:
        return False, f"no NVIDIA driver is found, and {built}: install it, or start the container with --gpus=all"
    except pynvml.NVMLError as error:
        fix = "see nvidia-smi; after an update of the driver, restart the host"
        return True, f"the NVIDIA driver does not work (NVML: {error}): {fix}"
    if reason or num_visible_gpus():
        return True, reason
    return False, f"no GPU is visible, and {built}: see nvidia-smi and CUDA_VISIBLE_DEVICES"


def _too_old(cuda: str) -> str | None:
    """Return why the driver cannot run a program that was built for this version of CUDA, or None; NVML is open.

    Raises:
        pynvml.NVMLError: The driver does not report its version.
    """
    import pynvml

    driver, major = pynvml.nvmlSystemGetDriverVersion(), int(cuda.partition(".")[0])
    oldest = OLDEST_DRIVERS.get(major)
    try:
        # From libcuda itself, so that a package for forward compatibility (cuda-compat) counts too.
        supported = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    except pynvml.NVMLError_LibraryNotFound:
        return (
            f"the NVIDIA driver's libcuda.so.1 is not found, and torch is built for CUDA {cuda}: in a container set "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )
    except pynvml.NVMLError:
        is_old, up_to = oldest is not None and int(driver.partition(".")[0]) < int(oldest), "an older CUDA"
    else:
        is_old, up_to = supported // 1000 < major, f"CUDA {supported // 1000}.{supported % 1000 // 10}"
    if not is_old:
        return None
    needed = f"driver {oldest} or later" if oldest else "a later driver"
    return f"NVIDIA driver {driver} runs {up_to} at most, and torch is built for CUDA {cuda}: install {needed}"


def _missing_package() -> str | None:
    missing = [name for name in ("vllm", "torch") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    fix = "run `make gpu` (for GPUs) or `make demo` (for the CPU)"
    return f"engine.kind=vllm: {' and '.join(missing)} not installed in {sys.prefix}: {fix}"


def _failing_import() -> str | None:
    """Return why vLLM cannot be imported, or None. In a process of its own: it takes seconds and imports torch."""
    done = _tried([sys.executable, "-c", "import vllm.v1.engine.async_llm"], IMPORT_S)
    if done is None or not done.returncode:
        return None
    last = next((each for each in reversed(done.stderr.splitlines()) if each.strip()), f"exit code {done.returncode}")
    return f"engine.kind=vllm: vllm cannot be imported in {sys.prefix} ({_short(last)}): run `make gpu` for a new one"


def _compiler_fault() -> str | None:
    """Return why Triton cannot compile its launchers here, or None; tried as in triton/runtime/build.py."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "there is no C compiler (gcc or clang), and Triton compiles kernels at first use: install gcc"
    scheme = sysconfig.get_default_scheme()
    include = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    with tempfile.TemporaryDirectory(prefix="pipeline-") as directory:
        source, library = Path(directory, "trial.c"), Path(directory, "trial.so")
        source.write_text("#include <Python.h>\n", encoding="utf-8")
        try:
            line = [compiler, str(source), "-O1", "-shared", "-fPIC", "-o", str(library), f"-I{include}"]
            done = _tried(line, COMPILE_S)
        except OSError as error:
            return f"the C compiler {compiler!r} cannot be run ({error.strerror}), and Triton needs one: install gcc"
    if done is None or not done.returncode:
        return None
    if "Python.h" in done.stderr:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        return f"Python.h is not in {include}, and Triton compiles kernels with it at first use: install {package}"
    reason = next((each for each in done.stderr.splitlines() if "error" in each), done.stderr)
    return f"the C compiler {compiler!r} fails ({_short(reason)}), and Triton needs it: install gcc and libc6-dev"


def _tried(line: list[str], longest_s: float) -> subprocess.CompletedProcess[str] | None:
    """Return the process that has run this command line, or None if it takes longer.

    Raises:
        OSError: It cannot be started.
    """
    try:
        return subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=longest_s, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return None


def _shared_memory(engine: EngineConfig) -> tuple[str | None, str | None]:
    """Return the fault and the warning about /dev/shm, through which the workers of a replica talk."""
    if engine.gpus_per_replica < 2:
        return None, None
    size = f"a replica of {engine.gpus_per_replica} GPUs"
    fix = "start the container with --ipc=host or --shm-size=16g, or remove what killed processes left there"
    if not Path(SHM).is_dir():
        return f"{SHM} does not exist, and the processes of {size} share memory there: {fix}", None
    free = shutil.disk_usage(SHM).free
    found = f"{SHM} has {free // MIB:,} MiB free, and"
    if free < SHM_BYTES:
        return f"{found} vLLM demands {SHM_BYTES // MIB} for {size}: {fix}", None
    if free < LITTLE_SHM_BYTES:
        return None, f"{found} NCCL may need {LITTLE_SHM_BYTES // MIB:,} for {size}: {fix}"
    return None, None


def _disk(config: Config, weights: Weights | None) -> tuple[str | None, str | None]:
    """Return the fault of the disk that the model is downloaded to, and the warning about that of output_dir."""
    fault = warning = None
    if weights is not None:
        missing, free = weights.missing_bytes(), free_bytes(Path(weights.cache))
        if free is not None and missing > free:
            fault = (
                f"model.path={config.model.path!r}: {missing / GB:,.1f} GB are still to be downloaded into "
                f"{weights.cache}, where {free / GB:,.1f} GB are free: free some space, or set HF_HOME to another disk"
            )
    if "://" not in config.output_dir:
        free = free_bytes(expanded(config.output_dir))
        if free is not None and free < LITTLE_DISK_BYTES:
            warning = f"output_dir={config.output_dir}: {free / GB:,.2f} GB are free: a run that fills the disk stops"
    return fault, warning


def _short(text: str) -> str:
    return escape_control(one_line(text, LONGEST_REASON))
