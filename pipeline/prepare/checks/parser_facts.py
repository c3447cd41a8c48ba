"""What a reasoning parser does, found by giving it a few outputs of our own.

In: the parser as the engine has it, and the model's tokenizer. Out: `ParserFacts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class SplittingParser(Protocol):
    """What of a reasoning parser is looked at; generate/engines/reasoning.py has it."""

    @property
    def marks(self) -> tuple[str | None, str | None]:
        """What begins and what ends reasoning, where the parser says so."""

    @property
    def drops_special_tokens(self) -> bool:
        """Whether it reads a text without special tokens."""

    def split(self, text: str) -> tuple[str | None, str | None]:
        """Return the reasoning and the content of an output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserFacts:
    """What a reasoning parser makes of an output.

    `start` and `end` are the marks that it looks for (None: it does not say), `missing` those of them that are no
    tokens of the model. It finds the answer in an output without marks (`takes_plain`), behind `end` alone
    (`takes_opened`: the template has written `start`), behind both (`takes_whole`), or raises (`refusal`).
    `drops_special_tokens`: the engine leaves special tokens out of the text.
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
    """Return what `parser` does with outputs of a model that has this tokenizer."""
    start, end = parser.marks
    refusal = None
    answers: list[bool] = []
    for text in ("4", f"2 + 2{end}4", f"{start}2 + 2{end}4"):
        try:
            answers.append((parser.split(text)[1] or "").strip() == "4")
        except Exception as error:  # each parser has exceptions of its own
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
    """Return whether a mark, or a part of it, is cut out of a text whole."""
    ids = tokenizer(mark, add_special_tokens=False)["input_ids"]
    return not set(ids).isdisjoint(getattr(tokenizer, "added_tokens_decoder", {}))
