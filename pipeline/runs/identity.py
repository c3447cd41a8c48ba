"""The settings that a run's completions depend on, which must not change when a run is resumed, and their hash."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from typing import Any

from pipeline.config.loading import flat
from pipeline.config.paths import portable
from pipeline.config.schema import Config, EndpointConfig

MECHANICS = (
    *("conf", "run_id", "output_dir", "cluster", "schedule", "run", "submission", "report", "gate", "noise"),
    *("max_failed_rows", "only"),
)
"""Keys that completions do not depend on; of `engine`, only `ENGINE_IDENTITY` and the endpoint's model count."""

ENDPOINT_IDENTITY = ("extra_body", "leave_out")
"""Keys of the endpoint that change its answers; headers hold no value here, and prices and limits change none."""

ENGINE_IDENTITY = ("kind", "batch_invariant", "extra")

COMPARED_ONLY = ("prompt.expected_fingerprint", "prompt.fingerprint_policy", "model.expected_config")
"""Keys of checks: a run that such a check refused can be resumed under the same run_id once the key is corrected."""

SCORING_ONLY = r"tasks\.[^.]+\.cluster"
"""Keys of tasks that only their scores depend on: a regular expression."""


def identity(config: Config) -> dict[str, Any]:
    """Return the keys that the completions depend on, dotted, with their values."""
    plain = asdict(config)
    found = flat({name: value for name, value in plain.items() if name not in (*MECHANICS, "engine", "tasks")})
    found |= flat({"engine": {name: plain["engine"][name] for name in ENGINE_IDENTITY}})
    found["engine.endpoint.model"] = config.engine.endpoint.model
    endpoint, usual = config.engine.endpoint, EndpointConfig()
    for name in ENDPOINT_IDENTITY:  # at their defaults they are left out, so that hashes of older runs stay valid
        if getattr(endpoint, name) != getattr(usual, name):
            found |= flat({f"engine.endpoint.{name}": getattr(endpoint, name)})
    if config.engine.kind == "endpoint":  # whose context is the server's; older versions recorded their default
        del found["model.context_size"]
    found = {name: value for name, value in found.items() if not name.startswith("generation.repeats")}
    found["generation.repeats"] = _repeats(config)
    found |= flat({"tasks": {name: plain["tasks"][name] for name in config.active_tasks}})
    return portable({name: value for name, value in found.items() if not _is_left_out(name)})


def _is_left_out(name: str) -> bool:
    return name in COMPARED_ONLY or re.fullmatch(SCORING_ONLY, name) is not None


def _repeats(config: Config) -> Any:
    """Return the number of completions of a question, or those by split where the run's splits differ."""
    by_split = {split: config.generation.repeats_by_split[split] for split in sorted(config.splits)}
    return by_split if len(set(by_split.values())) > 1 else next(iter(by_split.values()))


def settings_hash(config: Config) -> str:
    """Return `sha256:` and a hash of `identity`: equal for runs whose completions depend on equal settings."""
    text = json.dumps(identity(config), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode('utf-8')).hexdigest()}"
