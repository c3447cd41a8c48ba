"""Checks of the engine's arguments: what changes the answers, and what costs speed without a use.

Sources are files of vLLM 0.32 and issues of its repository.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import Config
from pipeline.prepare import prompt_stats
from pipeline.prepare.checks.check import CheckResult
from pipeline.prepare.checks.facts import Facts, text_config

if TYPE_CHECKING:
    import pyarrow.dataset as pads

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}

LARGEST_GRAPH = 512
"""Largest number of sequences in a CUDA graph by default, 1,024 on Blackwell (config/vllm.py)."""

GRAPH_ARGUMENTS = ("enforce_eager", "max_cudagraph_capture_size", "cudagraph_capture_sizes", "compilation_config")
"""Arguments by which the user has decided about CUDA graphs."""

PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_p": 0.0}
"""Sampling parameters that only generation_config.json sets, with their neutral values."""


def speculative_decoding(facts: Facts) -> CheckResult | None:
    """Tokens are drafted and verified, several at once."""
    extra = facts.config.engine.extra
    value = extra.get("speculative_config")
    if not value or facts.config.engine.kind != "vllm":
        return None
    corrupts = facts.model and hybrid_block(facts.config, facts.model.config) and _caches_prefixes(facts.config)
    return CheckResult(
        "speculative-decoding",
        f"engine.extra.speculative_config={value!r} verifies several drafted tokens in a step, which rounds otherwise "
        "than decoding without it and is slower where many requests are in flight"
        + ("; with prefix caching it corrupts the output of hybrid models (vllm#53912)" if corrupts else ""),
        "take it out, or compare only with runs that have it"
        + (", with engine.extra.enable_prefix_caching=false" if corrupts else ""),
    )


def other_numerics(facts: Facts) -> CheckResult | None:
    """Weights, KV cache or recurrent state have less precision than the model's own."""
    if facts.config.engine.kind != "vllm":
        return None
    reduced = list(_reduced_arguments(facts))
    method = _quantization(facts.model.config) if facts.model else None
    fixes = [f"take {', '.join(name.partition('=')[0] for name in reduced)} out"] if reduced else []
    if method is not None:
        fixes.append("set model.path to the weights that are not quantized")
    if not fixes:
        return None
    found = [*reduced, *([f"quantization_config in the model's config.json ({method})"] if method is not None else [])]
    return CheckResult(
        "other-numerics",
        f"{', '.join(found)}: less precision than the unquantized model has, so answers and scores differ from its",
        f"{' and '.join(fixes)}, or compare only with runs that have the same",
    )


def penalties_left_out(facts: Facts) -> CheckResult | None:
    """The model's generation config has penalties, which a vLLM server applies and a run does not."""
    config, model = facts.config, facts.model
    if model is None or config.engine.extra.get("generation_config") == "vllm":
        return None
    files = {
        "generation_config.json": model.generation_config,
        "engine.extra.override_generation_config": config.engine.extra.get("override_generation_config"),
    }
    left_out = [
        f"{name}={values[name]} of {file}"
        for file, values in files.items()
        for name, neutral in PENALTIES.items()
        if isinstance(values, Mapping)
        and values.get(name) not in (None, neutral)
        # Greedy decoding takes the likeliest token, which min_p never removes.
        and (name != "min_p" or config.generation.do_sample)
    ]
    if not left_out:
        return None
    return CheckResult(
        "penalties-left-out",
        f"{', '.join(left_out)}: a vLLM server applies it to every request, a run does not, and their answers differ",
        "compare only with servers started with --generation-config vllm; engine.extra.generation_config=vllm states "
        "that it is meant",
    )


def prefix_caching_without_hits(facts: Facts) -> CheckResult | None:
    """Prefix caching is on, and no two prompts share a block."""
    if facts.model is None or facts.rows is None or facts.rows.shares_block is not False:
        return None
    block = hybrid_block(facts.config, facts.model.config)
    if block is None or not _caches_prefixes(facts.config):
        return None
    value = facts.config.engine.extra.get("enable_prefix_caching")
    return CheckResult(
        "prefix-caching-without-hits",
        f"engine.extra.enable_prefix_caching={value}{' (on by default)' if value is None else ''}: no two prompts "
        f"share the {block:,} tokens of a block of this hybrid model: it costs memory and time, and nothing is reused",
        "set engine.extra.enable_prefix_caching=false",
    )


def slots_above_graphs(facts: Facts) -> CheckResult | None:
    """More sequences than the largest CUDA graph holds."""
    engine = facts.config.engine
    if engine.kind != "vllm" or engine.max_num_seqs <= LARGEST_GRAPH:
        return None
    if any(engine.extra.get(name) for name in GRAPH_ARGUMENTS):
        return None
    return CheckResult(
        "slots-above-graphs",
        f"engine.max_num_seqs={engine.max_num_seqs} is more than the {LARGEST_GRAPH} sequences of the largest CUDA "
        "graph (1,024 on Blackwell): larger steps run without one",
        f"set engine.max_num_seqs={LARGEST_GRAPH} or less, or engine.extra.max_cudagraph_capture_size",
    )


