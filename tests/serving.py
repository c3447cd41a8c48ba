"""vLLM's own API server with the demo model, for the tests that send requests over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builders import ROOT

START_LIMIT_S = 300


@contextmanager
def api_server(log: Path) -> Iterator[str]:
    """Serve the demo model as `demo`, with the demo's reasoning parser; yield the address that ends in /v1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "data/demo/model"]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    arguments += ["--enforce-eager", "--reasoning-parser", "qwen3", "--kv-cache-memory-bytes", str(1 << 30)]
    arguments += ["--max-num-seqs", "64", "--seed", "1234", "--served-model-name", "demo"]
    with log.open("w") as file:
        process = subprocess.Popen(
            arguments, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, "VLLM_NO_USAGE_STATS": "1"}
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
