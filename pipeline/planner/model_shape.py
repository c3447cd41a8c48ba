"""The size of a model and the memory of a sequence, from the model's config.json. No weight is loaded.

In: the configuration of a model. Out: a `Shape`, counted from transformers' own model class on torch's `meta` device,
where a parameter has a shape and no memory. The memory of a sequence follows vLLM's cache layouts:

    attention   2 (key, value) x layers x KV heads x head size x bytes, for each token, or for each of a sliding window
                (vllm/v1/kv_cache_interface.py, FullAttentionSpec.page_size_bytes)
    gated delta layers x (value heads x value size x key size x state bytes + (2 x key heads x key size + value heads x
    net         value size) x (kernel - 1) x bytes), for each sequence whatever its length
                (vllm/model_executor/layers/mamba/mamba_utils.py:280-301, gated_delta_net_state_shape)
    Mamba2      layers x (heads x head size x state size x state bytes + (heads x head size + 2 x groups x state size)
                x (kernel - 1) x bytes); more GPUs than groups copy the groups (mamba_utils.py:195-220 and 269-277)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import ModelError
from pipeline.planner.weights import weights_bytes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


LINEAR = ("num_value_heads", "num_key_heads", "value_head_dim", "key_head_dim", "conv_kernel_dim")
"""Keys of a gated delta net in config.json, without their prefix `linear_`."""

MAMBA2 = ("n_heads", "d_head", "n_groups", "d_state", "d_conv", "expand")
"""Keys of Mamba2 layers in the config.json of a `granitemoehybrid`, without their prefix `mamba_`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's sizes. Layers are counted by kind; bytes are those of the whole model, not of one GPU's share.

    `num_lookup_params` are those of an untied table of input embeddings, of which a token reads one row. Of the
    attention layers, `num_window_layers` attend to the last `window` tokens only. With prefix caching a sequence keeps
    `num_cached_states` states of a recurrent layer. `state_group_bytes` are those of one of a Mamba2 layer's
    `num_state_groups` groups.
    """

    name: str
    num_params: int
    num_lookup_params: int
    num_expert_params: int
    num_experts: int
    num_experts_per_token: int
    weights_bytes: int
    hidden_size: int
    num_layers: int
    num_attention_layers: int
    num_window_layers: int
    window: int
    num_attention_heads: int
    num_kv_heads: int
    head_size: int
    kv_bytes: int
    num_recurrent_layers: int
    num_recurrent_heads: int
    recurrent_bytes: int
    num_cached_states: int = 2
    num_state_groups: int = 0
    state_group_bytes: int = 0
    quantization: str | None = None

    @property
    def num_active_params(self) -> float:
        """Parameters that one token is multiplied with: without input embeddings and experts it is not routed to."""
        idle = self.num_expert_params * (1 - self.num_experts_per_token / max(self.num_experts, 1))
        return self.num_params - self.num_lookup_params - idle

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token of one sequence in the KV cache, over all layers."""
        return 2 * self.num_attention_layers * self.num_kv_heads * self.head_size * self.kv_bytes

    def token_bytes(self, size: int) -> int:
        """Return the bytes of a token in one attention layer on one of `size` GPUs; each keeps at least one KV head."""
        return 2 * max(1, self.num_kv_heads // size) * self.head_size * self.kv_bytes

    def state_bytes(self, size: int) -> int:
        """Return the bytes of a sequence's state in one recurrent layer on one of `size` GPUs; 0 if there is none."""
        if not self.num_recurrent_layers:
            return 0
        num_copied = size - self.num_state_groups if self.num_state_groups % size else 0
        state = self.recurrent_bytes // self.num_recurrent_layers
        return (state + num_copied * self.state_group_bytes) // size

    def cached_tokens(self, num_tokens: float) -> float:
        """Return the number of tokens that a sequence of `num_tokens` keeps in the KV cache, summed over the layers."""
        num_full_layers = self.num_attention_layers - self.num_window_layers
        return num_full_layers * num_tokens + self.num_window_layers * min(num_tokens, self.window)

    def weights_read(self, num_tokens: float) -> float:
        """Return the bytes of weights that a step with `num_tokens` tokens reads.

        Each token is routed to k of E experts. With uniform and independent routing, an expert is not read with
        probability (1 - k/E)^tokens.
        """
        share = 0.0
        if self.num_experts:
            share = 1 - (1 - self.num_experts_per_token / self.num_experts) ** num_tokens
        bytes_per_param = self.weights_bytes / self.num_params
        return bytes_per_param * (self.num_params - self.num_lookup_params - self.num_expert_params * (1 - share))


def read_shape(config: Config, directory: Path) -> Shape:
    """Return the shape of the configuration's model, whose config.json is in a directory on this machine.

    Raises:
        ModelError: Its config.json cannot be read, or is of an architecture that transformers does not know, or whose
            memory of a sequence these formulas do not cover.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    at, model = f"model.path={config.model.path!r}", config.model
    try:
        whole = AutoConfig.from_pretrained(str(directory), trust_remote_code=model.trust_remote_code)
        text = whole.get_text_config()
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(text, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{at}: its config.json does not describe its shape: {error}") from error
    _require_known(text, at)
    return _shape(config, directory, _quantization(whole, text), text, built)


def _require_known(text: Any, at: str) -> None:
    """Raise `ModelError` for an architecture whose memory of a sequence these formulas do not cover."""
    names = {"hidden_size", "num_hidden_layers", "num_attention_heads"}
    kinds = set(getattr(text, "layer_types", None) or ())
    if "linear_attention" in kinds:
        names |= {f"mamba_{name}" for name in MAMBA2} if _is_mamba2(text) else {f"linear_{name}" for name in LINEAR}
    missing = sorted(name for name in names if getattr(text, name, None) is None)
    unknown = [f"layers of {kind!r}" for kind in sorted(kinds - {"full_attention", "sliding_attention"})]
    unknown = [each for each in unknown if each != "layers of 'linear_attention'"]
    if getattr(text, "kv_lora_rank", None) is not None:
        unknown.append("layers of 'multi-head latent attention'")
    if _first(text, "num_kv_shared_layers"):
        unknown.append("a model whose layers share keys and values")
    if _first(text, "global_head_dim", "num_global_key_value_heads"):
        unknown.append("a model whose layers have different heads")
    if {"linear_attention", "sliding_attention"} <= kinds:
        unknown.append("a model of recurrent and sliding-window layers")
    if missing or unknown:
        what = unknown[0] if unknown else f"a model without {missing[0]}"
        raise ModelError(f"{at} ({text.model_type}): what {what} keeps for a sequence is not known here")


def _is_mamba2(text: Any) -> bool:
    return bool(text.model_type == "granitemoehybrid")


def _shape(config: Config, directory: Path, quantization: dict[str, Any] | None, text: Any, built: Any) -> Shape:
    table, head = built.get_input_embeddings(), built.get_output_embeddings()
    is_shared = head is None or head.weight is table.weight
    num_window_layers, window = _windows(text)
    is_mamba2 = _is_mamba2(text)
    sizes = {name: parameter.numel() for name, parameter in built.named_parameters()}
    num_params = sum(sizes.values())
    dtype_bytes = BYTES[_dtype(config, text)]
    return Shape(
        name=str(config.model.path).rstrip("/").rpartition("/")[2],
        num_params=num_params,
        num_lookup_params=0 if is_shared else table.weight.numel(),
        num_expert_params=sum(size for name, size in sizes.items() if ".experts." in name),
        num_experts=_first(text, "num_experts", "n_routed_experts", "num_local_experts") or 0,
        num_experts_per_token=_first(text, "num_experts_per_tok") or 0,
        weights_bytes=weights_bytes(directory, quantization, built, dtype_bytes),
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_attention_layers=_num_attention_layers(text),
        num_window_layers=num_window_layers,
        window=window,
        num_attention_heads=text.num_attention_heads,
        num_kv_heads=_first(text, "num_key_value_heads") or text.num_attention_heads,
        head_size=_first(text, "head_dim") or text.hidden_size // text.num_attention_heads,
        kv_bytes=BYTES.get(_kv_dtype(config, quantization), dtype_bytes),
        num_recurrent_layers=text.num_hidden_layers - _num_attention_layers(text),
        num_recurrent_heads=_first(text, "linear_num_value_heads", *(["mamba_n_heads"] if is_mamba2 else [])) or 0,
        recurrent_bytes=_recurrent_bytes(config, text, dtype_bytes),
        num_cached_states=3 if is_mamba2 else 2,
        num_state_groups=text.mamba_n_groups if is_mamba2 else 0,
        state_group_bytes=2 * text.mamba_d_state * (text.mamba_d_conv - 1) * dtype_bytes if is_mamba2 else 0,
        quantization=None if quantization is None else str(quantization.get("quant_method")),
    )


def _dtype(config: Config, text: Any) -> str:
    """Return the precision of the weights in the engine."""
    dtype = config.model.dtype if config.model.dtype != "auto" else str(text.dtype).removeprefix("torch.")
    return dtype if dtype in BYTES else "bfloat16"


def _quantization(whole: Any, text: Any) -> dict[str, Any] | None:
    """Return the `quantization_config` of config.json, or None if the model is not quantized."""
    for each in (whole, text):
        if found := getattr(each, "quantization_config", None):
            return dict(found if isinstance(found, dict) else found.to_dict())
    return None


def _kv_dtype(config: Config, quantization: dict[str, Any] | None) -> str:
    """Return the precision of the KV cache: the engine's argument, else that of a quantized model, else `auto`.

    Source: vLLM 0.32, utils/torch_utils.py:512, resolve_kv_cache_dtype_string.
    """
    dtype = str(config.engine.extra.get("kv_cache_dtype", "auto"))
    if dtype == "auto" and quantization is not None:
        scheme = quantization.get("kv_cache_scheme")
        is_fp8 = (isinstance(scheme, dict) and scheme.get("num_bits") == 8) or (
            str(quantization.get("kv_cache_quant_algo")).upper() == "FP8"
        )
        return "fp8" if is_fp8 else dtype
    return dtype


def _num_attention_layers(text: Any) -> int:
    kinds = getattr(text, "layer_types", None)
    if not kinds:
        return int(text.num_hidden_layers)
    return sum(kind != "linear_attention" for kind in kinds)


def _windows(text: Any) -> tuple[int, int]:
    """Return the number of sliding-window layers, and the window in tokens.

    Without kinds of layers every layer has the window (vLLM 0.32, engine/arg_utils.py:2248-2254).
    """
    kinds, window = getattr(text, "layer_types", None), _first(text, "sliding_window")
    if not window:
        return 0, 0
    return sum(kind == "sliding_attention" for kind in kinds) if kinds else text.num_hidden_layers, window


def _recurrent_bytes(config: Config, text: Any, dtype_bytes: int) -> int:
    """Return a sequence's bytes in all recurrent layers: a state per value head, and the convolution's last inputs."""
    num_layers = text.num_hidden_layers - _num_attention_layers(text)
    if not num_layers:
        return 0
    # vLLM takes the state's precision from its own argument, then from the model's mamba_ssm_dtype, then the model's.
    dtype = str(config.engine.extra.get("mamba_ssm_cache_dtype", "auto"))
    dtype = str(getattr(text, "mamba_ssm_dtype", None)) if dtype == "auto" else dtype
    state_bytes = BYTES.get(dtype, dtype_bytes)
    if _is_mamba2(text):
        state = text.mamba_n_heads * text.mamba_d_head * text.mamba_d_state
        inputs = text.mamba_expand * text.hidden_size + 2 * text.mamba_n_groups * text.mamba_d_state
        num_inputs = text.mamba_d_conv - 1
    else:
        values = text.linear_num_value_heads * text.linear_value_head_dim
        state = values * text.linear_key_head_dim
        inputs = 2 * text.linear_num_key_heads * text.linear_key_head_dim + values
        num_inputs = text.linear_conv_kernel_dim - 1
    return int(num_layers * (state * state_bytes + inputs * num_inputs * dtype_bytes))


def _first(text: Any, *names: str) -> int | None:
    return next((int(value) for name in names if (value := getattr(text, name, None)) is not None), None)