def shares_block(facts: Facts, prompts: pads.Dataset) -> bool | None:
    """Return whether two requests of the run share a first block of the engine's cache; None when it is unknown."""
    if facts.model is None or not _caches_prefixes(facts.config):
        return None
    block = hybrid_block(facts.config, facts.model.config)
    second = int(facts.config.noise.share > 0)
    requests = {split: num + second for split, num in facts.config.generation.repeats_by_split.items()}
    return None if block is None else prompt_stats.shares_block(prompts, block, requests)


def hybrid_block(config: Config, model_config: Mapping[str, Any]) -> int | None:
    """Return the least tokens in a block of the KV cache of a hybrid model, or None for another or unknown model.

    Known for models with gated delta nets. vLLM makes their blocks so large that the keys and values of one attention
    layer take as much memory as the state of one recurrent layer (platforms/interface.py, _align_hybrid_block_size).
    An attention backend may need larger blocks still.
    """
    text, engine = text_config(model_config), config.engine
    names = ("num_value_heads", "num_key_heads", "value_head_dim", "key_head_dim", "conv_kernel_dim")
    sizes = [text.get(f"linear_{name}") for name in names] + [text.get("num_key_value_heads"), text.get("head_dim")]
    dtype = _weights_dtype(config, model_config)
    cache = engine.extra.get("kv_cache_dtype", "auto")
    kv_bytes = DTYPE_BYTES.get(str(dtype if cache == "auto" else cache))
    conv_dtype = engine.extra.get("mamba_cache_dtype", "auto")
    conv_bytes = DTYPE_BYTES.get(str(dtype if conv_dtype == "auto" else conv_dtype))
    state_bytes = DTYPE_BYTES.get(str(_state_dtype(config, model_config)))
    if not all(isinstance(size, int) and size > 0 for size in sizes) or not (kv_bytes and conv_bytes and state_bytes):
        return None
    value_heads, key_heads, value_size, key_size, kernel, kv_heads, head_size = (int(size or 0) for size in sizes)
    state = value_heads * value_size * key_size * state_bytes
    inputs = (2 * key_heads * key_size + value_heads * value_size) * (kernel - 1) * conv_bytes
    token = 2 * max(kv_heads // engine.tensor_parallel_size, 1) * head_size * kv_bytes
    block_size = engine.extra.get("block_size") or 0
    if not isinstance(block_size, int):
        return None
    step = max(block_size, 16)
    return step * -(-(state + inputs) // (step * token * engine.tensor_parallel_size))


def _caches_prefixes(config: Config) -> bool:
    """Return whether vLLM caches prefixes, which it does by default."""
    return config.engine.extra.get("enable_prefix_caching") is not False


def _reduced_arguments(facts: Facts) -> Iterator[str]:
    """Yield the arguments in `engine.extra` that reduce the precision, each with its value."""
    extra = facts.config.engine.extra
    model_config = facts.model.config if facts.model else {}
    dtype = _weights_dtype(facts.config, model_config)
    state = text_config(model_config).get("mamba_ssm_dtype") or dtype
    own = {"kv_cache_dtype": dtype, "mamba_cache_dtype": dtype, "mamba_ssm_cache_dtype": state}
    if extra.get("quantization"):
        yield f"engine.extra.quantization={extra['quantization']!r}"
    for name, expected in own.items():
        value = extra.get(name) or "auto"
        if value in ("auto", "float32", expected) or (value in DTYPE_BYTES and "fp8" not in value and not expected):
            continue
        yield f"engine.extra.{name}={value!r}"


def _quantization(model_config: Mapping[str, Any]) -> str | None:
    """Return how the model's weights are quantized, or None if they are not."""
    found = next(
        (
            each[name]
            for each in (model_config, text_config(model_config))
            for name in ("quantization_config", "compression_config")
            if each.get(name)
        ),
        None,
    )
    method = found.get("quant_method", "unnamed") if isinstance(found, dict) else found
    return None if method is None else f"quant_method={method}"


def _weights_dtype(config: Config, model_config: Mapping[str, Any]) -> str | None:
    """Return the precision of the weights in the engine, or None if it is unknown."""
    if config.model.dtype != "auto":
        return config.model.dtype
    named = [each.get(name) for each in (text_config(model_config), model_config) for name in ("dtype", "torch_dtype")]
    dtype = next((each for each in named if each), None)
    return dtype if dtype in ("bfloat16", "float16") else None  # vLLM loads float32 in 16 bits, bfloat16 or float16


def _state_dtype(config: Config, model_config: Mapping[str, Any]) -> str | None:
    """Return the precision of the recurrent state: the argument, else the model's, else that of the convolution."""
    extra = config.engine.extra
    named = (extra.get("mamba_ssm_cache_dtype"), text_config(model_config).get("mamba_ssm_dtype"))
    chosen = [str(each) for each in (*named, extra.get("mamba_cache_dtype")) if each not in (None, "auto")]
    return chosen[0] if chosen else _weights_dtype(config, model_config)
