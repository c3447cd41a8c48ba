"""Plans for a model on GPUs: for each tensor parallel size, the sequences that fit and a roofline of the speed.

In: a model's `Shape`, a kind of GPU, and an assumed workload. Out: one `Plan` per size. It is an estimate, not a
measurement: a step takes the time of its memory accesses or of its arithmetic at the peaks of the data sheet (Williams,
Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009), prompts are computed apart from the
decoding steps, and every sequence reserves the memory of its full length.

    step        max(bytes read / bandwidth, operations / peak) + all-reduces
    bytes       weights that the step's tokens read + the KV cache of every sequence + its recurrent state, twice
    operations  2 x active parameters x tokens + 4 x context x query heads x head size x attention layers x tokens
    all-reduces two per layer (Shoeybi et al., "Megatron-LM", 2019), each as a ring: 2 (n - 1) / n of the activations
                over a link, after a latency
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.generate.cluster import num_groups
from pipeline.planner.model_shape import Shape

BLOCK_TOKENS = 16
"""Tokens of a block of vLLM's KV cache on a GPU; more where recurrent layers share blocks, see `_sequence_bytes`."""

RESERVED_BYTES = 4 << 30
"""Bytes of each GPU's share for activations, CUDA graphs and a step's logits: an assumption, where vLLM measures."""

ALL_REDUCE_LATENCY_S = 10e-6
"""Seconds of an all-reduce of few bytes over NVLink: an assumption, of the order that NCCL's tests print."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A kind of GPU; bandwidth in bytes/s, peak in dense BF16 operations/s, link in bytes/s one way."""

    name: str
    memory_bytes: float
    bandwidth: float
    peak: float
    link: float


# NVIDIA's data sheets of each product. Memory is what CUDA reports, about 1% below the name.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(name="A100-SXM4-40GB", memory_bytes=39.4 * 2**30, bandwidth=1.555e12, peak=312e12, link=300e9),
        Gpu(name="A100-SXM4-80GB", memory_bytes=79.2 * 2**30, bandwidth=2.039e12, peak=312e12, link=300e9),
        Gpu(name="H100-SXM5-80GB", memory_bytes=79.1 * 2**30, bandwidth=3.35e12, peak=989e12, link=450e9),
        Gpu(name="H200-SXM5-141GB", memory_bytes=139.8 * 2**30, bandwidth=4.8e12, peak=989e12, link=450e9),
        Gpu(name="L40S-48GB", memory_bytes=44.4 * 2**30, bandwidth=0.864e12, peak=362e12, link=32e9),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The assumed workload: completions, mean tokens of a prompt and of a completion, slots of an engine."""

    num_rows: int
    num_prompt_tokens: float
    num_output_tokens: float
    max_num_seqs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One tensor parallel size. `num_fitting` sequences of the assumed length fit in an engine; times in seconds."""

    tensor_parallel_size: int
    num_replicas: int
    weights_bytes_per_gpu: float
    kv_bytes_per_sequence: float
    recurrent_bytes_per_sequence: float
    num_fitting: int
    num_running: int
    step_s: float
    tokens_per_s: float
    wall_s: float
    bound: str


def plans(shape: Shape, gpu: Gpu, num_gpus: int, gpus_per_node: int, share: float, work: Workload) -> list[Plan]:
    """Return a plan for each tensor parallel size that fits, the fastest first.

    Args:
        shape: The model.
        gpu: The kind of GPU.
        num_gpus: GPUs of the cluster.
        gpus_per_node: GPUs that a tensor parallel group can spread over.
        share: Fraction of a GPU's memory that the engine may use, as engine.gpu_memory_utilization.
        work: The assumed workload.

    Raises:
        ConfigError: The model fits on no group of these GPUs.
    """
    num_nodes, rest = divmod(num_gpus, gpus_per_node)
    nodes = [gpus_per_node] * num_nodes + [rest]
    found = [
        plan
        for size in _sizes(shape, min(num_gpus, gpus_per_node))
        if (plan := _plan(shape, gpu, num_groups(nodes, size), size, share, work)) is not None
    ]
    if not found:
        raise ConfigError(
            f"model.path: {shape.name} weighs {shape.weights_bytes / 1e9:.1f} GB, and {gpus_per_node} x {gpu.name} "
            "of a node hold no sequence beside it: use more or larger GPUs, or a quantized model"
        )
    return sorted(found, key=lambda plan: (plan.wall_s, plan.tensor_parallel_size))


