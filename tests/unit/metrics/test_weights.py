"""Tasks have equal weights in a domain, and domains in a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.names import BEHAVIOUR_METRICS, BINARY_METRICS, SCORES, higher_is_better
from pipeline.metrics.weights import weights_of

DOMAINS = {"agro_1": "agro", "med": "med", "agro_2": "agro"}


@pytest.mark.parametrize(
    ("domain", "weights"),
    [
        (None, {"agro_1": 0.25, "agro_2": 0.25, "med": 0.5}),
        ("agro", {"agro_1": 0.5, "agro_2": 0.5}),
        ("med", {"med": 1.0}),
        ("law", {}),
    ],
)
def test_domains_have_equal_weights_and_so_have_tasks_in_a_domain(
    domain: str | None, weights: dict[str, float]
) -> None:
    found = weights_of(DOMAINS, domain)
    assert found == weights
    assert list(found) == list(weights)


@given(st.dictionaries(st.integers(0, 99).map(str), st.sampled_from("abc"), min_size=1))
def test_the_weights_of_a_run_and_of_each_domain_sum_to_one(domains: dict[str, str]) -> None:
    for domain in (None, *set(domains.values())):
        assert sum(weights_of(domains, domain).values()) == pytest.approx(1)
    assert set(weights_of(domains, None)) == set(domains)


def test_every_metric_is_a_score_or_a_behaviour_and_only_a_higher_score_is_better() -> None:
    assert not set(SCORES) & set(BEHAVIOUR_METRICS)
    assert set(BINARY_METRICS) < {*SCORES, *BEHAVIOUR_METRICS}
    assert [name for name in (*SCORES, *BEHAVIOUR_METRICS) if higher_is_better(name)] == list(SCORES)
