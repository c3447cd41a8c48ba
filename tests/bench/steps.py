"""Reads the model's steps that the meter in vLLM's worker has recorded, by the clock that all processes share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bench.meter.bench_meter import STEP

METER = Path(__file__).resolve().parent / "meter"


def metered(environment: dict[str, str], directory: Path) -> dict[str, str]:
    """Return the environment in which vLLM records its steps in `directory`; delete the steps that are there."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in directory.glob("*.steps"):
        file.unlink()
    path = os.pathsep.join([str(METER), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**environment, "PYTHONPATH": path, "BENCH_STEPS": str(directory)}


def taken(directory: Path, began: float, ended: float) -> dict[str, Any]:
    """Return the number, the seconds and the CPU seconds of the steps that began between `began` and `ended`."""
    found = [step for file in directory.glob("*.steps") for step in STEP.iter_unpack(file.read_bytes())]
    found = [step for step in found if began <= step[0] <= ended]
    return {
        "num_steps": len(found),
        "steps_s": sum(end - begin for begin, end, _ in found),
        "steps_cpu_s": sum(spent for _, _, spent in found),
    }
