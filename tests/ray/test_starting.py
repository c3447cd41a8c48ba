"""Ray starts beside what does not need it, and ends with it."""

from __future__ import annotations

import pytest
import ray

from pipeline.compose import compose
from pipeline.errors import ConfigError
from pipeline.generate.cluster import starting

pytestmark = pytest.mark.usefixtures("at_root")


def test_ray_is_waited_for_only_where_the_placement_is_asked_for() -> None:
    with starting(compose(["conf=demo"])) as placement:
        assert not ray.is_initialized()
        assert placement().num_replicas == 1
        # Its processes outlive the moment of their start, though Linux would end them with the thread that it was in.
        assert ray.get(ray.remote(lambda: "up").remote()) == "up"
    assert not ray.is_initialized()


def test_what_does_not_fit_is_told_where_the_placement_is_asked_for() -> None:
    with (
        starting(compose(["conf=demo", "engine.tensor_parallel_size=2"])) as placement,
        pytest.raises(ConfigError, match="the cluster has no GPU; set it to 1"),
    ):
        placement()
    assert not ray.is_initialized()


def test_an_error_beside_it_waits_for_no_placement() -> None:
    with pytest.raises(ZeroDivisionError), starting(compose(["conf=demo"])):
        raise ZeroDivisionError
    assert not ray.is_initialized()
