"""The KV cache of one engine by vLLM's rules: its blocks, what one sequence demands, whether vLLM starts.

In: a model's `Shape`, a tensor parallel size and the engine's settings. Out: a `CacheLayout`, and with the memory of a
GPU a `CacheFit`. vllm is not imported; the rules are those of vLLM 0.32, for attention backends with kernel blocks of
16 tokens (FlashAttention) and one pipeline stage:

    block       16 tokens; with recurrent layers the smallest multiple of 16 whose keys and values hold one layer's
                state, and the state is padded to it (platforms/interface.py:939-1109, _align_hybrid_block_size)
    groups      layers of one kind (full, window, recurrent) form groups of equal size: the smallest number of layers of
                a kind, or the largest if that is less than 1.5 times the smallest. A block holds one page of each layer
                of a group (v1/core/kv_cache_utils.py:1362-1502 and 1520-1538)
    sequence    blocks in each group: full attention, one for each `block_tokens` of its tokens; window, those of the
                window and of the tokens in flight, and one more (v1/kv_cache_interface.py:602, 862-885); recurrent, one
                without prefix caching, with it two, and three for Mamba2 (1076-1083; layers/mamba/mamba_mixer2.py:1098)
    demanded    the blocks of one sequence of max_model_len must fit next to one null block
                (v1/core/kv_cache_utils.py:1003-1040, 2337-2366, 2601-2624)
    slots       with recurrent layers and CUDA graphs, max_num_seqs is at most the number of blocks
                (config/compilation.py:1502-1525)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.planner.model_shape import Shape

BLOCK_TOKENS = 16
"""Tokens of a block of attention layers alone (config/cache.py:72)."""

BATCHED_TOKENS = 2_048
"""Tokens of a step of vLLM's AsyncLLM, unless it is set (config/scheduler.py, DEFAULT_MAX_NUM_BATCHED_TOKENS)."""

RESERVED_BYTES = 4 << 30
"""Bytes of each GPU's share for activations, CUDA graphs and a step's logits: an assumption, where vLLM measures."""

EDGE_BYTES = 2 << 30
"""Error of `RESERVED_BYTES`, either way, within which it is open whether vLLM starts."""

UNKNOWN_CONTEXT = 8192
"""Tokens assumed where neither the configuration nor the caller has read the model's own context."""

