"""GPU information comes from the driver, through NVML's own binding; a stub library replays recorded answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from builders import ROOT

from pipeline.runs import environment
from pipeline.runs.manifest import load_engines

A100 = "NVIDIA A100-SXM4-80GB"
UUID = "GPU-00000000-0000-0000-0000-{:012d}"
Query: TypeAlias = Callable[..., list[dict[str, Any]]]
SCRIPT = (
    "import json, os, sys\nfrom pipeline.generate.engines.hardware import gpu_info\n"
    "selections = sys.argv[2:] or [os.environ.get('CUDA_VISIBLE_DEVICES')]\n"
    "print(json.dumps([gpu_info(int(sys.argv[1]), devices).to_flat() for devices in selections]))"
)


@pytest.fixture
def query(driver: Path) -> Query:
    """Query the GPU info of one replica, or of one per item of `devices`, in a process that loads the stub library."""

    def run(num_gpus: int, *devices: str, library: Path = driver, **environment: str) -> list[dict[str, Any]]:
        base = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        base |= {"LD_LIBRARY_PATH": str(library)} | environment
        line = [sys.executable, "-c", SCRIPT, str(num_gpus), *devices]
        done = subprocess.run(line, cwd=ROOT, env=base, capture_output=True, text=True, check=True)
        info: list[dict[str, Any]] = json.loads(done.stdout)
        return info

    return run


def test_a_replica_reports_the_gpus_that_ray_assigned_to_it(query: Query) -> None:
    assert query(2, CUDA_VISIBLE_DEVICES="5,6") == [
        {
            "gpu_names": f"{A100}, {A100}",
            "gpu_uuids": f"{UUID.format(5)}, {UUID.format(6)}",
            "gpu_memory_bytes": 80 << 30,
            "gpu_driver": "570.124.06",
        }
    ]


def test_a_gpu_may_be_selected_by_its_uuid(query: Query) -> None:
    (info,) = query(1, CUDA_VISIBLE_DEVICES=UUID.format(3))
    assert info["gpu_uuids"] == UUID.format(3)


def test_without_a_selection_the_first_gpu_is_reported(query: Query) -> None:
    (info,) = query(1)
    assert info["gpu_uuids"] == UUID.format(0)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"NVML_INIT": "9"}, "NVML: Driver Not Loaded"),
        ({"NVML_LOST": "0"}, "NVML: GPU is lost"),
        ({"CUDA_VISIBLE_DEVICES": "8"}, "NVML: Invalid Argument"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-none"}, "NVML: Not Found"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "1 GPUs are used, 0 are visible"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "1 GPUs are used, 0 are visible"),
        ({"NVML_COUNT": "0"}, "1 GPUs are used, 0 are visible"),
    ],
)
def test_after_a_driver_error_the_gpu_is_unknown(query: Query, environment: dict[str, str], reason: str) -> None:
    assert query(1, **environment) == [{"gpu_error": reason}]


def test_a_machine_without_a_driver_raises_no_error(query: Query, tmp_path: Path) -> None:
    (info,) = query(1, library=tmp_path)
    assert list(info) == ["gpu_error"] or info["gpu_driver"]  # the second: this machine has a driver of its own


def test_eight_replicas_are_eight_gpus(query: Query) -> None:
    replicas = query(1, *(str(number) for number in range(8)))
    engines = load_engines({str(number): info for number, info in enumerate(replicas)})
    assert environment.gpus(engines) == (f"8 x {A100}",)


def replica(*numbers: int, name: str = A100, session: str = "a") -> dict[str, Any]:
    uuids = ", ".join(f"{name} {number}" for number in numbers)
    return {"session": session, "device": "cuda", "gpu_names": ", ".join(name for _ in numbers), "gpu_uuids": uuids}


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ([replica(0, 1), replica(2, 3)], [f"4 x {A100}"]),
        ([replica(0), replica(0)], [f"1 x {A100}"]),
        ([replica(0), replica(1, session="b")], [f"1 x {A100}"]),
        ([replica(0), replica(0, name="NVIDIA H100", session="b")], [f"1 x {A100}", "1 x NVIDIA H100"]),
        ([replica(0), replica(0, name="NVIDIA H100")], [f"1 x {A100}, 1 x NVIDIA H100"]),
        ([replica(0), {"gave_up": "x"}], [f"1 x {A100}"]),
        ([replica(0) | {"gave_up": "x"}, replica(1)], [f"2 x {A100}"]),
        ([{"session": "a", "device": "cpu"}], []),
        ([replica(0), {"session": "a", "device": "cuda", "gpu_error": "NVML: Driver Not Loaded"}], None),
        ([{"base_url": "http://127.0.0.1:8000/v1"}], None),
        ([{"gave_up": "x"}], None),
        ([], None),
    ],
)
def test_the_manifest_counts_each_gpu_once(replicas: list[dict[str, Any]], expected: list[str] | None) -> None:
    found = environment.gpus(load_engines({str(number): info for number, info in enumerate(replicas)}))
    assert (found if found is None else list(found)) == expected
