"""Recognizes option letters in Russian text, where А, В and С are words as well.

A piece of text and the question's option letters in, the set of Latin letters or None out. What a letter in the middle
of a sentence stands for is the subject of `pipeline/score/letters/option_mentions.py`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeAlias

Letters: TypeAlias = frozenset[str]

CYRILLIC = "АВСЕНКМОРТХ"
"""Cyrillic letters that look like the Latin ones of `_LATIN`."""
_LATIN = "ABCEHKMOPTX"
_FOLD = str.maketrans(CYRILLIC + CYRILLIC.lower(), _LATIN + _LATIN)
OTHER_CYRILLIC = "БГДЖЗЛПФЦЧШЭЮ"
"""Cyrillic letters that are not Latin ones and not words: an option that the question does not offer."""
_ALL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ" + OTHER_CYRILLIC)
_WORDS = {"ВСЕ", "ВЕН"}
"""Russian words that look like ascending option letters: `all` and `of veins`."""

_FILLERS = {"и", "and", "вариант", "варианты", "буква", "буквы", "option", "options"}
"""Words that may accompany letters in a text that counts as nothing but letters."""

_LONGEST = 120
"""Maximum length of a text that is nothing but letters: 26 letters with ` and ` between them."""
_TOKEN = re.compile(r"[^\s,;:/|&+.!()\[\]{}<>\"'«»„“”`$•]+")
"""What is between separators."""


def pure_letters(text: str, options: str) -> Letters | None:
    """Return the letters of a text that is nothing but letters, separators and fillers, else None.

    A letter on its own counts whether it is one of `options` or not.
    """
    if len(text) > _LONGEST:
        return None
    found: set[str] = set()
    for match in _TOKEN.finditer(text):
        if match[0].lower() in _FILLERS:
            continue
        letters = letters_of(match[0], options)
        if letters is None:
            return None
        found |= letters
    return frozenset(found) or None


@lru_cache(maxsize=2**12)
def letters_of(token: str, options: str) -> Letters | None:
    """Return the letters of `B` or of an upper-case `BC`; None if the token is something else.

    Several letters without separators must be of `options`, and Cyrillic ones in ascending order, as in an answer; most
    words (`НЕ`, `ВЕС`) are not. A lower-case letter must be of `options`.
    """
    folded = token.translate(_FOLD).upper()
    letters = frozenset(folded)
    if len(token) == 1:
        return letters if letters <= set(options) or (token.isupper() and letters <= _ALL) else None
    if len(folded) != len(letters) or not letters <= set(options) or not token.isupper() or token in _WORDS:
        return None
    return letters if token.isascii() or list(folded) == sorted(folded) else None
