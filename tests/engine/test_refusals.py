"""A value that vLLM does not support is one line that names the key."""

from __future__ import annotations

import subprocess
import sys

from builders import ROOT

SCRIPT = """
from pipeline.config.loading import compose
from pipeline.errors import PipelineError
from pipeline.generate.engines.vllm_engine import VllmFactory
overrides = ["reasoning_parser=qwen33", "engine.extra.colour=red", "model.path=/nowhere", "engine.batch_invariant=true"]
for override in overrides:
    try:
        VllmFactory(compose(["conf=demo", override]))()
    except PipelineError as error:
        print(type(error).__name__, error)
"""


def test_each_error_names_its_key_and_value() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ConfigError", "ModelError"))]
    assert len(lines) == 4
    assert lines[0].startswith("ConfigError reasoning_parser='qwen33' is not known to vLLM: choose of ")
    assert "qwen3" in lines[0]
    assert lines[1].startswith("ConfigError engine.extra=")
    assert "colour" in lines[1]
    assert lines[2] == "ModelError model.path='/nowhere': vLLM does not start"
    assert lines[3].startswith("ConfigError engine.batch_invariant=True: ")
    assert lines[3].endswith("and this is cpu: set it to false")
