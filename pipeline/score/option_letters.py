"""Recognizes option letters in Russian text, where А, В and С are words as well.

A piece of a response and the question's option letters in, the set of Latin letters or None out. The rules that choose
the piece are in `pipeline/score/extraction.py`.
"""

from __future__ import annotations

import re
from typing import TypeAlias

Letters: TypeAlias = frozenset[str]

_CYRILLIC = "АВСЕНКМОРТХ"
_LATIN = "ABCEHKMOPTX"
_FOLD = str.maketrans(_CYRILLIC + _CYRILLIC.lower(), _LATIN + _LATIN)
_WORDS = {"ВСЕ", "ВЕН"}
"""Russian words that look like ascending option letters: `all` and `of veins`."""

_FILLERS = {"и", "and", "вариант", "варианты", "буква", "буквы", "option", "options"}
"""Words that may accompany letters in a text that counts as nothing but letters."""

_LONGEST = 120
"""Maximum length of a text that is nothing but letters: 26 letters with ` and ` between them."""
_SEPARATORS = re.compile(r"(?:[\s,;:/|&+.!()\[\]{}\"'«»„“”`$]|(?<![^\n])[-•]\s)+")

_UPPER = rf"[A-Z{_CYRILLIC}]{{1,8}}(?!\w)"
_LOWER = rf"[a-z{_CYRILLIC.lower()}](?!\w)"
_BETWEEN = r"(?:[^\S\n]*[)\]»\"'*`]{0,3}[^\S\n]*(?:[,;/|&+]|(?<!\w)(?:и|and)(?!\w))[^\S\n]*[(\[«\"'*`]{0,3}|[^\S\n]+)"
_PHRASE = re.compile(
    rf"[\s*_`\"'«„“(\[{{$>#•-]*((?:{_UPPER}(?:{_BETWEEN}{_UPPER})*)|(?:{_LOWER}(?:{_BETWEEN}{_LOWER})*))"
)
_WINDOW = 160
"""Characters of a piece that are examined; it bounds the cost of the patterns below on long text."""

_REFUSED = re.compile(
    r"[\s,]*(?:или|либо|or)\b|\s+(?:не|not)\b|[\s,:—–*)-]*(?:невер|неправ|ошибоч|incorrect|wrong|false)"
    r"|\s*[—–-]\s*[A-ZА-ЯЁ](?:\s*$|[.,;])",  # `A — C`: a range or a pair
    re.IGNORECASE,
)
_DELIMITED = re.compile(
    r"[*_`\"'»“”)\]}$]*(?:\s*$|[ \t]*[\n—–(]|[):!]|\.(?!\s?[A-ZА-ЯЁ]\.)|\s-\s)"  # `В. И. Ленин`: initials
)
_COMMA = re.compile(r"[*_`\"'»“”)\]}$]*[,;]")
_RUSSIAN_WORD = re.compile(r"[*_`\"'»“”)\]}$]*\s+[а-яё]")


def pure_letters(text: str, options: str) -> Letters | None:
    """Return the letters of a text that is nothing but letters of `options`, separators and fillers, else None."""
    if len(text) > _LONGEST:
        return None
    found: set[str] = set()
    for token in _SEPARATORS.split(text):
        if not token or token.lower() in _FILLERS:
            continue
        letters = _letters_of_token(token, options)
        if letters is None:
            return None
        found |= letters
    return frozenset(found) or None


def leading_letters(text: str, options: str, *, certain: bool) -> Letters | None:
    """Return the letters that a text begins with, if what follows shows that they are not words, else None.

    Args:
        text: A piece of the response; only its first `_WINDOW` characters are examined.
        options: The letters of the question's options.
        certain: The text follows `Ответ:`, so a lower-case letter, or a Latin letter directly before a Russian word, is
            an answer. A Cyrillic letter before a word never is: `Ответ: В воде`.
    """
    piece = text[:_WINDOW]
    match = _PHRASE.match(piece)
    if match is None:
        return None
    phrase, rest = match[1], piece[match.end() :]
    lower = phrase[0].islower()
    if _REFUSED.match(rest) or (lower and not certain):
        return None
    latin = not any(letter in phrase for letter in _CYRILLIC)
    stands = (
        _DELIMITED.match(rest)
        or (not lower and _COMMA.match(rest))
        or (certain and latin and not lower and _RUSSIAN_WORD.match(rest))
    )
    return pure_letters(phrase.replace("*", " "), options) if stands else None


def _letters_of_token(token: str, options: str) -> Letters | None:
    """Return the letters of `B` or of an upper-case `BC`; None when the token is something else.

    Cyrillic letters without separators must be in ascending order, as in an answer; most words (`НЕ`, `ВЕС`) are not.
    """
    folded = token.translate(_FOLD).upper()
    letters = frozenset(folded)
    if len(folded) != len(letters) or not letters <= set(options):
        return None
    if len(token) > 1:
        ascending = list(folded) == sorted(folded)
        if token != token.upper() or token in _WORDS or not (token.isascii() or ascending):
            return None
    return letters
