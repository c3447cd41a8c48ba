"""Letters are extracted from every common form of answer, but not from Russian sentences that resemble one."""

import time
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.score.extraction import RULES, extract

REASONS = {"empty", "truncated", "no_letter", "conflict"}

ANSWERS = [
    ("B", "B", "bare_letters"),
    ("b", "B", "bare_letters"),
    ("(B).", "B", "bare_letters"),
    ("А", "A", "bare_letters"),  # Cyrillic
    ("в", "B", "bare_letters"),
    ("A, C", "A, C", "bare_letters"),
    ("C, A", "A, C", "bare_letters"),
    ("A C", "A, C", "bare_letters"),
    ("AC", "A, C", "bare_letters"),
    ("АС", "A, C", "bare_letters"),  # Cyrillic
    ("A;C", "A, C", "bare_letters"),
    ("A/C", "A, C", "bare_letters"),
    ("A\nC", "A, C", "bare_letters"),
    ("A и C", "A, C", "bare_letters"),
    ("A and C", "A, C", "bare_letters"),
    ("- A\n- C", "A, C", "bare_letters"),
    ("Вариант B", "B", "bare_letters"),
    ("Думаем.</think>\n\nB", "B", "bare_letters"),
    (r"\boxed{B}", "B", "boxed"),
    (r"Итак, $\boxed{\text{B}}$.", "B", "boxed"),
    (r"\boxed{A, C}", "A, C", "boxed"),
    (r"\boxed{B) текст}", "B", "boxed"),
    ("Ответ: B", "B", "answer_prefix"),
    ("Ответ: В.", "B", "answer_prefix"),  # Cyrillic
    ("ответ: b", "B", "answer_prefix"),
    ("**Ответ:** B", "B", "answer_prefix"),
    ("Ответ:\n\nB", "B", "answer_prefix"),
    ("Ответ:\nA\nC", "A, C", "answer_prefix"),
    ("Ответ: **A**, **C**", "A, C", "answer_prefix"),
    ("Ответ: A, C.", "A, C", "answer_prefix"),
    ("Ответ: B, потому что так", "B", "answer_prefix"),
    ("Ответ: B потому что так", "B", "answer_prefix"),
    ("Ответ: B\n\nA — потому что нет", "B", "answer_prefix"),
    ("Ответ A неверен. Ответ: B", "B", "answer_prefix"),
    ("Правильный ответ — B", "B", "answer_prefix"),
    ("Верный вариант: D", "D", "answer_prefix"),
    ("Правильные ответы: А и В", "A, B", "answer_prefix"),
    ("Answer: B", "B", "answer_prefix"),
    ("The answer is B.", "B", "answer_prefix"),
    ('{"answer": "B"}', "B", "answer_prefix"),
    ("Варианты ответа:\nA) x\nB) y\nПравильный ответ: B", "B", "answer_prefix"),
    ("Рассуждаю.\nA) раз — нет\nB) два — да\n\nB", "B", "last_line"),
    ("Рассуждаю.\n**B**", "B", "last_line"),
    ("B. text", "B", "leading_option"),
    ("B) text", "B", "leading_option"),
    ("А) текст", "A", "leading_option"),  # Cyrillic
    ("B — текст", "B", "leading_option"),
    ("A) не более 5 мг", "A", "leading_option"),
    ("Рассуждаю.\nB) текст", "B", "leading_option"),
    ("A) раз\nC) три", "A, C", "leading_option"),
    ("A) раз; C) три", "A, C", "leading_option"),
    ("**B**", "B", "bold"),
    ("**B) текст**", "B", "bold"),
    ("**A** и **C**", "A, C", "bold"),
    ("Думаю, что **B** подходит", "B", "bold"),
]

