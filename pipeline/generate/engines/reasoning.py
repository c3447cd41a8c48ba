"""A run's reasoning parser, which is vLLM's: it splits an output into reasoning and content.

In: the configuration and the tokenizer. Out: a `Parser`, the same in the engine and in the preview, which has no
engine. vllm is imported when a parser is made.
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
    """vLLM's reasoning parser of a run (None: there is none), and the chat request that it reads with each output."""

    parser: Any
    request: Any

    @property
    def drops_special_tokens(self) -> bool:
        """Whether the detokenizer drops special tokens from the text that the parser reads."""
        return bool(self.request.skip_special_tokens)

    @property
    def marks(self) -> tuple[str | None, str | None]:
        """The texts that start and end reasoning, where the parser declares them."""
        if self.parser is None:
            return None, None
        return self.parser.reasoning_start_str, self.parser.reasoning_end_str

    def split(self, text: str) -> tuple[str | None, str | None]:
        """Return the reasoning and the content of an output; content is None when the reasoning was never closed."""
        if self.parser is None:
            return None, text
        reasoning, content = self.parser.extract_reasoning(text, self.request)
        return reasoning, content


def parser_of(config: Config, tokenizer: Any) -> Parser:
    """Return the reasoning parser as the engine uses it, without an engine; imports vllm and torch.

    Raises:
        ImportError: vllm is not installed, or cannot be imported on this machine.
        ConfigError: vLLM does not know the parser, or the parser refuses the tokenizer; a run would fail the same way.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").addHandler(logging.NullHandler())  # it logs before it has set up its own logging
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
        ConfigError: The parser refuses the tokenizer: it looks up its tokens in the model's vocabulary.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    # The parser reads a chat request, and adjusts the detokenizer's options in it as it does in vLLM's server.
    request = ChatCompletionRequest(messages=[])
    if parser_class is None:
        return Parser(None, request)
    try:
        parser = parser_class(tokenizer, chat_template_kwargs=dict(config.prompt.template_kwargs))
        return Parser(parser, parser.adjust_request(request))
    except Exception as error:  # each parser has exceptions of its own
        raise ConfigError(f"reasoning_parser={config.reasoning_parser!r} does not fit the model: {error}") from error
