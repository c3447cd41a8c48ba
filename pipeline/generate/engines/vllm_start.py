"""What vLLM is doing while it starts, and which MoE configuration it chose, by the lines that it logs.

In: text of a replica's log. Out: a `StartPhase`, or the configuration. The patterns are lines of vLLM 0.32 with their
sources; a line that none of them matches is ignored. Progress bars are lines too, ended by a carriage return.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartPhase:
    """What a start is at, with `percent` of it where vLLM shows that."""

    name: str
    percent: int | None = None


_PERCENT = r".*?:\s+(?P<percent>\d{1,3})%"

_PHASES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # Of a hub model the weights are downloaded between these two lines, and vLLM hides the progress bar of that:
        # model_executor/model_loader/base_loader.py:82, weight_utils.py:532. Weights on disk pass in a moment.
        (r"Initializing model took", "downloading weights"),
        (r"Time spent downloading weights|Filesystem type for checkpoints", "loading weights"),  # weight_utils.py:1108
        # weight_utils.py:867-1435, the loaders' progress bars
        (rf"(?:Loading .*(?:shards|Streamer|loader)|Multi-thread loading shards){_PERCENT}", "loading weights"),
        # v1/worker/gpu_model_runner.py:5040, cpu_model_runner.py:68, gpu/model_runner.py:392
        (r"Starting to load model|Loading model from scratch", "building the model"),
        # default_loader.py:501, gpu_model_runner.py:5150, gpu/model_runner.py:424
        (r"Loading weights took|Model loading took", "profiling"),
        (r"Starting torch\.compile|Dynamo bytecode transform|Compiling a graph", "compiling"),  # compilation/monitor.py
        # compilation/monitor.py:62, 91; gpu_model_runner.py:6369
        (r"torch\.compile took|Initial profiling/warmup run took|Profiling CUDA graph memory", "profiling"),
        # gpu_worker.py:759, cpu_worker.py:250, kv_cache_utils.py:2327
        (r"Available KV cache memory|GiB for KV cache|KV cache size", "allocating the KV cache"),
        # model_executor/warmup/: kernel_warmup.py:176, 367, deep_gemm_warmup.py:369, cutedsl_warmup.py:85
        (rf"(?:DeepGEMM warmup|Compiling CuTeDSL kernels){_PERCENT}", "warming up kernels"),
        (r"JIT kernel warmup starting|FlashInfer autotune with|Warming up \w+", "warming up kernels"),
        # gpu_model_runner.py:6657, gpu/cudagraph_utils.py:456
        (rf"Capturing CUDA graphs{_PERCENT}", "capturing CUDA graphs"),
        (r"Initializing a V1 LLM engine", "starting the engine's processes"),  # v1/engine/core.py:133
        (r"Resolved architecture", "reading the model's configuration"),  # config/model.py:733
    )
)

_MOE_FILE = re.compile(r"Using configuration from (.+?) for MoE layer\.")  # fused_moe/fused_moe.py:1151
_NO_MOE_FILE = re.compile(r"Using default MoE config\.")  # fused_moe/fused_moe.py:1164

DEFAULT_MOE_CONFIG = "default"
"""The MoE configuration where vLLM found no file that was tuned for the GPU and the model's shape."""


def start_phase(log: str) -> StartPhase | None:
    """Return the state of the start by the last line that has one; None if no line does."""
    for line in reversed(re.split(r"[\r\n]+", log)):
        for pattern, name in _PHASES:
            found = pattern.search(line)
            if found is not None:
                percent = found.groupdict().get("percent")
                return StartPhase(name, int(percent) if percent is not None else None)
    return None


def moe_config(log: str) -> str | None:
    """Return the file with which vLLM's MoE kernel is tuned, `default` where there is none for the model and the GPU.

    None if vLLM chose neither: the model has no experts, or another kernel computes them. A file of vLLM's own is
    named from its package on, so that it is the same in every installation.
    """
    found = _MOE_FILE.search(log)
    if found is not None:
        return found[1].rpartition("site-packages/")[2]
    return DEFAULT_MOE_CONFIG if _NO_MOE_FILE.search(log) else None
