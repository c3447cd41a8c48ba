"""The leaderboard's two parity metrics: SQuAD's exact match and F1 of the whole response against the gold.

In: two strings. Out: a number from 0 to 1. Scoring, the archive's logs and the archive's check share it. Nothing is
extracted from the response; `pipeline/score/extraction.py` does that for the clean metric. transformers 5.20 and later
has no SQuAD module, so these lines are the project's own. The consequences that look like mistakes are the definition:
the answer `A` is an article, so an empty response matches it.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def tokens(text: str) -> list[str]:
    """Return the tokens that both metrics compare.

    Source: Rajpurkar et al. 2016, evaluate-v1.1.py: lower-case, drop every ASCII punctuation character, put a space in
    the place of the words a, an and the, split at white space.
    """
    return _ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split()


def exact_match(gold: list[str], response: list[str]) -> float:
    """Return 1.0 when the tokens are the same in the same order, else 0.0."""
    return float(gold == response)


def f1(gold: list[str], response: list[str]) -> float:
    """Return the F1 of the two bags of tokens, from 0.0 to 1.0.

    With p = common / response and r = common / gold it is 2pr / (p + r). Source: evaluate-v2.0.py, which also says
    that when either side has no token left, it is 1 when both have none, else 0.
    """
    if not gold or not response:
        return float(gold == response)
    num_common = (Counter(gold) & Counter(response)).total()
    if num_common == 0:
        return 0.0
    precision, recall = num_common / len(response), num_common / len(gold)
    return 2 * precision * recall / (precision + recall)
