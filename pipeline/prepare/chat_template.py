"""The model's chat template and tokenizer: renders messages to the prompt's text and token ids.

`open_chat` reads `model.*` and `prompt.*` of the configuration and returns a `Chat`. Only tokenizer files are
downloaded and read, never weights. With engine.kind=endpoint the server renders prompts and this module is not used.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from pipeline.config.fields import require
from pipeline.config.paths import expanded
from pipeline.config.schema import Config
from pipeline.errors import ModelError
from pipeline.runs.model_files import read_template, require_directory, sha256_of
from pipeline.storage.hub import fetch
from pipeline.terminal.text import one_line, replace_surrogates

Messages = list[dict[str, Any]]

RESERVED_KWARGS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Arguments of `apply_chat_template` that the pipeline sets itself; all others are passed to the template."""

MAX_RENDER_S = 20.0
"""Longest time that a template may take for one prompt, in seconds of processor time."""

LONGEST_FAILURE = 1_000
"""Characters of a template's own error; it may quote the whole prompt."""

TOKENIZER_PATTERNS = ["*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]


class TemplateFailed(Exception):
    """The chat template raised while rendering; the message holds the type and text of its exception."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A tokenizer and the chat template to render with.

    `origin` names the configuration key that the template comes from. `revision` is the commit of a hub model, else
    None.
    """

    tokenizer: Any
    template: str
    template_kwargs: dict[str, Any]
    origin: str
    revision: str | None

    @property
    def template_sha256(self) -> str:
        """SHA-256 of the template's text."""
        return sha256_of(self.template)

    def render(self, messages: Messages) -> str:
        """Return the prompt with the generation prompt at its end.

        Raises:
            TemplateFailed: The template raised, took too long, or wrote half of a character.
            ModelError: The template is not valid Jinja.
        """
        return self.apply(messages, add_generation_prompt=True, **self.template_kwargs)

    def render_question(self, messages: Messages) -> str:
        """Return the prompt of messages whose contents are texts, after checking that it holds the user's.

        Raises:
            TemplateFailed: As by `render`; or the template left text of the user's message out.
            ModelError: The template is not valid Jinja.
        """
        text = self.render(messages)
        whole = "".join(text.split())  # a template may trim a message, and nothing else
        for message in messages:
            if message["role"] == "user" and "".join(message["content"].split()) not in whole:
                raise TemplateFailed(
                    "the prompt does not hold the text of the user's message: the template is written for messages in "
                    "parts, or cuts them; take another one by prompt.chat_template"
                )
        return text

    def apply(self, messages: Messages, *, add_generation_prompt: bool, **variables: Any) -> str:
        """Return the text that the template renders from `messages`, the special tokens and these variables.

        Raises:
            TemplateFailed: The template raised, or the text is not Unicode.
            ModelError: The template is not valid Jinja; the message names the line.
        """
        try:
            with _deadline():
                text = str(
                    self.tokenizer.apply_chat_template(
                        messages,
                        tokenize=False,
                        add_generation_prompt=add_generation_prompt,
                        chat_template=self.template,
                        **variables,
                    )
                )
        except TemplateSyntaxError as error:
            raise ModelError(f"{self.origin} is not Jinja: line {error.lineno}: {error.message}") from error
        except Exception as error:  # a template can raise any exception
            reason = replace_surrogates(f"{type(error).__name__}: {error}") or ""
            raise TemplateFailed(one_line(reason, LONGEST_FAILURE)) from error
        if replace_surrogates(text) != text:
            raise TemplateFailed("the prompt is not Unicode text: the template writes half of a character")
        return text

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt. Adds no special tokens: the template has already written them."""
        if not prompts:
            return []
        ids: list[list[int]] = self.tokenizer(
            list(prompts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        return ids


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise `TimeoutError` after `MAX_RENDER_S` seconds of this process's time, where a signal can be received."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"it takes longer than {MAX_RENDER_S:g} s")

    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_RENDER_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def check_template_kwargs(config: Config) -> None:
    """Raise `ConfigError` when prompt.template_kwargs holds an argument that the pipeline sets itself."""
    taken = sorted(RESERVED_KWARGS & config.prompt.template_kwargs.keys())
    fix = "is set by the pipeline: only variables of the chat template belong here, such as enable_thinking"
    require(not taken, "prompt.template_kwargs", taken, fix)


def open_chat(config: Config) -> Chat:
    """Return the model's tokenizer with the chat template that `config` names.

    Raises:
        ModelError: model.path has no usable tokenizer, or there is no usable template; the message names the key.
    """
    own_template = read_template(config.prompt)
    tokenizer, revision = _load_tokenizer(config)
    if own_template is not None:
        origin = f"prompt.chat_template={config.prompt.chat_template!r}"
        return Chat(tokenizer, own_template, config.prompt.template_kwargs, origin, revision)
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise ModelError(
            f"model.path={config.model.path!r} has no chat template of its own: set prompt.chat_template=<file>"
        ) from error
    origin = f"model.path={config.model.path!r} (its chat template)"
    if replace_surrogates(template) != template:  # as an escape of the tokenizer's JSON
        raise ModelError(f"{origin} is no Unicode text: it has half of a character; set prompt.chat_template=<file>")
    return Chat(tokenizer, template, config.prompt.template_kwargs, origin, revision)


def _load_tokenizer(config: Config) -> tuple[Any, str | None]:
    """Return the tokenizer and, for a hub model, its commit."""
    model = config.model
    assert model.path, "Config requires model.path for engine.kind=vllm"
    at = f"model.path={model.path!r}"
    directory, revision = model_directory(config)
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=model.trust_remote_code)
        probe = tokenizer("A", add_special_tokens=False)["input_ids"]
    except Exception as error:  # tokenizers in Rust, optional packages and a model's own code raise any exception
        if "trust_remote_code" in str(error):
            fix = "its tokenizer is Python code: if you trust it, set model.trust_remote_code=true"
        else:
            fix = f"no tokenizer can be loaded ({error}): put tokenizer.json and tokenizer_config.json there"
        raise ModelError(f"{at}: {fix}") from error
    if not probe:
        # transformers builds an empty tokenizer when the directory has only a config.json.
        raise ModelError(f"{at}: its tokenizer has no vocabulary: put tokenizer.json and tokenizer_config.json there")
    return tokenizer, revision


def model_directory(config: Config) -> tuple[Path, str | None]:
    """Return the directory with the model's small files and, for a hub model, its commit.

    Raises:
        ModelError: There is no such directory, or it cannot be downloaded from the hub; the message names the fix.
    """
    model, at = config.model, f"model.path={config.model.path!r}"
    path = expanded(str(model.path))
    if path.is_dir():
        return path, None
    require_directory(model)
    patterns = [*TOKENIZER_PATTERNS, *(["*.py"] if model.trust_remote_code else [])]
    try:
        snapshot = fetch(str(model.path), "model", model.revision, patterns)
    except ConnectionError as error:
        revision_text = f" model.revision={model.revision!r}" if model.revision else ""
        raise ModelError(
            f"{at}{revision_text}: {error}. Set HF_TOKEN to a token with access, or put a copy of the model in a "
            "directory and set model.path=<dir>"
        ) from error
    return snapshot, snapshot.name
