"""Plans for a model on GPUs: for each tensor parallel size, whether vLLM starts, and a roofline of the speed.

In: a model's `Shape`, a kind of GPU, the engine's settings and an assumed workload. Out: one `Plan` per size. It is an
estimate, not a measurement: a step takes the time of its memory accesses or of its arithmetic at the peaks of the data
sheet (Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009), prompts are
computed apart from the decoding steps, and every sequence reserves the blocks of its full length.

    step        max(bytes read / bandwidth, operations / peak) + all-reduces, or the front end's time if that is longer
    bytes       weights that the step's tokens read + the KV cache of every sequence + its recurrent state, twice
    operations  2 x active parameters x tokens + 4 x context x query heads x head size x attention layers x tokens
    all-reduces two per layer (Shoeybi et al., "Megatron-LM", 2019), each as a ring: 2 (n - 1) / n of the activations
                over a link, after a latency
    front end   one Python process for each replica turns tokens into text
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.generate.cluster import num_groups
from pipeline.planner.kv_cache import CacheFit, CacheSettings, cache_fit
from pipeline.planner.model_shape import Shape

ALL_REDUCE_LATENCY_S = 10e-6
"""Seconds of an all-reduce of few bytes over NVLink: an assumption, of the order that NCCL's tests print."""

FRONT_END_TOKENS_PER_S = 15_000
"""Tokens/s that the Python front end of one replica turns into text at most: an assumption."""

MAX_GRAPH_SEQS = 512
"""Largest step, in sequences, that is a CUDA graph on GPUs before Blackwell (vLLM 0.32, config/vllm.py:2357-2364)."""

ROWS_PER_SLOT = 8
"""Rows that a slot gets at least where slots are advised: with few of them, the longest rows decide when a run ends."""

SLOTS_STEP = 64
"""Advised slots are a multiple of this, if they are more."""


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
    """The assumed workload: completions, mean tokens of a prompt and of a completion."""

    num_rows: int
    num_prompt_tokens: float
    num_output_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One tensor parallel size. `num_fitting` sequences of the assumed length fit in an engine; times in seconds.

    A size at which vLLM does not start runs nothing and takes forever.
    """

    tensor_parallel_size: int
    num_replicas: int
    weights_bytes_per_gpu: float
    cache: CacheFit
    blocks_per_sequence: int
    num_fitting: int
    num_running: int
    step_s: float
    tokens_per_s: float
    wall_s: float
    bound: str

    @property
    def starts(self) -> bool:
        """Whether vLLM may start."""
        return self.num_running > 0


def plans(
    shape: Shape, gpu: Gpu, num_gpus: int, gpus_per_node: int, settings: CacheSettings, work: Workload
) -> list[Plan]:
    """Return a plan for each tensor parallel size: the fastest first, and last those at which vLLM does not start.

    Args:
        shape: The model.
        gpu: The kind of GPU.
        num_gpus: GPUs of the cluster.
        gpus_per_node: GPUs that a tensor parallel group can spread over.
        settings: The engine's settings; with `max_num_seqs` None, as many slots as are advised.
        work: The assumed workload.

    Raises:
        ConfigError: On no group of these GPUs vLLM starts.
    """
    num_nodes, rest = divmod(num_gpus, gpus_per_node)
    nodes = [gpus_per_node] * num_nodes + [rest]
    found = [
        _plan(shape, gpu, num_groups(nodes, size), size, settings, work)
        for size in _sizes(shape, min(num_gpus, gpus_per_node))
    ]
    if not any(plan.starts for plan in found):
        longest = max((plan.cache.longest_context for plan in found), default=0)
        raise ConfigError(
            f"model.path: {shape.name} weighs {shape.weights_bytes / 1e9:.1f} GB, and {gpus_per_node} x {gpu.name} "
            f"of a node hold no sequence of model.context_size={settings.context_size} next to it"
            + (f" (the longest that fits: {longest}; engine.max_num_seqs counts too)" if longest else "")
            + ": use more or larger GPUs, or a quantized model"
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


def _plan(shape: Shape, gpu: Gpu, num_replicas: int, size: int, settings: CacheSettings, work: Workload) -> Plan:
    cache = cache_fit(shape, size, gpu.memory_bytes, settings)
    num_tokens = work.num_prompt_tokens + work.num_output_tokens
    blocks = cache.layout.num_blocks(num_tokens)
    num_fitting = max(0, (cache.num_blocks - 1) // blocks)
    rows = math.ceil(work.num_rows / num_replicas)
    slots = settings.max_num_seqs or _advised_slots(min(num_fitting, rows // ROWS_PER_SLOT))
    num_running = 0 if cache.status == "refused" else min(num_fitting, slots, rows)
    step_s, bound, row_s = math.inf, "", math.inf
    if num_running:
        step_s, bound = _step(shape, gpu, size, num_running, work.num_prompt_tokens + work.num_output_tokens / 2)
        prefill_s = 2 * shape.num_active_params * work.num_prompt_tokens / (size * gpu.peak)
        row_s = work.num_output_tokens * step_s / num_running + prefill_s
    return Plan(
        tensor_parallel_size=size,
        num_replicas=num_replicas,
        weights_bytes_per_gpu=shape.weights_bytes / size,
        cache=cache,
        blocks_per_sequence=blocks,
        num_fitting=num_fitting,
        num_running=num_running,
        step_s=step_s,
        tokens_per_s=num_replicas * work.num_output_tokens / row_s,
        wall_s=work.num_rows * row_s / num_replicas,
        bound=bound,
    )


def _advised_slots(most: int) -> int:
    slots = max(1, min(MAX_GRAPH_SEQS, most))
    return slots - slots % SLOTS_STEP if slots > SLOTS_STEP else slots


def _step(shape: Shape, gpu: Gpu, size: int, num_running: int, context: float) -> tuple[float, str]:
    """Return the seconds of a decoding step of one replica, and its bound: memory, arithmetic, links or front end."""
    kv_bytes = size * shape.token_bytes(size) * shape.cached_tokens(context)
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
    step_s, front_end_s = max(memory_s, arithmetic_s) + links_s, num_running / FRONT_END_TOKENS_PER_S
    return (front_end_s, "front end") if front_end_s > step_s else (step_s, max(bounds, key=lambda name: bounds[name]))
