"""The planner's KV cache compared with vLLM's own functions, on models made as config.json files.

vLLM reads the specs of layers from an engine; here they are made from config.json as its layers make them
(attention.py, get_kv_cache_spec; mamba/abstract.py, get_kv_cache_spec). Blocks, groups, what a sequence demands and
the longest context are then computed by vLLM.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.loading import compose
from pipeline.planner.kv_cache import CacheSettings, cache_layout
from pipeline.planner.model_shape import read_shape

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch, on import
    pytest.mark.usefixtures("at_root"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

CONTEXT, IN_FLIGHT = 32_768, 4_096
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
FP8_AND_KV = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
MAMBA_EVERY_TENTH = ["full_attention" if number % 10 == 5 else "linear_attention" for number in range(40)]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("Qwen3Config", {"num_key_value_heads": 8}),
    "experts": ("Qwen3MoeConfig", {"num_hidden_layers": 48, "num_experts": 8}),
    "windows of 5 to 1": ("Gemma3TextConfig", {"sliding_window": 512}),
    "windows and experts": ("GptOssConfig", {"num_local_experts": 8}),
    "windows everywhere": ("MistralConfig", {}),
    "gated delta net": ("Qwen3_5MoeTextConfig", {"mamba_ssm_dtype": "float32", "num_experts": 8}),
    "gated delta net, state in bfloat16": ("Qwen3NextConfig", {"num_experts": 16}),
    "Mamba2": ("GraniteMoeHybridConfig", {"num_hidden_layers": 40, "layer_types": MAMBA_EVERY_TENTH}),
    "Mamba2, 2 groups": (
        "GraniteMoeHybridConfig",
        {"num_hidden_layers": 20, "layer_types": MAMBA_EVERY_TENTH[:20], "mamba_n_groups": 2},
    ),
    "fp8": ("Qwen3Config", {"num_key_value_heads": 8, "quantization_config": FP8}),
    "fp8 and its KV cache": ("Qwen3Config", {"num_key_value_heads": 8, "quantization_config": FP8_AND_KV}),
}


@dataclass(frozen=True)
class Vllm:
    """vLLM's answers for one model, size and length."""

    block_tokens: int
    pool_block_bytes: int
    demanded_bytes: int
    longest_context: int


def config_json(directory: Path, name: str) -> tuple[Path, Any]:
    import transformers

    class_name, sizes = MODELS[name]
    getattr(transformers, class_name)(dtype="bfloat16", **sizes).save_pretrained(directory)
    return directory, transformers.AutoConfig.from_pretrained(directory)


