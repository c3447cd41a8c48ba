"""The manifests of conf/kuberay, their scripts, and the commands that they run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from builders import ROOT

from pipeline.cli import COMMANDS, parse
from pipeline.config.loading import compose

KUBERAY = ROOT / "conf/kuberay"
CLUSTER_NAME = "nightly-29401260-x7k2p"
"""A RayCluster of the RayJob nightly-29401260, as KubeRay names it: five more characters for each try."""


def documents(name: str) -> list[dict[str, Any]]:
    """Return the documents of a manifest."""
    return list(yaml.safe_load_all((KUBERAY / name).read_text(encoding="utf-8")))


def manifests() -> dict[str, dict[str, Any]]:
    """Return every document of every manifest, by file and kind."""
    files = sorted(file.name for file in KUBERAY.glob("*.yaml"))
    return {f"{name}: {document['kind']}": document for name in files for document in documents(name)}


def ray_jobs() -> dict[str, dict[str, Any]]:
    """Return the spec of each RayJob, by file."""
    nightly = documents("nightly.yaml")[0]["spec"]["jobTemplate"]
    specs = {name: documents(name)[0]["spec"] for name in ("nightly-job.yaml", "run.yaml")}
    return {"nightly.yaml": nightly, **specs}


def pods(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the pod templates of a RayJob, by what runs in them."""
    cluster = spec["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}


def fakes(directory: Path, **scripts: str) -> dict[str, str]:
    """Return an environment whose PATH has these programs first, each a script of the shell."""
    directory.mkdir(exist_ok=True)
    for name, script in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (directory / name).chmod(0o755)
    return {**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}


def shell(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script as a container's shell does."""
    return subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def words_of_entrypoint(entrypoint: str, directory: Path) -> list[str]:
    """Return the words with which the shell of the head pod starts Python."""
    environment = fakes(directory, python='printf "%s\\n" "$@"') | {"RAY_CLUSTER_NAME": CLUSTER_NAME}
    done = shell(entrypoint.replace("/tmp/driver.pid", str(directory / "driver.pid")), environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def require_parsed(words: Sequence[str]) -> None:
    """Check that a command exists and accepts its words, its configuration included.

    Raises:
        ConfigError: A word, a key or a value is wrong.
    """
    name = words[0].removeprefix("pipeline.")
    assert name in COMMANDS, f"python -m pipeline.{name}"
    values, overrides = parse(name, words[1:])
    if COMMANDS[name].keys == "" and "source" not in values:
        has_conf = any(word.startswith("conf=") for word in overrides)
        compose(overrides if has_conf else ["conf=demo", *overrides])
