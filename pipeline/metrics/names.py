"""Names of the metrics in samples/, metrics.parquet and a comparison, grouped by their properties."""

from __future__ import annotations

SCORES = ("em", "f1", "score", "correct")
"""Metrics that need a gold answer."""
HEADLINE_METRICS = ("score", "correct")
"""The leaderboard's score and the letters metric; the gate tests and the report compares these over all domains."""
SAMPLE_METRICS = ("em", "f1", "correct")
"""The scores that are columns of a sample; `score` is the mean of the first two."""
EXACT_METRICS = ("f1", "em")
"""The leaderboard's exact metrics, in the order in which the benchmark's tasks list them."""
BEHAVIOUR_METRICS = ("output_tokens", "truncated", "no_answer", "failed")
"""Metrics compared for every question, with or without a gold answer, task by task."""
BINARY_METRICS = ("em", "correct", "truncated", "no_answer", "failed")
"""Metrics that are 0 or 1 on every row."""


def higher_is_better(metric: str) -> bool:
    """Return whether an increase of this metric is an improvement; for `output_tokens` neither direction is."""
    return metric in SCORES