def vllm_config(text: Any, size: int, *, prefix_caching: bool, is_hybrid: bool) -> Any:
    import torch
    from vllm.utils.torch_utils import resolve_kv_cache_dtype_string
    from vllm.v1.kv_cache_layout import KVCacheLayout

    model = SimpleNamespace(
        max_model_len=CONTEXT,
        original_max_model_len=CONTEXT,
        dtype=torch.bfloat16,
        use_mla=False,
        architecture="",
        hf_config=text,
        get_num_kv_heads=lambda _: max(1, text.num_key_value_heads // size),
        get_head_size=lambda: getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
    )
    return SimpleNamespace(
        model_config=model,
        cache_config=SimpleNamespace(
            cache_dtype=resolve_kv_cache_dtype_string("auto", model),
            block_size=16,
            mamba_block_size=CONTEXT,
            mamba_cache_mode="align" if prefix_caching and is_hybrid else "none",
            mamba_page_size_padded=None,
            mamba_cache_dtype="auto",
            mamba_ssm_cache_dtype=getattr(text, "mamba_ssm_dtype", None) or "auto",
            enable_prefix_caching=prefix_caching,
            num_gpu_blocks_override=None,
            get_resolved_kv_cache_layout=lambda: KVCacheLayout.LBHNC,
        ),
        parallel_config=SimpleNamespace(decode_context_parallel_size=1, tensor_parallel_size=size),
        scheduler_config=SimpleNamespace(disable_hybrid_kv_cache_manager=False),
        attention_config=SimpleNamespace(hisparse_config=None),
        speculative_config=None,
        num_speculative_tokens=0,
        max_in_flight_tokens=IN_FLIGHT,
    )


def state(text: Any, config: Any, size: int) -> tuple[Any, Any]:
    """Return the shapes and the precisions of one recurrent layer's state, as the model's class in vLLM makes them."""
    from vllm.model_executor.layers.mamba.mamba_utils import MambaStateDtypeCalculator, MambaStateShapeCalculator

    precisions = (config.model_config.dtype, "auto", config.cache_config.mamba_ssm_cache_dtype)
    if text.model_type == "granitemoehybrid":
        shapes = MambaStateShapeCalculator.mamba2_state_shape(
            intermediate_size=text.mamba_expand * text.hidden_size,
            tp_world_size=size,
            n_groups=text.mamba_n_groups,
            num_heads=text.mamba_n_heads,
            head_dim=text.mamba_d_head,
            state_size=text.mamba_d_state,
            conv_kernel=text.mamba_d_conv,
        )
        return shapes, MambaStateDtypeCalculator.mamba2_state_dtype(*precisions)
    sizes = [getattr(text, f"linear_{key}") for key in ("num_key_heads", "num_value_heads", "key_head_dim")]
    shapes = MambaStateShapeCalculator.gated_delta_net_state_shape(
        size, *sizes, text.linear_value_head_dim, text.linear_conv_kernel_dim
    )
    return shapes, MambaStateDtypeCalculator.gated_delta_net_state_dtype(*precisions)


def align(config: Any, shapes: Any, dtypes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the block size as vLLM does, for an attention backend with kernel blocks of 16 tokens."""
    import vllm.config.vllm as vllm_module
    from vllm.model_executor.models import ModelRegistry
    from vllm.platforms.interface import Platform
    from vllm.v1.attention.backend import MultipleOf

    class Backend:
        customize_spec = staticmethod(lambda spec: spec)
        get_supported_kernel_block_sizes = staticmethod(lambda: [MultipleOf(16)])

    class Cuda(Platform):
        _find_non_ssm_backends = classmethod(lambda cls, config: [Backend])  # noqa: ARG005

    model = SimpleNamespace(
        get_mamba_state_shape_from_config=lambda _: shapes, get_mamba_state_dtype_from_config=lambda _: dtypes
    )
    monkeypatch.setattr(ModelRegistry, "resolve_model_cls", lambda *_, **__: (model, ""))
    monkeypatch.setattr(vllm_module, "set_current_vllm_config", lambda _: nullcontext())
    Cuda._align_hybrid_block_size(config, Backend)


def vllm_answers(
    text: Any, size: int, num_blocks: int, monkeypatch: pytest.MonkeyPatch, *, prefix_caching: bool
) -> Vllm:
    from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
    from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MambaSpec, SlidingWindowSpec, get_kv_quant_mode

    alike = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    kinds = getattr(text, "layer_types", None) or [alike] * text.num_hidden_layers
    config = vllm_config(text, size, prefix_caching=prefix_caching, is_hybrid="linear_attention" in kinds)
    cache = config.cache_config
    recurrent = None
    if "linear_attention" in kinds:
        shapes, dtypes = state(text, config, size)
        align(config, shapes, dtypes, monkeypatch)
        recurrent = MambaSpec(
            shapes=shapes,
            dtypes=dtypes,
            block_size=cache.mamba_block_size,
            page_size_padded=cache.mamba_page_size_padded,
            mamba_type=MambaAttentionBackendEnum.GDN_ATTN,
            mamba_cache_mode=cache.mamba_cache_mode,
        )
        if text.model_type == "granitemoehybrid":
            recurrent = replace(recurrent, num_prefill_checkpoint_blocks=1, prefill_checkpoint_alignment=1)
    heads = {
        "block_size": cache.block_size,
        "num_kv_heads": config.model_config.get_num_kv_heads(None),
        "head_size": config.model_config.get_head_size(),
        "dtype": kv_cache_dtype_str_to_dtype(cache.cache_dtype, config.model_config),
        "kv_quant_mode": get_kv_quant_mode(cache.cache_dtype),
    }
    specs = {"full_attention": FullAttentionSpec(**heads), "linear_attention": recurrent}
    if "sliding_attention" in kinds:
        specs["sliding_attention"] = SlidingWindowSpec(**heads, sliding_window=text.sliding_window)
    groups = kv_cache_utils.get_kv_cache_groups(
        config, {f"layers.{number}": specs[kind] for number, kind in enumerate(kinds)}
    )
    pool_block = kv_cache_utils._pool_bytes_per_block(config, groups)
    return Vllm(
        block_tokens=cache.block_size,
        pool_block_bytes=pool_block,
        demanded_bytes=kv_cache_utils._max_memory_usage_bytes_from_groups(config, groups),
        longest_context=kv_cache_utils._estimate_max_model_len_from_groups(config, groups, num_blocks * pool_block),
    )


@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_planner_agrees_with_vllm(
    tmp_path: Path, name: str, prefix_caching: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, text = config_json(tmp_path, name)
    shape = read_shape(compose(["conf=demo", f"model.path={directory}", "model.dtype=bfloat16"]), directory)
    settings = CacheSettings(
        context_size=CONTEXT,
        max_num_seqs=64,
        gpu_memory_utilization=0.9,
        prefix_caching=prefix_caching,
        in_flight_tokens=IN_FLIGHT,
    )
    for size in (1, 2, 4, 8):
        layout = cache_layout(shape, size, settings)
        demanded = layout.num_blocks(CONTEXT, IN_FLIGHT)
        for num_blocks in (demanded // 2, demanded - 1, demanded):
            planned = Vllm(
                block_tokens=layout.block_tokens,
                pool_block_bytes=layout.pool_block_bytes,
                demanded_bytes=demanded * layout.pool_block_bytes,
                longest_context=layout.longest(num_blocks, settings),
            )
            assert planned == vllm_answers(text, size, num_blocks, monkeypatch, prefix_caching=prefix_caching), size


def test_the_largest_cuda_graph_of_vllm_is_the_planners(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.config import CompilationConfig, VllmConfig
    from vllm.platforms import current_platform

    from pipeline.planner.roofline import MAX_GRAPH_SEQS

    monkeypatch.setattr(current_platform, "is_device_capability_family", lambda _: False, raising=False)
    compilation = CompilationConfig()
    engine = SimpleNamespace(
        model_config=SimpleNamespace(enforce_eager=False),
        compilation_config=compilation,
        scheduler_config=SimpleNamespace(max_num_seqs=1_308, max_num_batched_tokens=2_048),
        uniform_decode_query_len=1,
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        speculative_config=None,
        lora_config=None,
        performance_mode="balanced",
    )
    VllmConfig._set_cudagraph_sizes(engine)
    assert compilation.max_cudagraph_capture_size == MAX_GRAPH_SEQS
