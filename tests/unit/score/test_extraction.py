"""Letters are extracted from every common form of answer, but not from Russian sentences that resemble one."""

import hashlib
import sys

import pytest
from bench.extraction_quality import CASES, measure, read_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.score.extraction import RULES_VERSION, extract
from pipeline.score.letters.rules import RULES
from pipeline.score.row_scores import score_row

REASONS = {"empty", "truncated", "no_letter", "conflict", "unknown_option"}

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
    ("A — нет; B — да; C — нет; D — нет", "B", "verdicts"),
    ("1. **A) Вспашка** — верно.\n2. **B) Лущение** — неверно.\n3. **C) Посев** — верно.", "A, C", "verdicts"),
    ("Площадь — 54 га, это больше. Значит, нужен вариант C.", "C", "closing_option"),
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
    ("F", "unknown_option"),  # beyond the four options
    ("Ответ: F", "unknown_option"),
    ("A, F", "unknown_option"),
    ("Ответ: А, Б", "unknown_option"),
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


def test_a_response_that_is_truncated_within_an_enumeration_has_no_answer():
    for cut in (
        "Ответ: A, ",
        "Ответ: A, C и",
        "Ответ:\n1. A\n2.",
        "Ответ:\n1. A",
        "A) раз\nC) тр",
        "Разберём варианты.\n\nA. Известь. Её вно",
    ):
        assert extract(cut, "ABCD", truncated=True).rule == "truncated"


def test_a_conflict_and_an_unknown_option_tell_the_letters_that_were_seen():
    assert extract("Ответ: A. Нет, ответ: B", "ABCD").seen == "A, B"
    assert extract("Ответ: A (возможно, C)", "ABCD").seen == "A, C"
    assert extract("Ответ: A, F", "ABCD").seen == "A, F"
    assert extract("Ответ: A", "ABCD").seen is None


def test_the_same_letter_is_an_answer_only_if_the_question_offers_it():
    assert extract("Ответ: F", "ABCD").rule == "unknown_option"
    assert extract("Ответ: F", "ABCDEF").answer == "F"


@pytest.mark.parametrize(
    "response",
    ["\ufeffB", "B\u200b", "\u202eB", "B\0", "\x1b[1mB\x1b[0m", "B<|im_end|>", "B</s>", "<B>", r"\(B\)", "Ｂ"],
)
def test_the_letters_metric_alone_looks_through_what_stands_around_a_letter(response):
    scores = score_row(response, "B", "ABCD", truncated=False)
    assert scores.response == response
    assert scores.correct == 1.0
    if response not in ("<B>", r"\(B\)"):  # SQuAD drops ASCII punctuation itself
        assert scores.em == 0.0


@pytest.mark.parametrize("file", sorted(CASES.glob("*.jsonl")), ids=lambda file: file.stem)
def test_precision_and_recall_hold_on_realistic_responses(file):
    every = measure(read_cases(file))["all"]
    assert every.num_cases > 300
    assert every.precision >= 0.98
    assert every.recall >= 0.9


@pytest.mark.parametrize(
    "kind", ["bare", "prefix", "list", "markdown", "boxed", "per_option", "expl_after", "not_offered"]
)
def test_common_kinds_of_responses_are_read_without_exception(kind):
    found = measure(read_cases(CASES / "responses.jsonl"))[kind]
    assert (found.num_wrong, found.num_missed) == (0, 0)


