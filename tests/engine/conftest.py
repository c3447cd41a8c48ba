"""Real vLLM on the CPU with the demo model.

Starting an engine takes half a minute, so fixtures are shared by the tests of a module. They end with the module: even
an idle engine uses a tenth of a core.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import serving
from builders import ROOT, command

from pipeline.storage.artifacts import ArtifactStore


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """The demo, run once through the command line, with a few questions a second time."""
    output = tmp_path_factory.mktemp("outputs")
    done = command("pipeline.run", "conf=demo", "run_id=demo", f"output_dir={output}", "noise.share=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    run = ArtifactStore.open(str(output / "run=demo"))
    (output / "stdout.txt").write_text(done.stdout)
    return run


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own API server with the demo model; yields its address."""
    with serving.api_server(tmp_path_factory.mktemp("server") / "server.log") as address:
        yield address


@pytest.fixture(scope="module")
def plain_outputs(demo_run: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """The outputs of `vllm.LLM.generate` for the run's prompts: [text, finish reason, number of tokens] by key."""
    target = tmp_path_factory.mktemp("plain") / "outputs.json"
    script = ROOT / "tests" / "engine" / "plain_generate.py"
    arguments = [sys.executable, str(script), demo_run.path("prompts"), str(target)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outputs: dict[str, list[object]] = json.loads(target.read_text())
    return outputs
