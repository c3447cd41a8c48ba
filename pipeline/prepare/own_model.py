"""What the model's own config.json decides before a run begins: its context, and whether the configuration is for it.

In: a configuration. Out: the same configuration with the model's own context where it has none, or an error for a model
that is another one than the configuration was written for. Only small files are read or downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.config.fields import require
from pipeline.config.paths import expanded
from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.prepare.chat_template import model_directory
from pipeline.prepare.checks.facts import read_json, text_config
from pipeline.runs.model_files import require_directory

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""Names of a model's context in config.json, the usual one first (vLLM 0.32, config/model.py)."""

NAME = "name="
"""Begins the entry of model.expected_config with the model's id on the hub, which config.json does not have."""


def with_own_context(config: Config) -> Config:
    """Return the configuration with the model's own context in place of `model.context_size=null`.

    An endpoint's context is its server's, and stays null.

    Raises:
        ConfigError: The model's config.json does not name its context, or it is not longer than a completion.
        ModelError: There is no such model, or it cannot be downloaded.
    """
    if config.engine.kind != "vllm" or config.model.context_size is not None:
        return config
    directory, _ = model_directory(config)
    size = _context_size(read_json(directory / "config.json") or {})
    if size is None:
        raise ConfigError(
            "model.context_size=None: the model's config.json does not contain the length of its context: "
            "set model.context_size=<tokens>"
        )
    max_tokens = config.generation.max_gen_toks
    fix = f"must be below {size}, the model's own context: set generation.max_gen_toks={max(size // 2, 1)} or so"
    require(max_tokens < size, "generation.max_gen_toks", max_tokens, fix)
    return replace(config, model=replace(config.model, context_size=size))


def _context_size(model_config: Mapping[str, Any]) -> int | None:
    for part in (text_config(model_config), model_config):
        for name in CONTEXT_NAMES:
            size = part.get(name)
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                return size
    return None


def require_expected_model(config: Config) -> None:
    """Check that the model is the one that the configuration was written for, if it names one.

    A directory is compared by its config.json, so that a copy of the model passes wherever it is; an id of the hub by
    its name, before anything is downloaded.

    Raises:
        ConfigError: It is another model; the message names what the configuration would keep, and conf=own.
        ModelError: There is no such directory.
    """
    model = config.model
    if config.engine.kind != "vllm" or model.path is None or not model.expected_config:
        return
    require_directory(model)
    directory = expanded(model.path)
    if directory.is_dir():
        found = read_json(directory / "config.json")
        wrong = _differing(model.expected_config, found) if found is not None else []
        reason = f"its config.json lacks {', '.join(wrong)}"
    else:
        names = [entry.partition("=")[2] for entry in model.expected_config if entry.startswith(NAME)]
        wrong = [] if not names or _name(model.path) in map(_name, names) else names
        reason = f"it is not {', '.join(wrong)}"
    if wrong:
        raise ConfigError(_message(config, reason))


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].lower()


def _differing(expected: tuple[str, ...], found: Mapping[str, Any]) -> list[str]:
    """Return the expected `name=value` that a config.json does not have; a list has the value if it contains it."""
    wrong = []
    for entry in (each for each in expected if not each.startswith(NAME)):
        name, _, value = entry.partition("=")
        values = [part[name] for part in (found, text_config(found)) if name in part]
        texts = {str(each) for item in values for each in (item if isinstance(item, list) else [item])}
        if value not in texts:
            wrong.append(entry)
    return wrong


def _message(config: Config, reason: str) -> str:
    kept = [
        f"model.context_size={config.model.context_size}",
        *([f"reasoning_parser={config.reasoning_parser}"] if config.reasoning_parser else []),
        *(["prompt.template_kwargs"] if config.prompt.template_kwargs else []),
        *(["prompt.expected_fingerprint"] if config.prompt.expected_fingerprint else []),
        f"engine.tensor_parallel_size={config.engine.tensor_parallel_size}",
    ]
    return (
        f"model.path={config.model.path!r} is not the model of conf={config.conf} ({reason}), whose settings it would "
        f"keep: {', '.join(kept)}: write conf=own model.path={config.model.path} in place of conf={config.conf}"
    )
