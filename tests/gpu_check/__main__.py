"""The first hour on a GPU: `make gpu-check`, or

    PYTHONPATH=tests .venv-gpu/bin/python -m gpu_check [rows=1000] [gpu=A100-SXM4-80GB] [out=...] [conf=mera] key=value

Runs the pipeline and plain vLLM on the same questions, compares their answers and times and the planner's predictions
with what vLLM reports, and kills an engine during a run. Out: `<out>/<UTC time>/gpu-check.json` and a table. The file
has versions, GPUs and figures; no paths, no texts, no identifiers of the GPUs. Exit code 1 if a check has failed.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu_check.checks import Check, all_checks, find_shape, worst
from gpu_check.settings import Settings, find_gpus, parse
from gpu_check.steps import Measured, measure
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.config.schema import Config
from pipeline.errors import PipelineError
from pipeline.runs import environment, installation
from pipeline.runs.manifest import dump

PRIVATE = {"gpu_uuids", "session", "base_url"}
"""Fields of an engine's record that do not leave the machine."""

DIRECTORIES = re.compile(r"(?<![\w/])(?:/[^\s/:;,'\"()\[\]{}]+)+/")
"""The directories of an absolute path; not of a URL, nor of a hub id."""


def main(arguments: list[str]) -> int:
    settings, config = parse(arguments, find_gpus())
    installation.check(config.engine)
    settings.directory.mkdir(parents=True)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, soft_wrap=True)
    console.print(f"logs: {settings.directory}")
    measured = measure(settings, console.print)
    checks = all_checks(settings, config, measured, find_shape(config))
    file = settings.directory / "gpu-check.json"
    file.write_text(json.dumps(report(settings, config, measured, checks), indent=1, ensure_ascii=False) + "\n")
    console.print(table(checks))
    console.print(f"Please send us this file: {file}")
    return worst(checks)


def report(settings: Settings, config: Config, measured: Measured, checks: list[Check]) -> dict[str, Any]:
    """Return what is worth sending, without paths."""
    engine = next(iter(measured.run.engines.values()), None)
    commit = environment.codebase()
    found = {
        "date": environment.now(),
        "versions": environment.versions(),
        "codebase": commit and dump(commit),
        "hardware": dump(environment.hardware()),
        "driver": settings.gpus.driver,
        "gpus": settings.gpus.names,
        "smallest_gpu_bytes": settings.gpus.memory_bytes,
        "model": {"path": Path(str(config.model.path)).name, "context_size": config.model.context_size},
        "rows": settings.num_rows,
        "max_gen_toks": config.generation.max_gen_toks,
        "engine": {
            "tensor_parallel_size": config.engine.tensor_parallel_size,
            "pipeline_parallel_size": config.engine.pipeline_parallel_size,
            "max_num_seqs": config.engine.max_num_seqs,
            "gpu_memory_utilization": config.engine.gpu_memory_utilization,
            "extra": config.engine.extra,
        },
        "engine_reported": {k: v for k, v in engine.to_flat().items() if k not in PRIVATE} if engine else None,
        "checks": [asdict(check) for check in checks],
    }
    return without_paths(found)


def without_paths(value: Any) -> Any:
    """Return the value with the directories of all absolute paths in its texts left out."""
    if isinstance(value, dict):
        return {name: without_paths(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(each) for each in value]
    return DIRECTORIES.sub(".../", value) if isinstance(value, str) else value


def table(checks: list[Check]) -> Table:
    """Return the checks for the terminal."""
    found = Table("check", "result", "figures", box=box.SIMPLE_HEAD)
    for check in checks:
        figures = ", ".join(f"{name} {_short(value)}" for name, value in check.figures.items())
        found.add_row(check.name, check.verdict, "; ".join(filter(None, [check.reason, figures])))
    return found


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return " ".join(map(_short, value)) or "none"
    return str(value)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    raise SystemExit(code)