def _sizes(shape: Shape, most: int) -> Sequence[int]:
    """Return the sizes that vLLM accepts: they divide the heads, and split or copy the KV heads evenly."""
    return [
        size
        for size in (1, 2, 4, 8, 16)
        if size <= most
        and shape.num_attention_heads % size == 0
        and (shape.num_kv_heads % size == 0 or size % shape.num_kv_heads == 0)
        and shape.num_recurrent_heads % size == 0
    ]


def _plan(shape: Shape, gpu: Gpu, num_replicas: int, size: int, share: float, work: Workload) -> Plan | None:
    kv_bytes, recurrent_bytes = _sequence_bytes(shape, size, work.num_prompt_tokens + work.num_output_tokens)
    free_bytes = size * (gpu.memory_bytes * share - RESERVED_BYTES) - shape.weights_bytes
    num_fitting = int(free_bytes // (kv_bytes + recurrent_bytes)) if free_bytes > 0 else 0
    num_running = min(num_fitting, work.max_num_seqs, math.ceil(work.num_rows / num_replicas))
    if num_running < 1:
        return None
    step_s, bound = _step(shape, gpu, size, num_running, work.num_prompt_tokens + work.num_output_tokens / 2)
    prefill_s = 2 * shape.num_active_params * work.num_prompt_tokens / (size * gpu.peak)
    row_s = work.num_output_tokens * step_s / num_running + prefill_s
    return Plan(
        tensor_parallel_size=size,
        num_replicas=num_replicas,
        weights_bytes_per_gpu=shape.weights_bytes / size,
        kv_bytes_per_sequence=kv_bytes,
        recurrent_bytes_per_sequence=recurrent_bytes,
        num_fitting=num_fitting,
        num_running=num_running,
        step_s=step_s,
        tokens_per_s=num_replicas * work.num_output_tokens / row_s,
        wall_s=work.num_rows * row_s / num_replicas,
        bound=bound,
    )


def _sequence_bytes(shape: Shape, size: int, num_tokens: float) -> tuple[float, float]:
    """Return a sequence's bytes on all GPUs of a group: in the KV cache, and of recurrent state.

    vLLM keeps both in blocks of the same number of bytes: with recurrent layers, a block of the KV cache has so many
    tokens that a layer's state fits into it (vllm/platforms/interface.py, _align_hybrid_block_size).
    """
    token_bytes = _token_bytes(shape, size)
    block, state_bytes = BLOCK_TOKENS, 0.0
    if shape.num_recurrent_layers:
        state_bytes = shape.recurrent_bytes / shape.num_recurrent_layers / size
        if token_bytes:
            block = BLOCK_TOKENS * math.ceil(state_bytes / (BLOCK_TOKENS * token_bytes))
            state_bytes = block * token_bytes
    paged = shape.cached_tokens(block * math.ceil(num_tokens / block))
    return size * token_bytes * paged, size * state_bytes * shape.num_recurrent_layers


def _token_bytes(shape: Shape, size: int) -> float:
    """Return the bytes of a token in a layer on one GPU of a group; it keeps at least one KV head."""
    if not shape.num_attention_layers:
        return 0.0
    return shape.kv_bytes_per_token / shape.num_attention_layers * max(1 / size, 1 / shape.num_kv_heads)


def _step(shape: Shape, gpu: Gpu, size: int, num_running: int, context: float) -> tuple[float, str]:
    """Return the seconds of a decoding step of one replica, and its bound: memory, arithmetic or links."""
    kv_bytes = size * _token_bytes(shape, size) * shape.cached_tokens(context)
    read = shape.weights_read(num_running) + num_running * (kv_bytes + 2 * shape.recurrent_bytes)
    memory_s = read / (size * gpu.bandwidth)
    per_token = 2 * shape.num_active_params
    per_token += 4 * shape.cached_tokens(context) * shape.num_attention_heads * shape.head_size
    arithmetic_s = num_running * per_token / (size * gpu.peak)
    links_s = 0.0
    if size > 1:
        sent = 2 * (size - 1) / size * num_running * shape.hidden_size * 2
        links_s = 2 * shape.num_layers * (ALL_REDUCE_LATENCY_S + sent / gpu.link)
    bounds = {"memory": memory_s, "arithmetic": arithmetic_s, "links": links_s}
    return max(memory_s, arithmetic_s) + links_s, max(bounds, key=lambda name: bounds[name])
