"""The settings of a check: own arguments, and the configurations of its two runs.

In: `key=value` arguments. Out: `Settings`. Arguments that are not the check's own override the configuration.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.settings import ROOT

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.generate.engines.hardware import gpu_info
from pipeline.planner.roofline import GPUS
from pipeline.prepare.own_model import with_own_context

TASK = "check"
"""The only task of the runs: questions like the demo's, so that no data set has to be downloaded."""

BEFORE = ("generation.max_gen_toks=512", "prompt.fingerprint_policy=warn", "schedule.history=null")
"""Defaults of a check, where they differ from the configuration's; the caller may override them."""

AFTER = (
    f"only=[{TASK}]",
    "splits=[test]",
    "limit=null",
    "generation.do_sample=false",
    "generation.repeats=1",
    "noise.share=0",
    "gate.baseline=null",
    "cluster.address=local",
)
"""What the comparison depends on; the caller cannot override it."""

SHEETS = {
    "NVIDIA A100-SXM4-40GB": "A100-SXM4-40GB",
    "NVIDIA A100-SXM4-80GB": "A100-SXM4-80GB",
    "NVIDIA H100 80GB HBM3": "H100-SXM5-80GB",
    "NVIDIA H200": "H200-SXM5-141GB",
    "NVIDIA L40S": "L40S-48GB",
}
"""The planner's data sheet of a GPU, by the driver's name of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The NVIDIA GPUs of this machine that a run may use; `memory_bytes` is that of the smallest.

    `reason` is why there are none, as the driver reports it.
    """

    names: tuple[str, ...] = ()
    memory_bytes: int | None = None
    driver: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One check: its directory, its number of questions, the planner's name of the GPUs, the configuration's arguments.

    `num_replicas` is how many replicas the GPUs hold.
    """

    directory: Path
    num_rows: int
    gpu: str | None
    gpus: Gpus
    num_replicas: int
    arguments: tuple[str, ...]

    def run_arguments(self, run_id: str, num_replicas: int) -> list[str]:
        """Return the arguments of a run with this many replicas."""
        fixed = [f"tasks.{TASK}.dataset={self.directory / 'questions'}", f"tasks.{TASK}.domain={TASK}", *AFTER]
        where = [f"output_dir={self.directory}", f"run_id={run_id}", f"engine.replicas={num_replicas}"]
        return [*self.arguments, *fixed, *where]

    def run_directory(self, run_id: str) -> Path:
        return self.directory / f"run={run_id}"


def parse(arguments: Sequence[str], gpus: Gpus) -> tuple[Settings, Config]:
    """Return the settings that the arguments describe, and the configuration of the run with one replica.

    They are `rows=1000`, `gpu=<the planner's name>` and `out=outputs/gpu-check`. Others are for the configuration, by
    default `conf=mera`, or `conf=own` with `model.path=`. Where the machine has fewer GPUs than one replica of it
    takes, and the arguments say nothing about it, a replica takes one.

    Raises:
        ConfigError: An argument is neither one of these nor a key of the configuration, or its value is invalid.
    """
    values = dict(argument.partition("=")[::2] for argument in arguments)
    directory = ROOT / values.pop("out", "outputs/gpu-check") / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    rows, gpu = values.pop("rows", "1000"), values.pop("gpu", None)
    if not (rows.isdecimal() and int(rows)):
        raise ConfigError(f"rows={rows!r}: give a number above 0")
    if gpu is not None and gpu not in GPUS:
        raise ConfigError(f"gpu={gpu!r} is not known: choose of {', '.join(GPUS)}")
    conf = f"conf={values.pop('conf', 'own' if 'model.path' in values else 'mera')}"
    own = [f"{name}={value}" for name, value in values.items()]
    config = compose([conf, *BEFORE, *own])
    if config.model.context_size is None:
        own.append(f"model.context_size={with_own_context(config).model.context_size}")
    size = config.engine.gpus_per_replica
    sizes = ("engine.tensor_parallel_size", "engine.pipeline_parallel_size")
    if size > len(gpus.names) and not any(name in values for name in sizes):
        own, size = [f"{sizes[0]}=1", f"{sizes[1]}=1", *own], 1
    settings = Settings(
        directory=directory.resolve(),
        num_rows=int(rows),
        gpu=gpu or next((SHEETS[name] for name in gpus.names[:1] if name in SHEETS), None),
        gpus=gpus,
        num_replicas=max(1, len(gpus.names) // size),
        arguments=(conf, *BEFORE, *own),
    )
    return settings, compose(settings.run_arguments("check", 1))


def find_gpus() -> Gpus:
    """Return the GPUs that the driver reports and CUDA_VISIBLE_DEVICES does not hide; starts no CUDA context."""
    import pynvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        pynvml.nvmlInit()
        num_gpus = pynvml.nvmlDeviceGetCount() if visible is None else len([*filter(None, visible.split(","))])
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return Gpus(reason=f"NVIDIA's driver does not answer: {error}")
    if not num_gpus:
        return Gpus(reason="no GPU is visible")
    info = gpu_info(num_gpus, visible)
    names = tuple((info.gpu_names or "").split(", ")) if info.gpu_error is None else ()
    return Gpus(names=names, memory_bytes=info.gpu_memory_bytes, driver=info.gpu_driver, reason=info.gpu_error)