MARKS = [
    "{}",
    "({})",
    "{})",
    "{}.",
    "{}:",
    "{} —",
    "**{}**",
    "**{})**",
    "«{}»",
    "<{}>",
    "`{}`",
    "[{}]",
    "${}$",
    "вариант {}:",
]
TEXTS = ["", " озимая", " яровая рожь", " (до 5 кг)", " Посев", " до 5 кг, но не более 10 кг", " «Мир»"]
JOINS = [", ", "; ", " и ", "\n", "\n- ", "\n1. ", " ", ", а также ", "/", ". ", ": ", " — ", " + ", " | ", ",", ".\n"]
BEFORE = ["", "Ответ: ", "Ответ:\n", "**Ответ:** ", "Правильные ответы: ", "Итого: ", "Верно: ", "Ответ ", "Answer: "]
AROUND = [("", ""), (r"\boxed{", "}"), ("**", "**"), ("<answer>", "</answer>"), ("(", ")")]


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(BEFORE),
    st.sampled_from(AROUND),
    st.lists(
        st.tuples(st.sampled_from("ABCD"), st.sampled_from(MARKS), st.sampled_from(TEXTS), st.sampled_from(JOINS)),
        min_size=1,
        max_size=4,
    ),
)
def test_no_answer_is_a_part_of_the_options_that_stand_in_its_lines(before, around, items):
    listed = "".join(mark.format(letter) + text + join for letter, mark, text, join in items[:-1])
    letter, mark, text, _ = items[-1]
    response = before + around[0] + listed + mark.format(letter) + text + around[1]
    answer = extract(response, "ABCD").answer
    assert answer is None or set(answer.split(", ")) == {letter for letter, *_ in items}


LETTERS = [
    "A ",
    "A, ",
    "A)\n",
    "A) x\n",
    "A.",
    "A — нет\n",
    "A — верно; ",
    "**A** ",
    "не A ",
    "A или ",
    "витамин A и ",
    "C:N ",
]
LETTERS += ["Ответ: A ", "Итого: A\n", "Ответ: x (A) ", r"\boxed{A} ", r"\boxed{A) x} ", "вариант A) **B**\n", "| A | "]
LETTERS += ['"letter": "A", ', "это A. ", "A\n\n", "(((A)))", "<A> ", "А и ", "A, B) x\n\n", "a) ", "E. coli "]
OTHERS = [
    "Ответ ",
    "Ответ:",
    "верный вариант ",
    "верно ",
    "**A",
    "__",
    "*",
    "(",
    " ",
    "\n",
    " \n",
    r"\text{",
    r"\boxed{",
]
OTHERS += [
    r"\boxed{\text{",
    "<think>",
    "ответ:под",
    ", ",
    "- ",
    "и ",
    "\u00a0",
    "{",
    "ответ это ",
    "~~",
    "<|",
    "<b>",
    "|",
    "$",
]
OTHERS += ["\u0301\u0316", "\x1b[", "[[", '", "', "\n,", "答案", "assistantfinal", "A" * 9, "— да", "&amp;", "`"]


@pytest.mark.parametrize("piece", LETTERS + OTHERS)
def test_the_number_of_steps_is_linear_in_the_length_of_a_hostile_text(piece):
    def steps(num_pieces):
        num = 0

        def count(_frame, event, _argument):
            nonlocal num
            num += event in ("call", "c_call")

        text = "x" + piece * num_pieces + "y"
        sys.setprofile(count)
        try:
            extract(text, "ABCD")
        finally:
            sys.setprofile(None)
        return num

    assert steps(800) < 100 + 4.5 * steps(200)  # 4 times the text; quadratic steps would be 16 times


@pytest.mark.parametrize("piece", OTHERS)
def test_no_pattern_hangs_on_a_hostile_text(piece):
    text = "x" + piece * (250_000 // len(piece)) + "\n\nB"  # in quadratic time it would take a quarter of an hour
    assert extract(text, "ABCD").rule in REASONS | set(RULES)


def test_a_response_of_a_megabyte_is_read():
    text = "Рассмотрим рост растений в почве: при 20 °C он выше, чем при 5 °C, так как витамин C не нужен.\n" * 10_500
    assert extract(text + "\nОтвет: B", "ABCD").answer == "B"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"ABCDFАВСЕавс,.:;)(*_\n -—|<>$?",
                "Ответ",
                "не",
                "или",
                "верно",
                r"\boxed{",
                "}",
                "</think>",
                "**",
                "вариант ",
            ]
        )
    ).map("".join)
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


def test_a_case_that_gets_another_answer_needs_another_version_of_the_rules() -> None:
    cases = read_cases(CASES / "responses.jsonl", CASES / "forms.jsonl")
    answers = [str(extract(case["response"], "ABCDEFGHIJKL"[: case["options"]]).answer) for case in cases]
    digest = hashlib.sha256("\n".join(answers).encode()).hexdigest()[:16]
    assert (RULES_VERSION, digest) == ("2", "9405a2c39451b160"), (
        "raise RULES_VERSION, or record the digest of new cases here"
    )
