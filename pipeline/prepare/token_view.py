"""A readable view of a prompt's tokens.

`pieces` splits token ids into pieces of whole characters and marks special and added tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.prepare.checks.facts import added_tokens, special_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens of whole characters: one token, or the few that share a character.

    The kind `special` is a token that a detokenizer drops. `added` is another token that the tokenizer matches as a
    whole, such as a tag of reasoning. Each forms a piece of its own.
    """

    text: str
    token_ids: Sequence[int]
    kind: Literal["text", "added", "special"]


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> Iterator[Piece]:
    """Yield the pieces of a prompt, in order."""
    special, added = special_tokens(tokenizer), added_tokens(tokenizer)
    open_ids: list[int] = []
    for token_id in token_ids:
        if token_id in special or token_id in added:
            if open_ids:
                yield Piece(_text(tokenizer, open_ids), open_ids, "text")
                open_ids = []
            name = special.get(token_id) or str(added[token_id].content)
            yield Piece(name, [token_id], "special" if token_id in special else "added")
            continue
        open_ids = [*open_ids, token_id]
        text = _text(tokenizer, open_ids)
        if not text.endswith("\ufffd"):  # the decoder writes U+FFFD for an incomplete character
            yield Piece(text, open_ids, "text")
            open_ids = []
    if open_ids:
        yield Piece(_text(tokenizer, open_ids), open_ids, "text")


def _text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
