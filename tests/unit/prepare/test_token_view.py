"""The pieces of a prompt's tokens add up to its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.prepare.token_view import Piece, pieces


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir):
    return AutoTokenizer.from_pretrained(tokenizer_dir)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_pieces_add_up_to_the_text(tokenizer, text):
    ids = encode(tokenizer, text)
    found = list(pieces(tokenizer, ids))
    assert "".join(piece.text for piece in found) == text
    assert [each for piece in found for each in piece.token_ids] == ids


def test_tokens_that_share_a_character_are_one_piece(tokenizer):
    assert [(piece.text, len(piece.token_ids)) for piece in pieces(tokenizer, encode(tokenizer, "Да😀"))] == [
        ("Д", 2),
        ("а", 2),
        ("😀", 4),
    ]


def test_special_and_added_tokens_are_pieces_of_their_own(tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    tokenizer.add_tokens(["<think>"])
    special, added = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<think>"])
    found = list(pieces(tokenizer, encode(tokenizer, "а<|im_end|><think>")))
    assert found[1:] == [Piece("<|im_end|>", [special], "special"), Piece("<think>", [added], "added")]


def test_a_character_interrupted_by_a_special_token_becomes_a_replacement_character(tokenizer):
    half = encode(tokenizer, "Д")[:1]
    assert [piece.text for piece in pieces(tokenizer, [*half, *encode(tokenizer, "<|im_end|>"), *half])] == [
        "\ufffd",
        "<|im_end|>",
        "\ufffd",
    ]
