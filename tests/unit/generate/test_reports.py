"""What a replica reports while it starts and runs, and what the driver makes of a replica that falls silent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import Counting, wait_until

from pipeline.config.loading import compose
from pipeline.generate import dispatch, journal, reports
from pipeline.generate.control import Control
from pipeline.generate.dispatch import DispatchPass
from pipeline.generate.engines.base import EngineStats
from pipeline.generate.metrics import RunMetrics
from pipeline.generate.reports import ReplicaReports
from pipeline.records import ReplicaState
from pipeline.runs.manifest import EngineInfo
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal import console


@pytest.fixture
def journals(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore.open(str(tmp_path / "journal"))
    store.child("session-1").create()
    return store


@pytest.fixture
def control(journals: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Control:
    monkeypatch.setattr(reports, "STATE_S", 0.02)
    return Control(journals.child("session-1"))


class Engine:
    stats = EngineStats(num_running=3, num_output_tokens=70, num_preemptions=1, num_preempted_rows=1, peak_running=4)


def state(control: Control) -> ReplicaState:
    """Return the state of the only replica; an empty one if it has not reported any."""
    return next(iter(control.states()), ReplicaState(replica=""))


def test_a_start_is_reported_by_what_its_log_says(
    control: Control, journals: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "a.log"
    log.write_text("Capturing CUDA graphs: 5%, of an earlier process\n")
    monkeypatch.setattr(console, "_log", log)
    replica = ReplicaReports(control, journals, "a1", "a")
    try:
        wait_until(lambda: state(control).phase == "importing the engine")
        with log.open("a") as file:
            file.write("Loading safetensors checkpoint shards:  44% Completed | 7/16\nan unknown line\n")
        wait_until(lambda: state(control).percent == 44)
        assert (state(control).replica, state(control).phase) == ("a", "loading weights")
        replica.begins("waiting before a retry")
        wait_until(lambda: state(control).phase == "waiting before a retry")
    finally:
        replica.ends("gave up")


def test_a_ready_engines_counters_are_reported_and_recorded_at_the_end(
    control: Control, journals: ArtifactStore
) -> None:
    journal.write_engine_info(journals, "a", EngineInfo(num_preemptions=2, peak_running=9, vllm="1"))
    replica = ReplicaReports(control, journals, "a1", "a")
    replica.ready(Engine())  # type: ignore[arg-type]
    found = state(control)
    assert (found.phase, found.num_running, found.num_output_tokens, found.kv_cache_usage) == (None, 3, 70, None)
    replica.ends("done")
    replica.ends("done")
    assert (state(control).phase, state(control).is_final, state(control).num_running) == ("done", True, None)
    assert journal.engine_info_of(journals, "a") == EngineInfo(
        num_preemptions=3, num_preempted_rows=1, peak_running=9, vllm="1"
    )


def test_nothing_is_written_into_a_run_whose_journal_is_gone(control: Control, journals: ArtifactStore) -> None:
    replica = ReplicaReports(control, journals, "a1", "a")
    journals.remove()
    wait_until(lambda: not replica._thread.is_alive())
    assert not journals.exists()


def test_events_are_read_once_in_their_order(control: Control, journals: ArtifactStore) -> None:
    replica = ReplicaReports(control, journals, "a1", "a")
    replica.event("restart", "the engine crashed: x", cause="x", restart=1)
    replica.event("replica_ready", "ready after 3 s", engine_start_s=3.0)
    replica.ends("done")
    seen: set[str] = set()
    first, second = control.new_events(seen)
    assert (first.kind, first.line, first.details) == (
        "restart",
        "replica a: the engine crashed: x",
        {"cause": "x", "restart": 1},
    )
    assert second.details == {"engine_start_s": 3.0}
    assert control.new_events(seen) == []


def test_a_replica_whose_state_does_not_change_shows_no_sign_of_life(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shown: list[ReplicaState] = []

    class Progress(Counting):
        def update(self, states: Any, num_replicas: int) -> None:  # noqa: ARG002
            shown[:] = states

    config: Any = SimpleNamespace(control=control, slots=1)
    placement: Any = SimpleNamespace(num_replicas=2, grows=False)
    progress = Progress()
    part: Any = SimpleNamespace(num_left=10)
    metrics = RunMetrics(compose(["conf=demo"]))
    dispatch_pass = DispatchPass([part], config, placement, progress, progress, metrics)
    control.update("a1", ReplicaState(replica="a", phase_s=1.0))
    control.update("b1", ReplicaState(replica="b", phase="done", is_final=True))
    for after_s in (0.0, 50.0, 20.0):
        now[0] += after_s
        dispatch_pass._update()
    assert [(each.phase, each.phase_s) for each in shown] == [("no response", 70.0), ("done", 0.0)]
    control.update("a1", ReplicaState(replica="a", phase_s=80.0))
    now[0] += 10
    dispatch_pass._update()
    assert [each.phase for each in shown] == [None, "done"]
