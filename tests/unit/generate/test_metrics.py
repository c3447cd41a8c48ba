"""Which engines export vLLM's own metrics, and which series of a run there are."""

from __future__ import annotations

from typing import Any

import pytest
from builders import settings

from pipeline.config.loading import compose
from pipeline.generate.cluster import Placement
from pipeline.generate.metrics import METRICS, RunMetrics
from pipeline.generate.stage import engine_factory
from pipeline.records import ReplicaEvent, ReplicaState

PLACEMENT = Placement(num_replicas=1, gpus_per_replica=0, num_gpus=0)


@pytest.mark.parametrize(
    ("words", "exports"),
    [
        ([], False),
        (["cluster.address=auto"], True),
        (["cluster.address=10.0.0.1:6379"], True),
        (["cluster.address=auto", "engine.metrics=false"], False),
        (["engine.metrics=true"], True),
    ],
)
def test_vllms_metrics_are_exported_where_a_cluster_is_joined(
    words: list[str], exports: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    factory: Any = engine_factory(compose(["conf=demo", *words]), PLACEMENT)
    assert factory.exports_metrics is exports


class Series:
    """Stands for a series of Ray's, which cannot be read back."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def set(self, number: float, tags: dict[str, str]) -> None:
        self.values[",".join(tags.values())] = number

    def inc(self, number: float, tags: dict[str, str]) -> None:
        key = ",".join(tags.values())
        self.values[key] = self.values.get(key, 0) + number


def recorded() -> tuple[RunMetrics, dict[str, Series]]:
    metrics, series = RunMetrics(settings("run_id=m")), {name: Series() for name in METRICS}
    metrics._series.update(series)
    return metrics, series


def test_every_replica_is_in_one_state_and_those_that_say_nothing_are_starting() -> None:
    metrics, series = recorded()
    states = [
        ReplicaState(replica="a", num_in_flight=3),
        ReplicaState(replica="b", phase="loading weights"),
        ReplicaState(replica="c", phase="gave up", is_final=True, num_in_flight=1),
        ReplicaState(replica="d", phase="restarting", is_final=True),
        ReplicaState(replica="e", phase="done", is_final=True),
    ]
    metrics.report(ReplicaEvent(kind="gave_up", replica="c", line=None, details={}))
    metrics.update(states, 6)
    assert series["pipeline_replicas"].values == {"ready": 1, "gave_up": 1, "starting": 3}
    assert series["pipeline_rows_in_flight"].values == {"a": 3, "c": 0, "d": 0, "e": 0}  # b's number is unknown
    metrics.report(ReplicaEvent(kind="tries_again", replica="c", line=None, details={}))
    metrics.update(states[:2], 3)
    assert series["pipeline_replicas"].values == {"ready": 1, "gave_up": 0, "starting": 2}


def test_a_replica_that_gave_up_in_an_earlier_pass_is_still_counted() -> None:
    metrics, series = recorded()
    metrics.report(ReplicaEvent(kind="gave_up", replica="c", line=None, details={}))
    metrics.update([ReplicaState(replica="a")], 1)
    assert series["pipeline_replicas"].values == {"ready": 1, "gave_up": 1, "starting": 0}


def test_a_run_that_fails_is_not_reported_as_generated() -> None:
    metrics, series = recorded()
    with pytest.raises(ZeroDivisionError), metrics.running(7):
        raise ZeroDivisionError
    assert series["pipeline_rows_expected"].values == {"": 7}
    assert series["pipeline_run_info"].values == {"running": 0, "stopped": 1}


def test_an_engines_start_and_restart_are_recorded() -> None:
    metrics, series = recorded()
    metrics.report(ReplicaEvent(kind="replica_ready", replica="a", line=None, details={"engine_start_s": 2.5}))
    metrics.report(ReplicaEvent(kind="restart", replica="a", line=None, details={"restart": 1}))
    metrics.report(ReplicaEvent(kind="restart", replica="a", line=None, details={"restart": 2}))
    assert series["pipeline_engine_start_seconds"].values == {"a": 2.5}
    assert series["pipeline_engine_restarts_total"].values == {"a": 2}
