"""vLLM's reasoning parser of a run: what splits an output into reasoning and content.

In: the configuration and the tokenizer. Out: a `Parser`, the same in the engine and, without one, in the preview. vllm
is imported when a parser is made.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Parser:
    """vLLM's reasoning parser of a run (None: there is none), and the chat request that it reads beside each output."""

    parser: Any
    request: Any

    @property
    def drops_special_tokens(self) -> bool:
        """Whether the detokenizer leaves special tokens out of the text that the parser reads."""
        return bool(self.request.skip_special_tokens)

    @property
    def marks(self) -> tuple[str | None, str | None]:
        """What begins and what ends reasoning, where the parser says so."""
        if self.parser is None:
            return None, None
        return self.parser.reasoning_start_str, self.parser.reasoning_end_str

    def split(self, text: str) -> tuple[str | None, str | None]:
        """Return the reasoning and the content of an output; content is None when the reasoning never closed."""
        if self.parser is None:
            return None, text
        reasoning, content = self.parser.extract_reasoning(text, self.request)
        return reasoning, content


def parser_of(config: Config, tokenizer: Any) -> Parser:
    """Return the reasoning parser as the engine has it, without an engine; vllm and torch are imported.

    Raises:
        ImportError: vllm is not installed, or cannot be imported on this machine.
        ConfigError: vLLM does not know the parser, or the parser refuses the tokenizer; a run would end so too.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").addHandler(logging.NullHandler())  # it speaks before it has set its own log up
    return make_parser(config, parser_class_of(config), tokenizer)


def parser_class_of(config: Config) -> Any:
    """Return the class of the configuration's reasoning parser, or None.

    Raises:
        ConfigError: vLLM does not know it.
    """
    from vllm.reasoning import ReasoningParserManager

    if config.reasoning_parser is None:
        return None
    try:
        return ReasoningParserManager.get_reasoning_parser(config.reasoning_parser)
    except KeyError as error:
        known = ", ".join(sorted(ReasoningParserManager.list_registered()))
        raise ConfigError(
            f"reasoning_parser={config.reasoning_parser!r} is not known to vLLM: choose of {known}"
        ) from error


def make_parser(config: Config, parser_class: Any, tokenizer: Any) -> Parser:
    """Return a parser of this class for a tokenizer.

    Raises:
        ConfigError: It refuses the tokenizer: a parser looks for its tokens in the model's vocabulary.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    # The parser reads a chat request; what it asks of the detokenizer is what vLLM's server does too.
    request = ChatCompletionRequest(messages=[])
    if parser_class is None:
        return Parser(None, request)
    try:
        parser = parser_class(tokenizer, chat_template_kwargs=dict(config.prompt.template_kwargs))
        return Parser(parser, parser.adjust_request(request))
    except Exception as error:  # each parser has exceptions of its own
        raise ConfigError(f"reasoning_parser={config.reasoning_parser!r} does not fit the model: {error}") from error
