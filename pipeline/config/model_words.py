"""Keeps words about one model out of the configuration of another.

In: the layers of a configuration. Out: the same layers, without the keys of `submission` that describe the model
`submission.describes` where another model is configured. Words of later layers stay: they are about the other model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MODEL_WORDS = (
    *("model_name", "model_link", "model_size", "model_type", "additional_links"),
    *("architecture_description", "training_description", "license"),
)
"""Keys of `submission` that describe the model; they apply only to the model `submission.describes`."""


def without_foreign_words(layers: Sequence[Mapping[str, Any]], model: str | None = None) -> list[Mapping[str, Any]]:
    """Return the layers without words about a model that is not the configured one.

    Args:
        layers: The nested values of files and arguments, in order of precedence.
        model: The evaluated model, where it is known; by default the configured one. An endpoint's model is unknown
            until its server has named it, and then nothing is left out: the card compares the names.
    """
    described = [place for place, layer in enumerate(layers) if "describes" in _section(layer, "submission")]
    if not described:
        return list(layers)
    last = described[-1]
    describes = _section(layers[last], "submission")["describes"]
    model = model or _configured_model(layers)
    if describes is None or model is None or describes == model:
        return list(layers)
    return [_without_words(layer) if place <= last else layer for place, layer in enumerate(layers)]


def _section(layer: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    found: Any = layer
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _configured_model(layers: Sequence[Mapping[str, Any]]) -> str | None:
    found: dict[str, Any] = {}
    for layer in layers:
        found |= {f"model.{name}": value for name, value in _section(layer, "model").items()}
        found |= {f"engine.{name}": value for name, value in _section(layer, "engine").items()}
        found |= {f"endpoint.{name}": value for name, value in _section(layer, "engine", "endpoint").items()}
    name = "endpoint.model" if found.get("engine.kind") == "endpoint" else "model.path"
    model: str | None = found.get(name)
    return model


def _without_words(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    submission = _section(layer, "submission")
    if not submission:
        return layer
    kept = {name: value for name, value in submission.items() if name not in (*MODEL_WORDS, "describes")}
    return {**layer, "submission": kept}
