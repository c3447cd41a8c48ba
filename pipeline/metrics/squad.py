"""The leaderboard's two exact metrics: SQuAD's exact match and F1 of the whole response against the gold answer.

Two strings in, a number from 0 to 1 out. Scoring, the archive's logs and archive validation share these functions. They
extract nothing from the response; `pipeline/score/extraction.py` does that for the letters metric. transformers 5.20
and later has no SQuAD module, so the project has its own. Surprising results follow from the definition: the answer `A`
is an article and is dropped, so an empty response matches it.
"""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def tokens(text: str) -> list[str]:
    """Return the tokens that both metrics compare.

    Source: Rajpurkar et al. 2016, evaluate-v1.1.py: lower-case, drop every ASCII punctuation character, replace the
    words a, an and the with a space, split at white space.
    """
    return _ARTICLES.sub(" ", _PUNCTUATION.sub("", text.lower())).split()


def exact_match(gold: list[str], response: list[str]) -> float:
    """Return 1.0 when the tokens are the same in the same order, else 0.0."""
    return float(gold == response)


def f1(gold: list[str], response: list[str]) -> float:
    """Return the F1 of the two multisets of tokens, from 0.0 to 1.0.

    With p = common / response and r = common / gold it is 2pr / (p + r). If either list is empty, it is 1 when both
    are, else 0. Source: evaluate-v2.0.py.
    """
    if not gold or not response:
        return float(gold == response)
    num_common = (Counter(gold) & Counter(response)).total()
    if num_common == 0:
        return 0.0
    precision, recall = num_common / len(response), num_common / len(gold)
    return 2 * precision * recall / (precision + recall)
