"""The chat template's fingerprint: a hash over what the template renders, not over how its source is laid out.

In: a `Chat`. Out: `sha256:...`, the same for two templates that render every probe of prepare/template_probes.py alike,
whatever white space their sources have, and another one as soon as a rendered character differs. What the variables
of the template hold is rendered too, the tokenizer's bos_token and eos_token among them, so two models whose template
writes their own bos_token differ; Qwen's writes its special tokens as text, so there the tokenizer has no part in it.
`prompt.template_kwargs` has no part either: it is in the configuration, and the probes bring their own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from datetime import UTC, datetime

from pipeline.config.schema import Config
from pipeline.errors import ModelError
from pipeline.prepare.chat_template import Chat, TemplateFailed
from pipeline.prepare.template_probes import CONVERSATIONS, VARIABLES
from pipeline.runs.manifest import PromptMetadata

CLOCK = datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
"""What time it is for a probe. transformers gives templates a global `strftime_now`; a variable goes before it."""


def template_fingerprint(chat: Chat) -> str:
    """Return the hash of what the template renders for every probe.

    A probe that the template raises on counts as having raised, whatever the message: no prompt holds it.

    Raises:
        ModelError: The template is not Jinja.
    """
    whole = hashlib.sha256()
    for messages, variables, prompted in itertools.product(CONVERSATIONS, VARIABLES, (False, True)):
        text: str | None
        try:
            text = chat.apply(messages, add_generation_prompt=prompted, strftime_now=CLOCK.strftime, **variables)
        except TemplateFailed:
            text = None
        whole.update(json.dumps(text).encode("ascii") + b"\n")
    return f"sha256:{whole.hexdigest()}"


def check_fingerprint(config: Config, metadata: PromptMetadata) -> str | None:
    """Compare the template that prompts are made with with `prompt.expected_fingerprint`.

    Args:
        config: The run's configuration.
        metadata: Facts of the prompts stage; `template_fingerprint` is not among them when a server renders.

    Returns:
        A warning of one line when the template is not the expected one and the policy lets it pass, or when nobody
        knows; else None.

    Raises:
        ModelError: The template is not the expected one, and prompt.fingerprint_policy is error.
    """
    expected, found = config.prompt.expected_fingerprint, metadata.template_fingerprint
    if expected is None or expected == found:
        return None
    at = f"prompt.expected_fingerprint={expected}"
    if found is None:
        return f"{at} is not compared: the server behind engine.endpoint renders with a template of its own"
    template = config.prompt.chat_template
    source = f"prompt.chat_template={template!r}" if template else f"the template of model.path={config.model.path!r}"
    line = (
        f"{at}: {source} has {found}, so it renders other prompts: set prompt.chat_template=<file> to the template "
        f"that is expected, or prompt.expected_fingerprint={found} to take this one (null: not compared)"
    )
    if config.prompt.fingerprint_policy == "error":
        raise ModelError(line)
    return line
