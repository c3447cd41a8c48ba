"""The demo's tasks as the harness runs them: prompt and metrics written from the benchmark's rules.

Nothing of the pipeline is imported: lm-evaluation-harness loads this file in an environment of its own, so that what
the two agree on is no accident of shared code.
"""

import re
import string

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def with_meta(doc):
    return doc["instruction"].format(**doc["inputs"], **doc["meta"])


def without_meta(doc):
    return doc["instruction"].format(**doc["inputs"]).strip()


def left_stripped(responses, docs):  # noqa: ARG001
    """Return each question's first response as it is scored; one without content is None and becomes empty."""
    return [(each[0] or "").lstrip() for each in responses]


def score(doc, results):
    gold, given = squad_words(doc["outputs"]), squad_words(results[0])
    return {"em": float(gold == given), "f1": overlap(gold, given)}


def squad_words(text):
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(NO_PUNCTUATION)).split()


def overlap(gold, given):
    if not gold or not given:
        return float(gold == given)
    left = list(gold)
    for word in given:
        if word in left:
            left.remove(word)
    num_common = len(gold) - len(left)
    if num_common == 0:
        return 0.0
    precision, recall = num_common / len(given), num_common / len(gold)
    return 2 * precision * recall / (precision + recall)
