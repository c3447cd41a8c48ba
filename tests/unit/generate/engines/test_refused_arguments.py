"""A server that refuses an entry of every request is reported with the key that changes it."""

from __future__ import annotations

import pytest

from pipeline.generate.engines.refused_arguments import hint


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            "engine.endpoint.token_limit=max_completion_tokens",
        ),
        ("max_completion_tokens: Extra inputs are not permitted", "engine.endpoint.token_limit=max_tokens"),
        ("Unrecognized request argument supplied: seed", "engine.endpoint.leave_out=[seed]"),
        ("Unknown field `stop`", "engine.endpoint.leave_out=[stop]"),
        ("body.top_k: extra fields not permitted", "engine.endpoint.leave_out=[top_k]"),
        ("temperature does not support 0 with this model", "engine.endpoint.leave_out=[temperature]"),
        (
            "Additional properties are not allowed ('chat_template_kwargs')",
            "engine.endpoint.leave_out=[chat_template_kwargs]",
        ),
    ],
)
def test_a_refused_entry_has_its_key(message: str, key: str) -> None:
    assert hint(message) == f"; set {key}"


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 10000. This model has 8192 tokens",
        "the content is not allowed by the policy",
        "the worker stops unexpectedly",
        "",
    ],
)
def test_another_error_has_no_hint(message: str) -> None:
    assert hint(message) == ""