Status = Literal["fits", "at the edge", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The engine's settings on which its KV cache depends; `max_num_seqs` None: as many as there are blocks."""

    context_size: int
    max_num_seqs: int | None
    gpu_memory_utilization: float
    prefix_caching: bool = True
    block_tokens: int = BLOCK_TOKENS
    in_flight_tokens: int = 2 * BATCHED_TOKENS
    cuda_graphs: bool = True

    @classmethod
    def of(cls, config: Config) -> CacheSettings:
        """Return the settings of a configuration, with vLLM's defaults for what it leaves out."""
        extra, engine = config.engine.extra, config.engine
        num_steps = 1 if extra.get("async_scheduling") is False else 2  # config/vllm.py:576-598
        return cls(
            context_size=config.model.context_size or UNKNOWN_CONTEXT,
            max_num_seqs=engine.max_num_seqs,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            prefix_caching=extra.get("enable_prefix_caching") is not False,
            block_tokens=_tokens(extra, "block_size") or BLOCK_TOKENS,
            in_flight_tokens=num_steps * (_tokens(extra, "max_num_batched_tokens") or BATCHED_TOKENS),
            cuda_graphs=not extra.get("enforce_eager"),
        )


def _tokens(extra: Mapping[str, Any], name: str) -> int | None:
    value = extra.get(name)
    if value is not None and not isinstance(value, int):
        raise ConfigError(f"engine.extra.{name}={value!r} cannot be planned: give a number of tokens")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayout:
    """The blocks of one GPU's KV cache. All groups take blocks of `pool_block_bytes` from one pool."""

    block_tokens: int
    pool_block_bytes: int
    num_full_groups: int
    num_window_groups: int
    num_recurrent_groups: int
    window: int
    state_blocks: int

    def num_blocks(self, num_tokens: float, in_flight_tokens: int = 0) -> int:
        """Return the blocks of a sequence of `num_tokens` tokens, of which the last ones are still in flight."""
        full = math.ceil(num_tokens / self.block_tokens)
        kept = min(self.window - 1 + in_flight_tokens, num_tokens)
        in_window = math.ceil(kept / self.block_tokens) + 1
        return (
            self.num_full_groups * full
            + self.num_window_groups * in_window
            + self.num_recurrent_groups * self.state_blocks
        )

    def longest(self, num_blocks: int, settings: CacheSettings) -> int:
        """Return the longest context of which one sequence fits in these blocks; 0 if there is none."""
        low, high = 0, settings.context_size
        while low < high:
            middle = (low + high + 1) // 2
            if self.num_blocks(middle, settings.in_flight_tokens) <= num_blocks:
                low = middle
            else:
                high = middle - 1
        return low


def cache_layout(shape: Shape, size: int, settings: CacheSettings) -> CacheLayout:
    """Return the KV cache's layout on each GPU of a tensor parallel group of `size` GPUs."""
    token_bytes, state_bytes = shape.token_bytes(size), shape.state_bytes(size)
    block = settings.block_tokens
    if state_bytes:
        block *= math.ceil(state_bytes / (block * token_bytes))
    num_full = shape.num_attention_layers - shape.num_window_layers
    counts = (num_full, shape.num_window_layers, shape.num_recurrent_layers)
    group_size = _group_size([count for count in counts if count])
    groups = [math.ceil(count / group_size) for count in counts]
    largest = max(math.ceil(count / number) for count, number in zip(counts, groups, strict=True) if number)
    return CacheLayout(
        block_tokens=block,
        pool_block_bytes=largest * block * token_bytes,
        num_full_groups=groups[0],
        num_window_groups=groups[1],
        num_recurrent_groups=groups[2],
        window=shape.window,
        state_blocks=shape.num_cached_states if settings.prefix_caching else 1,
    )


def _group_size(counts: list[int]) -> int:
    return max(counts) if max(counts) < 1.5 * min(counts) else min(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFit:
    """What the KV cache must hold and what there is for it, on each GPU, and whether vLLM starts.

    `available_bytes` is the engine's share of a GPU without the weights; activations, CUDA graphs and the rest may take
    `overhead_limit_bytes` of it. `num_blocks` and `longest_context` are those with `RESERVED_BYTES` of overhead.
    """

    layout: CacheLayout
    available_bytes: float
    demanded_bytes: int
    overhead_limit_bytes: float
    num_blocks: int
    longest_context: int
    limited_by_slots: bool

    @property
    def status(self) -> Status:
        """Whether vLLM starts with more overhead than assumed, with about as much, or only with far less."""
        spare = self.overhead_limit_bytes - RESERVED_BYTES
        if spare >= EDGE_BYTES:
            return "fits"
        return "at the edge" if spare >= -EDGE_BYTES else "refused"


def cache_fit(shape: Shape, size: int, gpu_bytes: float, settings: CacheSettings) -> CacheFit:
    """Return how the KV cache fits on GPUs with `gpu_bytes` of memory each."""
    layout = cache_layout(shape, size, settings)
    available = gpu_bytes * settings.gpu_memory_utilization - shape.weights_bytes / size
    num_demanded = layout.num_blocks(settings.context_size, settings.in_flight_tokens)
    num_slots = settings.max_num_seqs if layout.num_recurrent_groups and settings.cuda_graphs else None
    num_needed = max(num_demanded + 1, num_slots or 0)
    num_blocks = max(0, int((available - RESERVED_BYTES) // layout.pool_block_bytes))
    return CacheFit(
        layout=layout,
        available_bytes=available,
        demanded_bytes=num_demanded * layout.pool_block_bytes,
        overhead_limit_bytes=available - num_needed * layout.pool_block_bytes,
        num_blocks=num_blocks,
        longest_context=layout.longest(num_blocks - 1, settings),
        limited_by_slots=num_needed > num_demanded + 1,
    )
