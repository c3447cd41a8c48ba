"""What the GPUs are comes from the driver: NVML's own binding, over a library that gives recorded answers."""

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
Ask: TypeAlias = Callable[..., list[dict[str, Any]]]
ASK = (
    "import json, os, sys\nfrom pipeline.generate.engines.hardware import gpu_info\n"
    "visible = sys.argv[2:] or [os.environ.get('CUDA_VISIBLE_DEVICES')]\n"
    "print(json.dumps([gpu_info(int(sys.argv[1]), devices).to_flat() for devices in visible]))"
)


@pytest.fixture
def ask(driver: Path) -> Ask:
    """Ask for the facts of one replica, or of one for each of `visible`, in a process that loads the recording."""

    def asked(num_gpus: int, *visible: str, library: Path = driver, **environment: str) -> list[dict[str, Any]]:
        base = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        base |= {"LD_LIBRARY_PATH": str(library)} | environment
        line = [sys.executable, "-c", ASK, str(num_gpus), *visible]
        done = subprocess.run(line, cwd=ROOT, env=base, capture_output=True, text=True, check=True)
        facts: list[dict[str, Any]] = json.loads(done.stdout)
        return facts

    return asked


def test_a_replica_tells_of_the_gpus_that_ray_gave_it(ask: Ask) -> None:
    assert ask(2, CUDA_VISIBLE_DEVICES="5,6") == [
        {
            "gpu_names": f"{A100}, {A100}",
            "gpu_uuids": f"{UUID.format(5)}, {UUID.format(6)}",
            "gpu_memory_bytes": 80 << 30,
            "gpu_driver": "570.124.06",
        }
    ]


def test_a_gpu_may_be_named_by_its_uuid(ask: Ask) -> None:
    (facts,) = ask(1, CUDA_VISIBLE_DEVICES=UUID.format(3))
    assert facts["gpu_uuids"] == UUID.format(3)


def test_without_a_choice_the_engine_takes_the_first(ask: Ask) -> None:
    (facts,) = ask(1)
    assert facts["gpu_uuids"] == UUID.format(0)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"NVML_INIT": "9"}, "NVML: Driver Not Loaded"),
        ({"NVML_LOST": "0"}, "NVML: GPU is lost"),
        ({"CUDA_VISIBLE_DEVICES": "8"}, "NVML: Invalid Argument"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-none"}, "NVML: Not Found"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "NVML: Not Found"),
        ({"NVML_COUNT": "0"}, "1 GPUs are used, 0 are visible"),
    ],
)
def test_what_the_driver_does_not_tell_stays_unknown(ask: Ask, environment: dict[str, str], reason: str) -> None:
    assert ask(1, **environment) == [{"gpu_error": reason}]


def test_a_machine_without_a_driver_is_no_error(ask: Ask, tmp_path: Path) -> None:
    (facts,) = ask(1, library=tmp_path)
    assert list(facts) == ["gpu_error"] or facts["gpu_driver"]  # the second: this machine has a driver of its own


def test_eight_replicas_are_eight_gpus(ask: Ask) -> None:
    replicas = ask(1, *(str(number) for number in range(8)))
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
