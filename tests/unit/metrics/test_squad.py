"""The exact metrics reproduce SQuAD's definition, including its surprising results."""

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.squad import exact_match, f1, tokens

TABLE = [
    ("A", "", 1, 1),
    ("A", ".", 1, 1),
    ("A", "A. Текст", 0, 0),
    ("A", "A, B", 0, 0),
    ("A", "А", 0, 0),  # the response is Cyrillic
    ("A, B", "B", 1, 1),
    ("A, B", "A,B", 0, 0),
    ("B, C", "C, B", 0, 1),
    ("B, C", "B,C", 0, 0),
    ("B, C", "BC", 0, 0),
    ("B", "Ответ: B", 0, 2 / 3),
]


@pytest.mark.parametrize(("gold", "response", "em", "f1_value"), TABLE)
def test_known_pairs_of_gold_and_response_have_their_scores(gold, response, em, f1_value):
    assert exact_match(tokens(gold), tokens(response)) == em
    assert f1(tokens(gold), tokens(response)) == pytest.approx(f1_value, abs=1e-12)


def test_f1_counts_a_repeated_token_as_often_as_gold_and_response_share_it():
    assert f1(tokens("b b c"), tokens("b b b")) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat", ["cat"]),
        ("theatre", ["theatre"]),
        ("a—b", ["—b"]),  # a dash is a word boundary but not ASCII punctuation
        ("_a_", []),
        ("a\u00a0b\u2003c\x1fd", ["b", "c", "d"]),
        ("th.e cat", ["cat"]),  # punctuation is dropped before the articles
        ("«Да»", ["«да»"]),
    ],
)
def test_tokens_are_what_squad_compares(text, expected):
    assert tokens(text) == expected


# SQuAD's definition restated without regular expressions and without Counter.
DROPPED = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def restated_tokens(text):
    kept = "".join(char for char in text.lower() if char not in DROPPED)
    pieces = ["".join(chars) for _, chars in groupby(kept, key=lambda char: char.isalnum())]
    return "".join(" " if piece in ("a", "an", "the") else piece for piece in pieces).split()


def restated_f1(gold, response):
    if not gold and not response:
        return 1.0
    left, common = list(response), 0
    for token in gold:
        if token in left:
            left.remove(token)
            common += 1
    return 2 * common / (len(gold) + len(response)) if gold and response else 0.0


PARTS = ["a", "an", "the", "The", "A", "B", "А", "Ответ", "é", "ß", "İ", "Σ", "²", "7", "—", "«", "\u0301"]
GAPS = ["", " ", "\t", "\n", "\u00a0", "\u2003", "\u200b", "\x1c", ".", ",", "_", "-", "'", "`", "\\", "^", "|"]
TEXT = st.lists(st.sampled_from(PARTS + GAPS), max_size=12).map("".join) | st.text(max_size=12)


@settings(max_examples=1000, deadline=None)
@given(TEXT, TEXT)
def test_any_two_strings_score_as_by_an_independent_implementation_of_squad(gold, response):
    restated_gold, restated_response = restated_tokens(gold), restated_tokens(response)
    assert exact_match(tokens(gold), tokens(response)) == (restated_gold == restated_response)
    assert f1(tokens(gold), tokens(response)) == pytest.approx(restated_f1(restated_gold, restated_response))
