"""What a task weighs in the mean of its domain and of the run, as the benchmark defines these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


def weights_of(domains: Mapping[str, str], domain: str | None) -> dict[str, float]:
    """Return what each task weighs in a domain, or in the run: domains weigh the same, and tasks in a domain.

    Args:
        domains: Domain of every task.
        domain: One of them, or None for the run.
    """
    tasks = defaultdict(list)
    for name, of_domain in domains.items():
        if domain in (None, of_domain):
            tasks[of_domain].append(name)
    return {name: 1 / (len(tasks) * len(names)) for names in tasks.values() for name in names}
