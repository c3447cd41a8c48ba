"""The model that a run evaluated: the one that answered.

For an endpoint that is the model that its server serves, whatever `model.path` says, which an endpoint does not use.
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
