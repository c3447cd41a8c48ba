"""The demo's tasks for lm-evaluation-harness: prompts and metrics, implemented from the benchmark's rules.

The file imports nothing of the pipeline: the harness loads it in its own environment, so that agreement between the two
cannot come from shared code.
"""

import re
import string

NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def with_meta(doc):
    return doc["instruction"].format(**doc["inputs"], **doc["meta"])


def without_meta(doc):
    return doc["instruction"].format(**doc["inputs"]).strip()


def left_stripped(responses, docs):  # noqa: ARG001
    """Return each question's first response without leading white space; None (no content) becomes empty."""
    return [(each[0] or "").lstrip() for each in responses]


def score(doc, results):
    gold, predicted = squad_tokens(doc["outputs"]), squad_tokens(results[0])
    return {"em": float(gold == predicted), "f1": overlap(gold, predicted)}


def squad_tokens(text):
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(NO_PUNCTUATION)).split()


def overlap(gold, predicted):
    if not gold or not predicted:
        return float(gold == predicted)
    left = list(gold)
    for token in predicted:
        if token in left:
            left.remove(token)
    num_common = len(gold) - len(left)
    if num_common == 0:
        return 0.0
    precision, recall = num_common / len(predicted), num_common / len(gold)
    return 2 * precision * recall / (precision + recall)
