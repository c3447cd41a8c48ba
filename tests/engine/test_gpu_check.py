"""The check for GPUs, run as far as a CPU goes: the demo's model, four starts of real vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ONLY_ON_GPUS = {
    *("GPUs are used", "stage time / plain vLLM", "weights in memory", "memory beside them", "time of a step"),
    "replicas on their own GPUs",
}


def test_on_a_cpu_every_check_passes_that_needs_no_gpu(tmp_path: Path) -> None:
    arguments = ["conf=demo", "rows=300", "generation.max_gen_toks=64", f"out={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "gpu_check", *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    (file,) = tmp_path.glob("*/gpu-check.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    checks = {check["name"]: check for check in found["checks"]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name for name, check in checks.items() if check["verdict"] == "skip"} == ONLY_ON_GPUS
    assert {name for name, check in checks.items() if check["verdict"] == "fail"} == set()
    assert checks["greedy answers"]["figures"]["rows"] == 300
    assert checks["a killed engine"]["figures"]["restarts"] >= 1
    assert 0.25 * 300 <= checks["a killed engine"]["figures"]["rows_done_at_the_kill"] < 300
    assert found["versions"]["torch"]
    assert str(tmp_path) not in file.read_text(encoding="utf-8")
    assert str(file) in done.stdout
