"""Names of the metrics in samples/, metrics.parquet and a comparison, and what is true of each."""

from __future__ import annotations

SCORES = ("em", "f1", "score", "correct")
"""Metrics that need a gold."""
HEADLINE_METRICS = ("score", "correct")
"""Of these, the leaderboard's and that of the letters: what the gate tests and the report compares over all domains."""
SAMPLE_METRICS = ("em", "f1", "correct")
"""Of these, columns of a sample; `score` is the mean of the first two."""
EXACT_METRICS = ("f1", "em")
"""The leaderboard's own, in the order in which the benchmark's tasks give them."""
BEHAVIOUR_METRICS = ("output_tokens", "truncated", "no_answer", "failed")
"""What is compared of every question, with or without a gold, task by task."""
BINARY_METRICS = ("em", "correct", "truncated", "no_answer", "failed")
"""Metrics that are 0 or 1 on every row."""


def higher_is_better(metric: str) -> bool:
    """Return whether a rise of this metric is an improvement; `output_tokens` has no better side."""
    return metric in SCORES
