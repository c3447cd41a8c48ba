"""Parity test: lm-evaluation-harness 0.4.9 evaluates the demo, and `pipeline.replay` compares its logs with a run.

Usage: python tests/parity/harness.py <directory for logs and runs>

The harness is installed once into .venv-harness (HARNESS_VENV names another directory). It evaluates the tasks in
tests/parity/tasks with vLLM's API server, which serves the demo model. Then the demo runs through the pipeline, and
`python -m pipeline.replay` compares prompts, data, arguments, responses and scores. The exit code is replay's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(ROOT)]

from serving import api_server  # noqa: E402

HERE = TESTS / "parity"
VENV = Path(os.environ.get("HARNESS_VENV", ROOT / ".venv-harness"))
TASKS = "agro_bench,aqua_bench,med_bench"


def install() -> None:
    """Create the harness's virtual environment if it does not exist."""
    if not (VENV / "bin" / "lm_eval").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        pip = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--prefer-binary"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)


def evaluate(address: str, output: Path) -> None:
    """Evaluate the demo with the harness; its logs are written below `output`."""
    # Concurrent requests: with one at a time, 0.4.9 stops at a response without content (reasoning that never closed).
    model = f"model=demo,base_url={address}/chat/completions,num_concurrent=16,max_retries=1"
    arguments = ["--model", "local-chat-completions", "--model_args", model, "--apply_chat_template", "--log_samples"]
    arguments += ["--include_path", str(HERE / "tasks"), "--tasks", TASKS, "--output_path", str(output)]
    arguments += ["--seed", "1234"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(output / "cache"), "OPENAI_API_KEY": "none"}
    subprocess.run([VENV / "bin" / "lm_eval", *arguments], cwd=ROOT, env={**os.environ, **offline}, check=True)


def pipeline(*arguments: str) -> int:
    """Run a command of the pipeline in the project's directory; return its exit code."""
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, check=False).returncode


def main(output: Path) -> int:
    output.mkdir(parents=True)
    install()
    with api_server(output / "server.log") as address:
        evaluate(address, output / "harness")
    code = pipeline("pipeline.run", "conf=demo", "run_id=parity", f"output_dir={output}")
    if code:
        return code
    arguments = [f"logs={output / 'harness'}", "conf=demo", f"run={output / 'run=parity'}", f"out={output / 'replay'}"]
    return pipeline("pipeline.replay", *arguments)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve()))
