"""How a reasoning parser behaves, found by running it on a few sample outputs.

`parser_facts` takes the engine's parser and the model's tokenizer and returns `ParserFacts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class SplittingParser(Protocol):
    """The part of a reasoning parser that the checks use; generate/engines/reasoning.py implements it."""

    @property
    def marks(self) -> tuple[str | None, str | None]:
        """The start and end marks of reasoning; None for a mark that the parser does not declare."""

    @property
    def drops_special_tokens(self) -> bool:
        """Whether the engine drops special tokens from the text that the parser reads."""

    def split(self, text: str) -> tuple[str | None, str | None]:
        """Return the reasoning and the content of an output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserFacts:
    """How a reasoning parser splits an output.

    Attributes:
        start: The mark that starts reasoning; None when the parser does not declare it.
        end: The mark that ends reasoning; None when the parser does not declare it.
        missing: The marks that the model's tokenizer has no added token for.
        takes_plain: Whether it finds the answer in an output without marks.
        takes_opened: Whether it finds the answer after `end` alone, when the template has already written `start`.
        takes_whole: Whether it finds the answer in an output with both marks.
        refusal: The exception that it raised, as text; None when it raised none.
        drops_special_tokens: Whether the engine drops special tokens from the text that the parser reads.
    """

    start: str | None
    end: str | None
    missing: Sequence[str]
    takes_plain: bool
    takes_opened: bool
    takes_whole: bool
    refusal: str | None
    drops_special_tokens: bool


def parser_facts(parser: SplittingParser, tokenizer: Any) -> ParserFacts:
    """Return how `parser` splits outputs of a model with this tokenizer."""
    start, end = parser.marks
    refusal = None
    answers: list[bool] = []
    for text in ("4", f"2 + 2{end}4", f"{start}2 + 2{end}4"):
        try:
            answers.append((parser.split(text)[1] or "").strip() == "4")
        except Exception as error:  # parsers raise different exceptions
            answers.append(False)
            refusal = f"{type(error).__name__}: {error}"
    return ParserFacts(
        start=start,
        end=end,
        missing=[mark for mark in (start, end) if mark and not _has_token(tokenizer, mark)],
        takes_plain=answers[0],
        takes_opened=answers[1],
        takes_whole=answers[2],
        refusal=refusal,
        drops_special_tokens=parser.drops_special_tokens,
    )


def _has_token(tokenizer: Any, mark: str) -> bool:
    """Return whether the tokenizer encodes a mark, or a part of it, as an added token."""
    ids = tokenizer(mark, add_special_tokens=False)["input_ids"]
    return not set(ids).isdisjoint(getattr(tokenizer, "added_tokens_decoder", {}))
