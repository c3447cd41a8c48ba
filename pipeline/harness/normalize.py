"""Normalizes both sides before they are compared, so that only meaningful differences remain.

In: a data set's row, a prompt, generation arguments. Out: the same without what the harness, Arrow or the order of keys
adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.harness_arguments import harness_arguments, sampling
from pipeline.config.schema import GenerationConfig

PARTS = ("inputs", "meta")
"""Objects in a row whose keys are compared one by one."""


def flat_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's values as JSON by their names, such as `instruction` and `inputs.option_a`."""
    flat: dict[str, str] = {}
    for name, value in row.items():
        if name in PARTS and isinstance(value, dict):
            flat |= {f"{name}.{key}": to_json(item) for key, item in value.items()}
        else:
            flat[name] = to_json(value)
    return flat


def plain_messages(text: str) -> str | None:
    """Return a prompt's messages as JSON, or None when the prompt is rendered text.

    The harness adds `"type": "text"` to each message, which no chat template reads.
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        messages = json.loads(text)
    except ValueError:
        return None
    if not isinstance(messages, list) or not all(isinstance(each, dict) and "role" in each for each in messages):
        return None
    return to_json([{k: v for k, v in each.items() if (k, v) != ("type", "text")} for each in messages])


def their_arguments(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the harness's generation arguments under the names of our keys, each as JSON.

    An argument that is not set has the value that the harness's chat client sends by default: temperature 0, whatever
    `do_sample` is. Arguments without a key of ours stay as they are. Source: lm-eval 0.4.9,
    models/openai_completions.py, `LocalChatCompletion`.
    """
    rest = dict(arguments)
    until = rest.pop("until", [])
    max_gen_toks = rest.pop("max_gen_toks", None)
    named = {
        "do_sample": rest.pop("do_sample", False),
        "until": [until] if isinstance(until, str) else until,
        "max_gen_toks": rest.pop("max_tokens", max_gen_toks),
        "temperature": rest.pop("temperature", 0),
        "top_p": rest.pop("top_p", 1),
        "top_k": rest.pop("top_k", 0),
    }
    return _arguments(named) | {name: to_json(value) for name, value in rest.items()}


def our_arguments(generation: GenerationConfig) -> dict[str, str]:
    """Return the configuration's generation arguments, each as JSON; greedy decoding is temperature 0."""
    return _arguments(harness_arguments(generation) | sampling(generation))


def to_json(value: Any) -> str:
    """Return a value as JSON with sorted keys."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _arguments(named: dict[str, Any]) -> dict[str, str]:
    """Return the arguments as JSON, without the order of stop strings and with 1.0 as 1."""
    until = named["until"]
    if isinstance(until, list) and all(isinstance(each, str) for each in until):
        named["until"] = sorted(set(until))
    plain = (
        (name, int(value) if isinstance(value, float) and value.is_integer() else value)
        for name, value in named.items()
    )
    return {name: to_json(value) for name, value in plain}
