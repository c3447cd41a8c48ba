"""The chat template's fingerprint: a hash of what the template renders, independent of its source's layout.

The fingerprint is `sha256:...`. Two templates have the same one when they render every probe of
prepare/template_probes.py to the same characters, whatever white space their sources have. The values of variables are
rendered too, including the tokenizer's bos_token and eos_token: two models whose template writes bos_token from the
tokenizer have different fingerprints. Qwen's template writes its special tokens as text, so there the tokenizer does
not matter. `prompt.template_kwargs` does not matter either: it is part of the configuration, and the probes have their
own variables.
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
"""The fixed time that probes see. transformers gives templates a global `strftime_now`; a variable overrides it."""


def template_fingerprint(chat: Chat) -> str:
    """Return the hash of what the template renders for every probe.

    A probe on which the template raises is hashed as such, without the exception's message, which reaches no prompt.

    Raises:
        ModelError: The template is not valid Jinja.
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
    """Compare the fingerprint of the prompts' template with `prompt.expected_fingerprint`.

    Args:
        config: The run's configuration.
        metadata: Metadata of the artifact `prompts`; `template_fingerprint` is None when a server renders.

    Returns:
        A one-line warning when the fingerprint differs and the policy allows it, or when it is unknown; None when
        they are equal or none is expected.

    Raises:
        ModelError: The fingerprint differs, and prompt.fingerprint_policy is error.
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
