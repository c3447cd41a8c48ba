"""Real vLLM on the CPU with the demo model. Each start takes half a minute, so each is made once a session."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import ROOT, command

from pipeline.store import Folder

START_LIMIT_S = 300


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The demo, run once through the command line."""
    output = tmp_path_factory.mktemp("outputs")
    done = command("pipeline.run", "conf=demo", "run_id=demo", f"output_dir={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    run = Folder.open(str(output / "run=demo"))
    (output / "stdout.txt").write_text(done.stdout)
    return run


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own API server with the demo model; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "server.log"
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "data/demo/model"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    words += ["--enforce-eager", "--reasoning-parser", "qwen3", "--kv-cache-memory-bytes", str(1 << 30)]
    words += ["--max-num-seqs", "64", "--seed", "1234", "--served-model-name", "demo"]
    with log.open("w") as file:
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, "VLLM_NO_USAGE_STATS": "1"}
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.fixture(scope="session")
def plain_outputs(demo_run: Folder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What `vllm.LLM.generate` makes of the run's own prompts; [text, finish reason, number of tokens] by key."""
    target = tmp_path_factory.mktemp("plain") / "outputs.json"
    script = ROOT / "tests" / "engine" / "plain_generate.py"
    words = [sys.executable, str(script), demo_run.path("prompts"), str(target)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outputs: dict[str, list[object]] = json.loads(target.read_text())
    return outputs
