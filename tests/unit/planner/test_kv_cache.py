"""The KV cache of the reference model against the figures of vLLM's functions; whether vLLM starts, and with what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.loading import compose
from pipeline.errors import ModelError
from pipeline.planner.kv_cache import CacheSettings, cache_fit, cache_layout
from pipeline.planner.model_shape import Shape, read_shape
from pipeline.planner.roofline import GPUS
from pipeline.planner.weights import bits_per_weight

pytestmark = pytest.mark.usefixtures("at_root")

A100 = GPUS["A100-SXM4-80GB"].memory_bytes
GIB = 2**30
REFERENCE = Shape(
    name="Qwen3.6-35B-A3B",
    num_params=34_660_000_000,
    num_lookup_params=0,
    num_expert_params=0,
    num_experts=256,
    num_experts_per_token=8,
    weights_bytes=69_320_000_000,
    hidden_size=2048,
    num_layers=40,
    num_attention_layers=10,
    num_window_layers=0,
    window=0,
    num_attention_heads=16,
    num_kv_heads=2,
    head_size=256,
    kv_bytes=2,
    num_recurrent_layers=30,
    num_recurrent_heads=32,
    recurrent_bytes=30 * 2_146_304,
)
ENGINE = CacheSettings(context_size=262_144, max_num_seqs=128, gpu_memory_utilization=0.92)


@pytest.mark.parametrize(
    ("size", "block", "pool_block", "demanded", "available", "overhead"),
    [
        (1, 1_056, 21_626_880, 5.136, 8.31, 3.15),
        (2, 1_056, 10_813_440, 2.568, 40.6, 38.0),
        (4, 528, 5_406_720, 2.533, 56.7, 54.2),
    ],
)
def test_the_reference_model_has_the_blocks_that_vllm_computes(
    size: int, block: int, pool_block: int, demanded: float, available: float, overhead: float
) -> None:
    fit = cache_fit(REFERENCE, size, A100, ENGINE)
    assert (fit.layout.block_tokens, fit.layout.pool_block_bytes) == (block, pool_block)
    assert fit.demanded_bytes / GIB == pytest.approx(demanded, rel=0.001)
    assert fit.available_bytes / GIB == pytest.approx(available, rel=0.01)
    assert fit.overhead_limit_bytes / GIB == pytest.approx(overhead, rel=0.01)


def test_the_reference_model_on_one_gpu_is_at_the_edge() -> None:
    fit = cache_fit(REFERENCE, 1, A100, ENGINE)
    assert (fit.status, fit.num_blocks, fit.longest_context) == ("at the edge", 213, 217_536)
    assert cache_fit(REFERENCE, 2, A100, ENGINE).status == "fits"


@pytest.mark.parametrize(
    ("context_size", "status"), [(64, "at the edge"), (300_000, "at the edge"), (400_000, "refused")]
)
def test_a_context_far_beyond_the_memory_is_refused(context_size: int, status: str) -> None:
    fit = cache_fit(REFERENCE, 1, A100, replace(ENGINE, context_size=context_size))
    assert fit.status == status


def test_more_slots_than_blocks_of_state_are_refused_unless_graphs_are_off() -> None:
    many = replace(ENGINE, max_num_seqs=400)
    fit = cache_fit(REFERENCE, 1, A100, many)
    assert (fit.status, fit.limited_by_slots) == ("refused", True)
    assert cache_fit(REFERENCE, 1, A100, replace(many, cuda_graphs=False)).status == "at the edge"


def test_without_prefix_caching_a_sequence_keeps_one_state_in_each_group() -> None:
    off = replace(ENGINE, prefix_caching=False)
    layouts = [cache_layout(REFERENCE, 1, each) for each in (ENGINE, off)]
    assert [layout.num_blocks(262_144) for layout in layouts] == [249 + 3 * 2, 249 + 3]


def test_settings_come_from_the_configuration() -> None:
    reference = CacheSettings.of(compose(["conf=mera"]))
    assert reference == CacheSettings(
        context_size=262_144, max_num_seqs=256, gpu_memory_utilization=0.92, prefix_caching=False
    )
    extra = "{max_num_batched_tokens: 8192, async_scheduling: false, enforce_eager: true, block_size: 32}"
    other = CacheSettings.of(compose(["conf=mera", f"engine.extra={extra}", "engine.extra.enable_prefix_caching=true"]))
    assert other == replace(reference, prefix_caching=True, in_flight_tokens=8192, cuda_graphs=False, block_tokens=32)


GROUPS = {"config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "compressed-tensors", **GROUPS}, 4 + 20 / 32),
        ({"quant_method": "mxfp4"}, 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
    ],
)
def test_a_quantized_weight_has_its_bits_and_those_of_its_scale(quantization: dict[str, Any], bits: float) -> None:
    assert bits_per_weight(quantization) == bits


def qwen3(directory: Path, quantization: dict[str, Any] | None) -> Shape:
    from transformers import Qwen3Config

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 1000, "head_dim": 64}
    others = {"quantization_config": quantization} if quantization else {}
    Qwen3Config(dtype="bfloat16", num_attention_heads=4, num_key_value_heads=2, **sizes, **others).save_pretrained(
        directory
    )
    return read_shape(compose(["conf=demo", f"model.path={directory}", "model.dtype=auto"]), directory)


LINEAR = 256 * 256 + 2 * 256 * 128 + 256 * 256 + 3 * 256 * 512
"""Weights of the linear layers of one layer of `qwen3`."""


def test_a_quantized_model_is_not_counted_as_bfloat16(tmp_path: Path) -> None:
    plain, fp8 = qwen3(tmp_path / "plain", None), qwen3(tmp_path / "fp8", {"quant_method": "fp8"})
    assert plain.weights_bytes == 2 * plain.num_params
    assert fp8.weights_bytes == plain.weights_bytes - 2 * LINEAR
    assert (fp8.quantization, fp8.kv_bytes) == ("fp8", 2)


def test_modules_that_keep_their_precision_are_counted_with_it(tmp_path: Path) -> None:
    ignored = {"modules_to_not_convert": ["model.language_model.layers.1"]}
    half = qwen3(tmp_path, {"quant_method": "fp8", **ignored})
    assert half.weights_bytes == 2 * half.num_params - LINEAR
    expression = qwen3(tmp_path, {"quant_method": "fp8", "ignore": [r"re:.*layers\.1\..*"]})
    assert expression.weights_bytes == half.weights_bytes


def test_the_weights_files_of_a_quantized_model_are_measured(tmp_path: Path) -> None:
    (tmp_path / "model-00001.safetensors").write_bytes(b"x" * 12_345)
    assert qwen3(tmp_path, {"quant_method": "nobody_knows"}).weights_bytes == 12_345


def test_an_unknown_quantization_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.path: quantization_config\.quant_method='nobody_knows': what its"):
        qwen3(tmp_path, {"quant_method": "nobody_knows"})


def test_a_quantized_kv_cache_is_counted_in_its_precision(tmp_path: Path) -> None:
    quantization = {"quant_method": "compressed-tensors", **GROUPS, "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    assert qwen3(tmp_path, quantization).kv_bytes == 1
