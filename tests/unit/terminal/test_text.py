"""Untrusted text is escaped before it is printed, and truncated to its length."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.terminal.text import (
    BACKSLASHED,
    BRACKETS,
    DOT,
    counted,
    escape_control,
    listed,
    one_line,
    replace_surrogates,
    truncate,
)


@given(st.text())
def test_no_control_or_invisible_character_is_left(text: str) -> None:
    escaped = escape_control(text)
    assert all(unicodedata.category(each)[0] != "C" for each in escaped)
    assert all(unicodedata.category(each)[0] != "Z" or each == " " for each in escaped)
    escaped.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("a\u2028b", "a⟨U+2028⟩b"),
        ("a\u00a0b", "a⟨U+00A0⟩b"),
        ("\ud800", "⟨U+D800⟩"),
        ("a\r\n", "a⟨U+000D⟩\n"),
        (BRACKETS[0], "⟨U+27E6⟩"),
        ("Вопрос: «да» — 5 °C [bold]", "Вопрос: «да» — 5 °C [bold]"),
    ],
)
def test_visible_text_stays_and_other_characters_become_their_code_point(text: str, escaped: str) -> None:
    assert escape_control(text, keep="\n") == escaped


@pytest.mark.parametrize(("mark", "escaped"), [(DOT, "A·[2J⟦·"), (BACKSLASHED, "A\\u001b[2J⟦\\u202e")])
def test_brackets_are_escaped_only_with_the_numbered_mark(mark: str, escaped: str) -> None:
    assert escape_control("A\x1b[2J⟦\u202e", mark=mark) == escaped


@given(st.text(), st.integers(min_value=3, max_value=9), st.sampled_from(["...", "…", " …"]))
def test_truncated_text_is_at_most_the_limit_and_short_text_stays(text: str, most: int, mark: str) -> None:
    cut = truncate(text, most, mark)
    assert len(cut) <= most
    assert cut == text if len(text) <= most else cut == text[: most - len(mark)] + mark


def test_the_truncation_mark_counts_towards_the_limit() -> None:
    assert truncate("x" * 61) == "x" * 57 + "..."
    assert truncate("x" * 60) == "x" * 60


def test_white_space_collapses_to_single_spaces() -> None:
    assert one_line(" a\n\n b\tc\u2028d ", 6) == "a b c "


@pytest.mark.parametrize(
    ("text", "written"),
    [("A \ud800", "A \ufffd"), ("\udfff\ud800", "\ufffd\ufffd"), ("\ud83d\ude00 Д", "😀 Д"), ("", ""), (None, None)],
)
def test_lone_surrogates_become_replacement_characters(text: str | None, written: str | None) -> None:
    assert replace_surrogates(text) == written


@pytest.mark.parametrize(
    ("items", "num", "line"),
    [([1, 2], 2, "1, 2"), ([1, 2], 1_236, "1, 2 and 1,234 more"), (["a"], 2, "a and 1 more"), ([], 0, "")],
)
def test_a_list_shows_its_first_items_and_counts_the_rest(items: list[object], num: int, line: str) -> None:
    assert listed(items, num) == line


@pytest.mark.parametrize(("num", "text"), [(0, "0 rows"), (1, "1 row"), (2_000, "2,000 rows")])
def test_a_count_is_followed_by_its_noun(num: int, text: str) -> None:
    assert counted(num, "row") == text
