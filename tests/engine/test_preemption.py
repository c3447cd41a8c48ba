"""Real vLLM with a KV cache that is too small for its requests: preempted rows are answered, counted and shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from builders import command

pytestmark = pytest.mark.slow


def test_preempted_rows_are_recorded_by_replica_and_a_line_says_what_to_change(tmp_path: Path) -> None:
    small = ("engine.extra.num_gpu_blocks_override=40", "engine.extra.enable_prefix_caching=false")
    done = command("pipeline.run", "conf=demo", "run_id=small", f"output_dir={tmp_path}", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    (engine,) = json.loads((tmp_path / "run=small" / "manifest.json").read_text())["engine"].values()
    assert engine["num_kv_blocks"] == 40
    assert engine["num_preemptions"] >= engine["num_preempted_rows"] > 0
    assert engine["peak_kv_cache_usage"] > 0.9
    num_rows = engine["num_preempted_rows"]
    line = rf"generate: {num_rows} rows? were preempted and computed again: fewer sequences .+ or more GPUs a replica"
    assert re.search(line, done.stdout)
