"""The size of a model and the memory of a sequence, from the model's config.json. No weight is loaded.

In: the configuration of a model. Out: a `Shape`, counted from transformers' own model class on torch's `meta` device,
where a parameter has a shape and no memory. The memory of a sequence follows vLLM's cache layouts:

    attention   2 (key, value) x layers x KV heads x head size x bytes, for each token, or for each of a sliding window
                (vllm/v1/kv_cache_interface.py, FullAttentionSpec.page_size_bytes)
    gated delta layers x (value heads x value size x key size x state bytes + (2 x key heads x key size + value heads x
    net         value size) x (kernel - 1) x bytes), for each sequence whatever its length
                (vllm/model_executor/layers/mamba/mamba_utils.py, gated_delta_net_state_shape)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import ModelError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


LINEAR = ("num_value_heads", "num_key_heads", "value_head_dim", "key_head_dim", "conv_kernel_dim")
"""Keys of a gated delta net in config.json, without their prefix `linear_`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's sizes. Layers are counted by kind; bytes are those of the whole model, not of one GPU's share.

    `num_lookup_params` are those of an untied table of input embeddings, of which a token reads one row. Of the
    attention layers, `num_window_layers` attend to the last `window` tokens only.
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

    @property
    def num_active_params(self) -> float:
        """Parameters that one token is multiplied with: without input embeddings and experts it is not routed to."""
        idle = self.num_expert_params * (1 - self.num_experts_per_token / max(self.num_experts, 1))
        return self.num_params - self.num_lookup_params - idle

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token of one sequence in the KV cache, over all layers."""
        return 2 * self.num_attention_layers * self.num_kv_heads * self.head_size * self.kv_bytes

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
        raise ModelError(f"{at}: its config.json does not tell its shape: {error}") from error
    _require_known(text, at)
    return _shape(config, directory, text, built)


def _require_known(text: Any, at: str) -> None:
    """Raise `ModelError` for an architecture whose memory of a sequence these formulas do not cover."""
    names = {"hidden_size", "num_hidden_layers", "num_attention_heads"}
    kinds = set(getattr(text, "layer_types", None) or ())
    if "linear_attention" in kinds:
        names |= {f"linear_{name}" for name in LINEAR}
    missing = sorted(name for name in names if getattr(text, name, None) is None)
    unknown = sorted(kinds - {"full_attention", "sliding_attention", "linear_attention"})
    if getattr(text, "kv_lora_rank", None) is not None:
        unknown.append("multi-head latent attention")
    if missing or unknown:
        what = f"layers of {unknown[0]!r}" if unknown else f"a model without {missing[0]}"
        raise ModelError(f"{at} ({text.model_type}): what {what} keeps for a sequence is not known here")


def _shape(config: Config, directory: Path, text: Any, built: Any) -> Shape:
    table, head = built.get_input_embeddings(), built.get_output_embeddings()
    is_shared = head is None or head.weight is table.weight
    num_window_layers, window = _windows(text)
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
        weights_bytes=_stored_bytes(directory) or num_params * dtype_bytes,
        hidden_size=text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_attention_layers=_num_attention_layers(text),
        num_window_layers=num_window_layers,
        window=window,
        num_attention_heads=text.num_attention_heads,
        num_kv_heads=_first(text, "num_key_value_heads") or text.num_attention_heads,
        head_size=_first(text, "head_dim") or text.hidden_size // text.num_attention_heads,
        kv_bytes=BYTES.get(str(config.engine.extra.get("kv_cache_dtype", "auto")), dtype_bytes),
        num_recurrent_layers=text.num_hidden_layers - _num_attention_layers(text),
        num_recurrent_heads=_first(text, "linear_num_value_heads") or 0,
        recurrent_bytes=_recurrent_bytes(config, text, dtype_bytes),
    )


def _dtype(config: Config, text: Any) -> str:
    """Return the precision of the weights in the engine."""
    dtype = config.model.dtype if config.model.dtype != "auto" else str(text.dtype).removeprefix("torch.")
    return dtype if dtype in BYTES else "bfloat16"


def _stored_bytes(directory: Path) -> int | None:
    """Return the bytes of a local model's weights if they are quantized, as the engine keeps them, or else None."""
    quantized = '"quantization_config"' in _text(directory / "config.json")
    return sum(file.stat().st_size for file in directory.glob("*.safetensors")) or None if quantized else None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _num_attention_layers(text: Any) -> int:
    kinds = getattr(text, "layer_types", None)
    if not kinds:
        return int(text.num_hidden_layers)
    return sum(kind != "linear_attention" for kind in kinds)


def _windows(text: Any) -> tuple[int, int]:
    """Return the number of sliding-window layers, and the window in tokens."""
    kinds, window = getattr(text, "layer_types", None), _first(text, "sliding_window")
    if not kinds or window is None:
        return 0, 0
    return sum(kind == "sliding_attention" for kind in kinds), window


def _recurrent_bytes(config: Config, text: Any, dtype_bytes: int) -> int:
    """Return a sequence's bytes in all recurrent layers: a state per value head, and the convolution's last inputs."""
    num_layers = text.num_hidden_layers - _num_attention_layers(text)
    if not num_layers:
        return 0
    # vLLM takes the state's precision from its own argument, then from the model's mamba_ssm_dtype, then the model's.
    dtype = str(config.engine.extra.get("mamba_ssm_cache_dtype", "auto"))
    dtype = str(getattr(text, "mamba_ssm_dtype", None)) if dtype == "auto" else dtype
    values = text.linear_num_value_heads * text.linear_value_head_dim
    state = values * text.linear_key_head_dim * BYTES.get(dtype, dtype_bytes)
    inputs = 2 * text.linear_num_key_heads * text.linear_key_head_dim + values
    return int(num_layers * (state + inputs * (text.linear_conv_kernel_dim - 1) * dtype_bytes))


def _first(text: Any, *names: str) -> int | None:
    return next((int(value) for name in names if (value := getattr(text, name, None)) is not None), None)
