"""Extracts the answer's letters from a response, with the rule that found them or the reason why there are none.

The response and the letters of the question's options in, an `Extraction` out. Only the letters metric uses it; the
exact metrics compare the whole response. It works in three steps:

1. `pipeline/score/letters/plain_text.py` removes what surrounds the words: special tokens, tags, LaTeX, Markdown.
2. `pipeline/score/letters/option_mentions.py` finds where options are mentioned, and what the text states about each.
3. The rules of `pipeline/score/letters/rules.py` are tried in order, and the first one that finds an answer decides.
   A rule chooses where the answer begins. From there `pipeline/score/letters/reading.py` reads it to its end: the
   mentions in the position of its first one belong to it.

Precision comes before recall. An answer with another option in its own lines is no answer (`conflict`), and neither
are two answers that differ: picking one would reward a model that names every option. Time is linear in the length of
the response, for any response.

Try it: `python -c "from pipeline.score.extraction import extract; print(extract('Ответ: B', 'ABCD'))"`
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.score.letters.option_letters import Letters
from pipeline.score.letters.plain_text import plain_text
from pipeline.score.letters.reading import Answer
from pipeline.score.letters.rules import RULES, Response

RULES_VERSION = "2"
"""Stored with the samples as `RULES_KEY`. To be raised when a response gets another answer: runs that were scored by
other rules differ in `correct` although the model is the same, so the gate and `compare` read it.
"""

FAILED = "failed"
"""The row failed and has no response."""
TRUNCATED = "truncated"
"""The response ended at the token limit before an answer, or within it."""
EMPTY = "empty"
"""The response has no text outside its reasoning."""
NO_LETTER = "no_letter"
"""No rule found an answer."""
CONFLICT = "conflict"
"""There is an answer, but it is not clear which options belong to it."""
UNKNOWN_OPTION = "unknown_option"
"""The answer names a letter that the question does not offer."""


FREE_TEXT = "free_text"
"""The question has no options and its gold is no letters: the answer is the whole text."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer as sorted letters, such as `A, C`, or None; and the rule's name, or the reason for None.

    `seen` is the letters that a `conflict` or `unknown_option` is about, in the same form; else None.
    """

    answer: str | None
    rule: str
    seen: str | None = None


def extract(response: str, options: str, *, truncated: bool = False) -> Extraction:
    """Return the letters that a response answers with.

    Args:
        response: The text that the leaderboard would receive. Reasoning left in it is ignored.
        options: The letters of the question's options, such as `ABCD`; no other letter is an answer.
        truncated: The response ended at the token limit. If there is no answer, this is the reason.
    """
    content = response.rpartition("</think>")[2]
    plain = plain_text(content)
    if "<think>" in content or not plain.text:
        return Extraction(None, TRUNCATED if truncated else EMPTY)
    name, answer = _first_answer(Response(plain, options))
    if answer is None or answer.is_vague or (truncated and answer.is_cut):
        return Extraction(None, TRUNCATED if truncated else NO_LETTER)
    seen = format_letters(answer.letters | answer.others)
    if not answer.letters <= set(options):
        return Extraction(None, UNKNOWN_OPTION, seen)
    return Extraction(None, CONFLICT, seen) if answer.others else Extraction(seen, name)


def free_text(response: str, *, truncated: bool = False) -> Extraction:
    """Return the text of a response to a free-form question, without reasoning left in it.

    Args:
        response: The text that the leaderboard would receive.
        truncated: The response ended at the token limit, and so it is no whole answer.
    """
    content = response.rpartition("</think>")[2]
    text = "" if "<think>" in content else content.strip()
    if truncated:
        return Extraction(None, TRUNCATED)
    return Extraction(text, FREE_TEXT) if text else Extraction(None, EMPTY)


def _first_answer(response: Response) -> tuple[str, Answer | None]:
    for name, rule in RULES.items():
        answer = rule(response)
        if answer is not None:
            return name, answer
    return NO_LETTER, None


def format_letters(letters: Letters) -> str:
    """Return the letters sorted and joined, such as `A, C`."""
    return ", ".join(sorted(letters))
