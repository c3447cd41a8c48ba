"""Answers that lose points, or win them by accident, are reported; a plain answer is not."""

from __future__ import annotations

import pytest

from pipeline.publish.validation.warnings import answer_warnings

ACCIDENT = "no word that counts in 1 of 1 output (id 5): they match the gold A"
EMPTY = "no text in 1 of 1 output (id 5): an empty text matches the gold A and nothing else"
LOOK_ALIKE = "look-alikes of another alphabet (such as Cyrillic АВСЕНКМОРТХ) for letters in 1 of 1 output (id 5): they"
THINKING = "reasoning (such as <think> or </think>) in 1 of 1 output (id 5): they are scored as the answer: give the"
SPECIAL = "special tokens (such as <|im_end|>) in 1 of 1 output (id 5): they are scored as the answer"
LONG = "more than 2,000 characters in 1 of 1 output (id 5): the gold is a few letters: submit them alone"
SAME = "of 20 outputs are"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("A", None),
        ("a.", None),
        ("(A)", None),
        ("A, B", None),
        ("B", None),
        ("Ответ: B", None),
        ("В почве", None),
        ("А. Белов прав", None),
        ("x" * 2_000, None),
        ("", EMPTY),
        (" \n", EMPTY),
        (".", ACCIDENT),
        ("..." * 40, ACCIDENT),
        ("the", ACCIDENT),
        ("А", LOOK_ALIKE),
        ("А, C", LOOK_ALIKE),
        ("(В)", LOOK_ALIKE),
        ("в", LOOK_ALIKE),
        ("B С", LOOK_ALIKE),
        ("Б", LOOK_ALIKE),
        ("Β", LOOK_ALIKE),
        ("Ｂ", LOOK_ALIKE),
        ("B, C", None),
        ("B<|eot_id|>", SPECIAL),
        ("B</s>", SPECIAL),
        ("<｜end▁of▁sentence｜>B", SPECIAL),
        ("a < b | c > d", None),
        ("мысль</think>B", THINKING),
        ("<think>", THINKING),
        ("[THINK]да[/THINK]B", THINKING),
        ("<Thinking>да", THINKING),
        ("я думаю, что B", None),
        ("x" * 2_001, LONG),
    ],
)
def test_a_text_has_the_expected_warning_or_none(text: str, warning: str | None) -> None:
    found = answer_warnings({5: text})
    if warning is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(warning)


def test_the_first_ids_are_listed_in_order_with_the_number_of_the_rest() -> None:
    (line,) = answer_warnings(dict.fromkeys((9, 3, 7, 1, 5, 8, 2), ""))
    assert line.startswith("no text in 7 of 7 outputs (id 1, 2, 3, 5, 7 and 2 more): ")


@pytest.mark.parametrize(("num_same", "is_reported"), [(10, False), (11, True), (20, True)])
def test_one_answer_to_more_than_half_of_the_questions_is_reported(num_same: int, is_reported: bool) -> None:
    outputs = {number: " B" if number < num_same else f"C, {number}" for number in range(20)}
    found = answer_warnings(outputs)
    assert [SAME in line for line in found] == ([True] if is_reported else [])
    if is_reported:
        assert found[0].startswith(f"{num_same * 5}% of 20 outputs are 'B', more than 50%")


def test_fewer_than_twenty_answers_are_too_few_for_a_warning() -> None:
    assert answer_warnings(dict.fromkeys(range(19), "B")) == []


def test_a_lone_surrogate_is_escaped() -> None:
    (line,) = answer_warnings(dict.fromkeys(range(20), "\ud83d"))
    assert "'\\ud83d'" in line
    line.encode()
