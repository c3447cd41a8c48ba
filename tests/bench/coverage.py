"""Coverage of the intervals: how often the shipped code's 95% interval holds the true value.

    PYTHONPATH=tests .venv/bin/python -m bench.coverage [replications]

Each cell simulates tasks of n questions: right or wrong with probability 0.65, or a score in quarters with that mean;
between two runs 7% of the answers flip. Prints a row an interval and a column a number of questions, then
for the tests of `compare` the share of equal models that are called different, and the power at the size that
`detectable` prints.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.confidence import bootstrap, clustered, generator, interval_of_mean, wilson
from pipeline.metrics.paired_tests import ALPHA, Pairs, detectable, paired_bootstrap

SIZES = (20, 50, 200, 1_000)
MEAN, FLIPS = 0.65, 0.07
QUARTERS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
SHARES = np.array([0.2, 0.05, 0.1, 0.25, 0.4])
"""Probabilities of the quarters; their mean is 0.65."""


def binary(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    return (rng.random(num) < MEAN).astype(float)


def flipped(rng: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the answers of a second run of an equal model: as many flip down as up, on average."""
    share = np.where(values == 1, FLIPS / 2 / MEAN, FLIPS / 2 / (1 - MEAN))
    return np.where(rng.random(len(values)) < share, 1 - values, values)


def graded(rng: np.random.Generator, num: int) -> NDArray[np.float64]:
    return rng.choice(QUARTERS, num, p=SHARES)


def redrawn(rng: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(rng.random(len(values)) < FLIPS, graded(rng, len(values)), values)


def of_graded(rng: np.random.Generator, num: int) -> tuple[float, float]:
    values, counts = np.unique(graded(rng, num), return_counts=True)
    estimate = bootstrap(values, np.ones(len(values)), counts, rng)
    return estimate.low, estimate.high


def of_domain(rng: np.random.Generator, num: int) -> tuple[float, float]:
    parts = []
    for _ in range(2):
        values, counts = np.unique(graded(rng, num), return_counts=True)
        parts.append(bootstrap(values, np.ones(len(values)), counts, rng))
    return interval_of_mean(parts, [0.5, 0.5])


def of_binary(rng: np.random.Generator, num: int) -> tuple[float, float]:
    low, high = wilson(binary(rng, num).mean(), num)
    return float(low), float(high)


def of_flips(rng: np.random.Generator, num: int) -> tuple[float, float]:
    base = binary(rng, num)
    change = paired_bootstrap([Pairs.of(base, flipped(rng, base))], rng)
    return change.ci_low, change.ci_high


def of_changes(rng: np.random.Generator, num: int) -> tuple[float, float]:
    base = graded(rng, num)
    change = paired_bootstrap([Pairs.of(base, redrawn(rng, base))], rng)
    return change.ci_low, change.ci_high


def of_domain_changes(rng: np.random.Generator, num: int) -> tuple[float, float]:
    tasks = []
    for _ in range(2):
        base = graded(rng, num)
        tasks.append(Pairs.of(base, redrawn(rng, base)))
    change = paired_bootstrap(tasks, rng)
    return change.ci_low, change.ci_high


def of_clusters(rng: np.random.Generator, num_clusters: int) -> tuple[float, float]:
    """Return the interval of right answers to 5 questions of each cluster; their correlation is 0.2."""
    share = rng.beta(4 * MEAN, 4 * (1 - MEAN), num_clusters)  # 1 / (1 + 4) is the correlation
    residual = (values := (rng.random((num_clusters, 5)) < share[:, None]).astype(float)) - values.mean()
    squares = float((residual.sum(axis=1) ** 2).sum()) * num_clusters / (num_clusters - 1)
    found = clustered(float(values.mean()), squares**0.5 / values.size if squares else None, num_clusters)
    assert found is not None
    return found.low, found.high


KINDS = {
    "em, correct of a task: Wilson": (of_binary, MEAN),
    "score of a task: bootstrap, below 50 Wilson of the effective n": (of_graded, MEAN),
    "score of a domain of two tasks": (of_domain, MEAN),
    "n clusters of 5 questions, tasks.<name>.cluster": (of_clusters, MEAN),
    "change of em, correct of a task: Tango": (of_flips, 0.0),
    "change of score of a task: paired bootstrap": (of_changes, 0.0),
    "change of score of a domain of two tasks": (of_domain_changes, 0.0),
}


def significant(rng: np.random.Generator, num: int, num_tests: int, *, is_worse: bool) -> float:
    """Return the adjusted p-value of one of `num_tests` equal tests on n questions, by Holm's first step."""
    base = binary(rng, num)
    new = flipped(rng, base)
    if is_worse:
        size = detectable(FLIPS / num, 1 / num, num_tests=num_tests)
        lost = rng.choice(num, rng.binomial(num, size / MEAN), replace=False)
        new[lost] = 0  # of the right answers, which are a share MEAN
    return paired_bootstrap([Pairs.of(base, new)], rng).p_value * num_tests


def print_tests(replications: int) -> None:
    for num_tests in (1, 5):
        for is_worse in (False, True):
            shares = []
            for size in SIZES:
                rng = generator("tests", str(size), str(num_tests), str(is_worse))
                found = [significant(rng, size, num_tests, is_worse=is_worse) < ALPHA for _ in range(replications)]
                shares.append(float(np.mean(found)))
            what = "power at the printed detectable change" if is_worse else "equal models called different"
            print(f"{f'{what}, {num_tests} tests':<66}" + "".join(f"{share:>8.3f}" for share in shares), flush=True)


def main(replications: int) -> None:
    print(f"{'interval':<66}" + "".join(f"{size:>8,}" for size in SIZES))
    for name, (interval, truth) in KINDS.items():
        shares = []
        for size in SIZES:
            rng = generator(name, str(size))
            ends = np.array([interval(rng, size) for _ in range(replications)])
            shares.append(float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))))
        print(f"{name:<66}" + "".join(f"{share:>8.3f}" for share in shares), flush=True)
    error = (0.95 * 0.05 / replications) ** 0.5
    print(f"{replications:,} replications a cell, standard error {error:.3f}")
    print_tests(replications)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
