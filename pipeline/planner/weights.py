"""The bytes of a model's weights in the engine, quantized ones included, from config.json alone.

In: the model on torch's `meta` device and `quantization_config`. Out: bytes. Where a quantized model's files are on
this machine, their size is used instead: it is what was really stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError

IGNORED = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "llm_int8_skip_modules")
"""Keys of `quantization_config` that name the modules which keep their precision, in the formats' own words."""


def weights_bytes(directory: Path, quantization: Mapping[str, Any] | None, built: Any, dtype_bytes: int) -> int:
    """Return the bytes of the weights of the whole model.

    Args:
        directory: The model's directory, which holds its weights or only its configuration.
        quantization: The `quantization_config` of its config.json; None if it has none.
        built: The model on the `meta` device.
        dtype_bytes: Bytes of a parameter that is not quantized.

    Raises:
        ModelError: It is quantized in a format that is not known here, and its weights are not in the directory.
    """
    sizes: dict[str, int] = {name: parameter.numel() for name, parameter in built.named_parameters()}
    if quantization is None:
        return sum(sizes.values()) * dtype_bytes
    stored: int = sum(
        file.stat().st_size
        for file in directory.glob("*.safetensors")
        if not file.name.startswith("consolidated")  # Mistral's repositories hold the same weights a second time
    )
    if stored:
        return stored
    bits = bits_per_weight(quantization)
    ignored = [str(pattern) for key in IGNORED for pattern in quantization.get(key) or ()]
    quantized = {name for name in _quantizable(built) if not _is_ignored(name, ignored)}
    return round(sum(size * (bits / 8 if name in quantized else dtype_bytes) for name, size in sizes.items()))


def bits_per_weight(quantization: Mapping[str, Any]) -> float:
    """Return the bits of a quantized weight, with its share of the scales and zero points of its group.

    Raises:
        ModelError: The format is not known here.
    """
    method = str(quantization.get("quant_method"))
    algorithm = str(quantization.get("quant_algo")).upper()
    if method in ("fp8", "fbgemm_fp8") or (method == "modelopt" and algorithm == "FP8"):
        return 8  # a scale for a tensor, a row or 128 x 128 weights
    if method in ("awq", "gptq"):
        return _grouped(quantization.get("bits") or quantization.get("w_bit") or 4, quantization.get("group_size"))
    if method == "compressed-tensors":
        groups = (quantization.get("config_groups") or {}).values()
        weights = [group["weights"] for group in groups if isinstance(group, Mapping) and group.get("weights")]
        if weights:
            return max(_grouped(each.get("num_bits") or 16, each.get("group_size")) for each in weights)
    if method == "mxfp4":
        return 4 + 8 / 32
    if method in ("modelopt", "modelopt_fp4") and algorithm == "NVFP4":
        return 4 + 8 / 16
    raise ModelError(
        f"model.path: quantization_config.quant_method={method!r}: what its weights take is not known here; "
        "set model.path to a directory that holds them"
    )


def _grouped(bits: float, group_size: int | None) -> float:
    """Return the bits with a scale of 16 bits, and a zero point, for each group of weights (-1: for each row)."""
    return float(bits) + ((16 + bits) / group_size if group_size and group_size > 0 else 0)


def _quantizable(built: Any) -> set[str]:
    """Return the names of the parameters that formats quantize: linear layers but the output's, and experts."""
    from torch.nn import Linear

    head = built.get_output_embeddings()
    names = {
        f"{name}.weight" for name, module in built.named_modules() if isinstance(module, Linear) and module is not head
    }
    return names | {name for name, parameter in built.named_parameters() if ".experts." in name and parameter.dim() > 2}


def _is_ignored(name: str, patterns: list[str]) -> bool:
    """Return whether a pattern names the parameter or a module above it; `re:` begins a regular expression.

    A model that also sees images calls its text layers `language_model.`, which the text model alone does not.
    """
    for pattern in patterns:
        plain = pattern.replace("language_model.", "")
        if pattern.startswith("re:"):
            if re.match(plain.removeprefix("re:"), name):
                return True
        elif fnmatchcase(f".{name}.", f"*.{plain}.*"):
            return True
    return False
