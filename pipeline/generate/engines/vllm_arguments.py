"""The configuration as vLLM's arguments.

In: the run's configuration. Out: `AsyncEngineArgs`, and the keyword arguments of `SamplingParams`; a mode that the
hardware does not support is refused. Try it: `python -m pipeline.preview conf=demo` prints the sampling in force.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from pipeline.config.harness_arguments import sampling
from pipeline.config.schema import Config
from pipeline.errors import ConfigError


def engine_arguments(config: Config, *, spans_nodes: bool = False) -> Any:
    """Return vLLM's `AsyncEngineArgs` for the configuration; `engine.extra` overrides what is set here.

    Args:
        config: The run's configuration.
        spans_nodes: Whether the replica's GPUs are on several nodes, in the placement group of its actor.

    Raises:
        ConfigError: vLLM does not know a key of `engine.extra`.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    engine, model = config.engine, config.model
    arguments: dict[str, Any] = {
        "model": model.path,
        "revision": model.revision,
        "tokenizer_revision": model.revision,
        "dtype": model.dtype,
        "max_model_len": model.context_size,
        "trust_remote_code": model.trust_remote_code,
        "seed": config.seed,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "max_num_seqs": engine.max_num_seqs,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "disable_log_stats": True,
        "enable_log_requests": False,
    }
    if engine.gpus_per_replica > 1:
        # On one machine the actor holds all GPUs; over several, vLLM's own actors take them from its placement group.
        arguments["distributed_executor_backend"] = "ray" if spans_nodes else "mp"
    known = {field.name for field in fields(AsyncEngineArgs)}
    for name, value in engine.extra.items():
        if name not in known:
            raise ConfigError(f"engine.extra.{name}={value!r}: vLLM has no such engine argument{_hint(name, known)}")
    return AsyncEngineArgs(**{**arguments, **engine.extra})


def _hint(name: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(name, known, 1)
    return f": did you mean {nearest[0]}?" if nearest else ""


def sampling_arguments(config: Config) -> dict[str, Any]:
    """Return the sampling in force under vLLM's names, without the seed; the model's generation config is not used."""
    generation = config.generation
    return {"max_tokens": generation.max_gen_toks, "stop": list(generation.until), **sampling(generation)}


def require_batch_invariance() -> None:
    """Check that the hardware supports vLLM's batch-invariant mode; loads no model.

    Source: vLLM 0.32, envs.py, VLLM_BATCH_INVARIANT: "NVIDIA GPU with compute capability >= 9.0". On other hardware
    vLLM starts without an error, with kernels that are not batch-invariant.

    Raises:
        ConfigError: There is no such GPU.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cuda() and current_platform.has_device_capability(90):
        return
    found = str(current_platform.device_type)
    if current_platform.is_cuda():
        found = f"{current_platform.get_device_name()} ({current_platform.get_device_capability().as_version_str()})"
    raise ConfigError(
        f"engine.batch_invariant=True: vLLM has this mode on NVIDIA GPUs of compute capability 9.0 and up, and this "
        f"is {found}: set it to false"
    )
