"""Weights of tasks in the mean of their domain and of the run, as the benchmark defines them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


def weights_of(domains: Mapping[str, str], domain: str | None) -> dict[str, float]:
    """Return the weight of each task in a domain or the run: domains have equal weights, and so have tasks in a domain.

    The weights sum to 1; the result is empty for a domain without tasks.

    Args:
        domains: Domain of every task.
        domain: A domain, or None for the run.
    """
    tasks = defaultdict(list)
    for name, of_domain in domains.items():
        if domain in (None, of_domain):
            tasks[of_domain].append(name)
    return {name: 1 / (len(tasks) * len(names)) for names in tasks.values() for name in names}
