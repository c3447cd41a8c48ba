"""The run's metrics for Prometheus: rows, tokens, replicas and engine starts, through Ray's metrics agent.

In: what a dispatch pass counts and gets from its replicas. Out: the series of `METRICS`, which the agent of the
driver's node exports with the prefix `ray_` while rows are generated. All of them are recorded by the driver: a counter
in a replica would begin at 0 again whenever its process is restarted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config.schema import Config
from pipeline.generate.reports import ENDED, HAS_GIVEN_UP
from pipeline.records import ReplicaEvent, ReplicaState
from pipeline.runs.evaluated import model_of

PREFIX = "ray_"
"""What Ray puts before the name of a series."""

FAILED, TRUNCATED, DONE = "failed", "truncated", "done"
"""Values of the tag `outcome`: a row is of exactly one of them."""

STARTING, READY, GAVE_UP = "starting", "ready", "gave_up"
"""Values of the tag `state`. A replica that has ended because no work is left has none."""

RUNNING, GENERATED, STOPPED = "running", "generated", "stopped"
"""Values of the tag `status`. The last two may be missed: Ray exports every 10 s, and the run leaves it soon."""


@dataclass(frozen=True, slots=True)
class Series:
    """A series: what kind it is, what it means, and its tags besides `run_id` and `model`."""

    kind: Literal["counter", "gauge"]
    meaning: str
    tags: tuple[str, ...] = ()


METRICS = {
    "pipeline_rows_total": Series("counter", "Rows that have finished in this session", ("replica", "outcome")),
    "pipeline_output_tokens_total": Series("counter", "Output tokens of the rows that have finished", ("replica",)),
    "pipeline_rows_expected": Series("gauge", "Rows that this session is to generate"),
    "pipeline_rows_in_flight": Series("gauge", "Rows in an engine now", ("replica",)),
    "pipeline_engine_start_seconds": Series("gauge", "Duration of the last start of an engine", ("replica",)),
    "pipeline_engine_restarts_total": Series("counter", "Restarts of engines that crashed", ("replica",)),
    "pipeline_replicas": Series("gauge", "Replicas by state: starting, ready, gave_up", ("state",)),
    "pipeline_run_info": Series("gauge", "1 for the run's status: running, generated, stopped", ("status",)),
}
"""Every series by its name, without Ray's prefix. conf/kuberay/ has alerts and a board of them."""


class RunMetrics:
    """Records the metrics of a run in one session. Ray is imported; used from the stage's thread and its monitor's."""

    def __init__(self, config: Config) -> None:
        from ray.util import metrics

        kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge}
        model = model_of(config, {}) or ""
        self._gave_up: set[str] = set()
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._series: dict[str, Any] = {}
        for name, series in METRICS.items():
            made = kinds[series.kind](name, series.meaning, tag_keys=("run_id", "model", *series.tags))
            self._series[name] = made.set_default_tags({"run_id": config.run_id, "model": model})

    @contextmanager
    def running(self, num_rows: int) -> Iterator[None]:
        """Report the run as running, with this number of rows to generate, until the block ends."""
        self._set("pipeline_rows_expected", num_rows)
        self._set("pipeline_run_info", 1, status=RUNNING)
        status = STOPPED
        try:
            yield
            status = GENERATED
        finally:
            self._set("pipeline_run_info", 0, status=RUNNING)
            self._set("pipeline_run_info", 1, status=status)

    def count(self, replica: str, *, failed: bool, truncated: bool, num_output_tokens: int) -> None:
        """Count a row that has finished."""
        outcome = FAILED if failed else TRUNCATED if truncated else DONE
        self._add("pipeline_rows_total", 1, replica=replica, outcome=outcome)
        self._add("pipeline_output_tokens_total", num_output_tokens, replica=replica)

    def report(self, event: ReplicaEvent) -> None:
        """Count a restart and a replica that has given up, and take over how long an engine's start took."""
        start_s = event.details.get("engine_start_s")
        if event.kind == "gave_up":
            self._gave_up.add(event.replica)
        elif event.kind == "tries_again":
            self._gave_up.discard(event.replica)
        elif event.kind == "restart":
            self._add("pipeline_engine_restarts_total", 1, replica=event.replica)
        elif event.kind == "replica_ready" and isinstance(start_s, (int, float)):
            self._set("pipeline_engine_start_seconds", start_s, replica=event.replica)

    def update(self, states: Sequence[ReplicaState], num_replicas: int) -> None:
        """Take over what the replicas of a pass are doing; those that have not reported anything are starting."""
        num_ready = sum(state.phase is None for state in states)
        num_over = sum(state.phase in (ENDED, HAS_GIVEN_UP) for state in states)
        counts = {READY: num_ready, GAVE_UP: len(self._gave_up), STARTING: max(0, num_replicas - num_ready - num_over)}
        for name, number in counts.items():
            self._set("pipeline_replicas", number, state=name)
        for state in states:
            num_in_flight = 0 if state.is_final else state.num_in_flight
            if num_in_flight is not None:
                self._set("pipeline_rows_in_flight", num_in_flight, replica=state.replica)
        # Ray's agent drops a gauge that has not been exported for two of its intervals.
        for (name, tags), value in list(self._gauges.items()):
            self._series[name].set(value, dict(tags))

    def _add(self, name: str, number: int, **tags: str) -> None:
        if number > 0:  # Ray refuses 0
            self._series[name].inc(number, tags)

    def _set(self, name: str, number: float, **tags: str) -> None:
        self._gauges[name, tuple(tags.items())] = number
        self._series[name].set(number, tags)
