"""A value that vLLM does not support is one line that names the key."""

from __future__ import annotations

import subprocess
import sys

from builders import ROOT

SCRIPT = """
from pipeline.config.loading import compose
from pipeline.errors import PipelineError
from pipeline.generate.engines.vllm_engine import VllmFactory
overrides = ["reasoning_parser=qwen33", "engine.extra.colour=red", "model.path=/nowhere", "engine.batch_invariant=true",
             "model.context_size=5000"]
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
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ConfigError", "ModelError", "StartError"))]
    assert len(lines) == 5
    assert lines[0].startswith("ConfigError reasoning_parser='qwen33' is not known to vLLM: choose of ")
    assert "qwen3" in lines[0]
    assert lines[1].startswith("ConfigError engine.extra.colour='red': vLLM has no such engine argument")
    assert lines[2].startswith(
        "StartError model.path='/nowhere': vLLM does not start: HFValidationError: Repo id must "
    )
    assert lines[3].startswith("ConfigError engine.batch_invariant=True: ")
    assert lines[3].endswith("and this is cpu: set it to false")
    assert lines[4].startswith("ModelError model.context_size=5000: vLLM does not start: User-specified max_model_len ")
    assert lines[4].endswith(": set at most 1024")
