"""The model that a run evaluated: the one that answered.

For an endpoint that is the model that its server serves, whatever `model.path` is, which an endpoint does not use.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.schema import Config
from pipeline.runs.manifest import EngineInfo, Manifest


def model_of(config: Config, engines: Mapping[str, EngineInfo]) -> str | None:
    """Return the name of the evaluated model; None as long as only an endpoint's server knows it.

    Args:
        config: The run's configuration.
        engines: What each replica reported of its engine; empty before one has started.
    """
    if config.engine.kind == "vllm":
        return config.model.path
    served = sorted({info.served_model for info in engines.values() if info.served_model is not None})
    return ", ".join(served) or config.engine.endpoint.model


def evaluated_model(config: Config, manifest: Manifest) -> str | None:
    """Return the name of the model that the run of a manifest evaluated."""
    return model_of(config, manifest.engine)


def other_model_answered(engines: Mapping[str, EngineInfo]) -> list[str]:
    """Return a line for each server whose answers carry another model's name than the requested one.

    It may be the full name of the same model, or a model that the server took in its place.
    """
    pairs = {(info.served_model, info.answered_by) for info in engines.values() if info.answered_by is not None}
    return [
        f"other-model-answered: requests for {requested!r} were answered by {answered!r}, as the server names it: "
        "set engine.endpoint.model to the full name, so that it is always the same model"
        for requested, answered in sorted(pairs, key=str)
        if requested is not None and answered != requested
    ]
