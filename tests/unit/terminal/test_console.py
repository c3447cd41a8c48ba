"""Texts from outside are shown, never obeyed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.terminal.console import BRACKETS, escape_control


@given(st.text())
def test_nothing_that_a_terminal_obeys_or_that_cannot_be_seen_is_left(text: str) -> None:
    shown = escape_control(text)
    assert all(unicodedata.category(each)[0] != "C" for each in shown)
    assert all(unicodedata.category(each)[0] != "Z" or each == " " for each in shown)
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
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
def test_what_is_seen_stays_and_the_rest_stands_by_its_number(text: str, shown: str) -> None:
    assert escape_control(text, keep="\n") == shown
