"""A model with which every row crashes real vLLM: a hybrid in float32, which the CPU kernels refuse."""

from __future__ import annotations

from pathlib import Path

import hybrids
import pytest
from builders import command

pytestmark = pytest.mark.slow


def test_a_model_that_crashes_vllm_with_every_row_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    hybrids.make_text_only(tmp_path / "hybrid", dtype="float32")
    model = f"model.path={tmp_path / 'hybrid'}"
    done = command("pipeline.run", "conf=demo", model, "run_id=hybrid", f"output_dir={tmp_path}")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stdout + done.stderr
    assert "crashed alike" in last
    assert "AssertionError: CPU GDN attention requires BF16 (" in last
    (log,) = (tmp_path / "run=hybrid" / "logs").glob("*-*.log")
    assert str(log) in last
    assert log.read_text().count("Starting to load model") <= 3
    restarts = [line for line in done.stdout.splitlines() if "the engine crashed: AssertionError: CPU GDN" in line]
    assert 1 <= len(restarts) <= 2