NO_ANSWERS = [
    ("", "empty"),
    (" \n", "empty"),
    ("<think>Ответ: B", "empty"),
    ("В растворе соли", "no_letter"),
    ("А вот это вопрос", "no_letter"),
    ("А, может быть, ничего", "no_letter"),
    ("С водой", "no_letter"),
    ("В. И. Вернадский", "no_letter"),
    ("B-клетки", "no_letter"),
    ("C-реактивный белок", "no_letter"),
    ("B12", "no_letter"),
    ("A — C", "no_letter"),
    ("A - C.", "no_letter"),
    ("ВСЕ", "no_letter"),
    ("НЕ", "no_letter"),
    ("Все варианты", "no_letter"),
    ("F", "no_letter"),  # beyond the four options
    ("Ответ: F", "no_letter"),
    ("A, F", "no_letter"),
    ("Ответ: В растворе соли", "no_letter"),
    ("Ответ - в растворе", "no_letter"),
    ("Ответ: A или B", "no_letter"),
    ("Ответ: B не подходит", "no_letter"),
    ("Неправильный ответ: A", "no_letter"),
    ("Ответ A исключаем", "no_letter"),
    ("Ответ: A. Нет, ответ: B", "conflict"),
    ("A) раз\nB) два\nC) три\nD) четыре", "conflict"),
    (r"\boxed{A}, то есть \boxed{B}", "conflict"),
]


@pytest.mark.parametrize(("response", "answer", "rule"), ANSWERS)
def test_an_answer_is_extracted_by_the_rule_for_its_form(response, answer, rule):
    found = extract(response, "ABCD")
    assert (found.answer, found.rule) == (answer, rule)


@pytest.mark.parametrize(("response", "reason"), NO_ANSWERS)
def test_a_response_without_an_answer_has_a_reason(response, reason):
    found = extract(response, "ABCD")
    assert (found.answer, found.rule) == (None, reason)


def test_every_rule_has_an_example():
    assert {rule for _, _, rule in ANSWERS} == set(RULES)


@pytest.mark.parametrize(("cyrillic", "latin"), list(zip("АВСЕНКМОРТХ", "ABCEHKMOPTX", strict=True)))
def test_each_homoglyph_is_its_latin_letter_in_both_cases(cyrillic, latin):
    assert extract(cyrillic, "ABCEHKMOPTX").answer == latin
    assert extract(cyrillic.lower(), "ABCEHKMOPTX").answer == latin


def test_a_cyrillic_letter_without_a_latin_homoglyph_is_no_answer():
    assert extract("Б", "ABCD").answer is None


def test_truncation_is_the_reason_only_if_there_is_no_answer_before_it():
    assert extract("", "ABCD", truncated=True).rule == "truncated"
    assert extract("Рассмотрим воп", "ABCD", truncated=True).rule == "truncated"
    assert extract("Ответ: B\n\nПотому что", "ABCD", truncated=True).answer == "B"


HOSTILE = [
    "Ответ ",
    "Ответ:",
    "верный вариант ",
    "**A",
    "__",
    "*",
    "(",
    " ",
    "\n",
    " \n",
    "A ",
    "A, ",
    "A)\n",
    "A) x\n",
]
HOSTILE += [
    r"\text{",
    r"\boxed{",
    r"\boxed{\text{",
    "<think>",
    "ответ:под",
    ", ",
    "- ",
    "и ",
    "\u00a0",
    "{",
    "ответ это ",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear_in_the_length_of_a_hostile_text(piece):
    def seconds(num_chars):
        text = "x" + piece * (num_chars // len(piece)) + "y"
        # timeit disables the garbage collector, which takes a second with the objects of the other tests
        return min(timeit.repeat(lambda: extract(text, "ABCD"), timer=time.thread_time, number=1, repeat=3))

    assert seconds(200_000) < max(1.0, 60 * seconds(10_000))  # 20 times the text; quadratic time would be 400 times


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*"ABCDFАВСЕавс,.:;)(*_\n -—", "Ответ", "не", r"\boxed{", "}", "</think>"])).map("".join)
)
def test_any_text_has_an_answer_within_the_options_or_a_reason(text):
    found = extract(text, "ABCD")
    if found.answer is None:
        assert found.rule in REASONS
    else:
        assert found.rule in RULES
        letters = found.answer.split(", ")
        assert letters == sorted(set(letters))
        assert set(letters) <= set("ABCD")
