"""Runs the steps of a check, each in processes of its own, and reads what they leave.

In: `Settings`. Out: a `Measured`, in which a step that failed is its reason.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.questions import write_data_set
from bench.settings import ROOT
from faults.kill_random import journaled, process_of
from gpu_check.settings import Settings

from pipeline.records import KEY_COLUMNS, PROMPT_SCHEMA, SAMPLE_SCHEMA
from pipeline.runs.manifest import EngineInfo, read_manifest
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import escape_control, one_line

STEP_LIMIT_S = 3600.0
"""Seconds after which a step is ended: loading a large model takes minutes, and an engine may never answer."""

END_LIMIT_S = 90.0
"""Seconds that a step has to end by itself, with its engines."""

KV_MEMORY = re.compile(r"Available KV cache memory: ([0-9.]+) GiB")
WEIGHTS_MEMORY = re.compile(r"Model loading took ([0-9.]+) GiB")
"""What vLLM's workers log on a GPU (v1/worker/gpu_worker.py; v1/worker/gpu/model_runner.py)."""

KILLED_AFTER = 0.25
"""Share of the rows after which an engine is killed."""


@dataclass(slots=True)
class RunResult:
    """A run of the pipeline. `reason` is why it has failed; what is not known then is empty or None.

    `kv_memory_gib` and `weights_gib` are what vLLM has logged of a GPU's memory.
    """

    reason: str | None = None
    engines: dict[str, EngineInfo] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    num_prompts: int = 0
    seconds: float = 0.0
    kv_memory_gib: float | None = None
    weights_gib: float | None = None


@dataclass(slots=True)
class Measured:
    """What the three steps left: a run, plain vLLM on its prompts, and a run whose engine was killed.

    `times` is what `gpu_check.timed` recorded, `plain` what `gpu_check.plain` wrote; both are empty after a failure.
    `num_done_at_kill` is None if no engine was killed.
    """

    run: RunResult
    times: dict[str, Any]
    plain: dict[str, Any]
    plain_reason: str | None
    killed: RunResult
    num_done_at_kill: int | None


def measure(settings: Settings, report: Callable[[str], None]) -> Measured:
    """Run the three steps; `report` receives a line for each as it begins."""
    directory = settings.directory
    write_data_set(directory / "questions", settings.num_rows)
    times, answers = directory / "times.json", directory / "plain.json"
    report("1 of 3: the pipeline with one replica")
    reason = _step(directory / "run.log", "gpu_check.timed", str(times), *settings.run_arguments("check", 1))
    run = _result(settings.run_directory("check"), reason)
    report("2 of 3: plain vLLM with the same prompts and arguments")
    plain_reason: str | None = "there are no prompts"
    if run.num_prompts:
        run_directory = str(settings.run_directory("check"))
        plain_reason = _step(directory / "plain.log", "gpu_check.plain", run_directory, str(answers))
    report(f"3 of 3: the pipeline with as many replicas as there are GPUs for ({settings.num_replicas}); one is killed")
    killed, num_done = _killed_run(settings)
    return Measured(
        run=run,
        times={} if run.reason else json.loads(times.read_text(encoding="utf-8")),
        plain={} if plain_reason else json.loads(answers.read_text(encoding="utf-8")),
        plain_reason=plain_reason,
        killed=killed,
        num_done_at_kill=num_done,
    )


def _start(log: Path, module: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _step(log: Path, module: str, *arguments: str) -> str | None:
    """Run a module to its end; return None, or why it has failed."""
    process = _start(log, module, arguments)
    try:
        return _end(process, log)
    except BaseException:  # Ctrl-C
        _stop(process)
        raise


def _end(process: subprocess.Popen[bytes], log: Path) -> str | None:
    try:
        code = process.wait(timeout=STEP_LIMIT_S)
    except subprocess.TimeoutExpired:
        _stop(process)
        return f"it did not end within {STEP_LIMIT_S:.0f} s"
    if code == 0:
        return None
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {escape_control(one_line(lines[-1], 500)) if lines else 'no output'}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a step: the pipeline stops its engines after a SIGTERM, and after a second one at once."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=END_LIMIT_S)
            return


def _killed_run(settings: Settings) -> tuple[RunResult, int | None]:
    """Run the pipeline, kill an engine's process when some rows are done, and let the run go on to its end.

    Returns:
        The run, and how many rows were done at the kill.
    """
    directory, log = settings.run_directory("killed"), settings.directory / "killed.log"
    began = time.monotonic()
    process = _start(log, "pipeline.run", settings.run_arguments("killed", settings.num_replicas))
    num_done = None
    try:
        while process.poll() is None and time.monotonic() < began + STEP_LIMIT_S:
            done = journaled(directory)
            if done >= KILLED_AFTER * settings.num_rows and (pid := process_of(directory, b"VLLM::EngineCore")):
                num_done = done
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        reason = _end(process, log)
    except BaseException:
        _stop(process)
        raise
    result = _result(directory, reason)
    result.seconds = time.monotonic() - began
    return result, num_done


def _result(directory: Path, reason: str | None) -> RunResult:
    run = ArtifactStore.open(str(directory))
    result = RunResult(reason=reason)
    prompts = run.artifact("prompts", PROMPT_SCHEMA)
    result.num_prompts = prompts.num_rows if prompts is not None else 0
    if reason is not None:
        return result
    manifest = read_manifest(run)
    assert manifest is not None
    result.engines = dict(manifest.engine or {})
    columns = [*KEY_COLUMNS, "completion", "finish_reason", "num_output_tokens", "error", "attempts"]
    samples = run.require_artifact("samples", SAMPLE_SCHEMA).dataset()
    result.samples = samples.to_table(columns=columns).to_pylist()
    logs = "".join(file.read_text(errors="replace") for file in (directory / "logs").glob("*.log"))
    result.kv_memory_gib = min(map(float, KV_MEMORY.findall(logs)), default=None)
    result.weights_gib = max(map(float, WEIGHTS_MEMORY.findall(logs)), default=None)
    return result
