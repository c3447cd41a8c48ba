"""The run's metrics reach Ray's metrics endpoint while rows are generated, and alerts and board name only such."""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from builders import ROOT, Counting, make_prompt, publish_prompts, settings, wait_until
from scripted import ScriptedEngine, ScriptedFactory

from pipeline.generate import stage
from pipeline.generate.cluster import cluster
from pipeline.generate.connection import _set_own_token, set_environment
from pipeline.generate.metrics import METRICS, PREFIX
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

NUM_ROWS = 40


class CrashesOnce(ScriptedFactory):
    """Makes an engine that crashes on a question with DIE, the first one only."""

    def __call__(self) -> ScriptedEngine:
        has_crashed = bool(self.starts) and Path(self.starts).exists()
        made = super().__call__()
        return ScriptedEngine(replace(self, crash_on="never")) if has_crashed else made


@contextmanager
def scraped(url: str) -> Iterator[list[dict[str, float]]]:
    """Read the endpoint every half a second; yield a list of what it showed, the value of each series of ours."""
    found: list[dict[str, float]] = []
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(0.5):
            with suppress(OSError):
                text = urllib.request.urlopen(url, timeout=5).read().decode()
                lines = [line for line in text.splitlines() if line.startswith(f"{PREFIX}pipeline_")]
                found.append({line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines})

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def scrapes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """What the endpoint showed during a run with a failed row, a truncated one and an engine that crashed once."""
    directory = tmp_path_factory.mktemp("metrics")
    run = ArtifactStore.open(str(directory / "run=m1"))
    questions = {
        n: f"{word}, and this is a long question, so that it is among the first"
        for n, word in ((3, "RAISE"), (4, "CUT"), (5, "DIE"))
    }
    publish_prompts(run, [make_prompt(n, question=questions.get(n, "what?")) for n in range(NUM_ROWS)])
    config = settings("run_id=m1", "engine.endpoint.concurrency=4", "engine.endpoint.model=served")
    factory = CrashesOnce(seconds=0.8, starts=str(directory / "starts"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    set_environment()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "1000")
        import ray

        _set_own_token()  # as a run does: Ray reads a token once in a process, so all tests of a process share it
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _metrics_export_port=port)
        try:
            with scraped(f"http://127.0.0.1:{port}/metrics") as found, cluster(config) as placement:
                stage.generate(config, run, placement, factory, Counting(), Counting())
                wait_until(lambda: sum(values(found[-1], "ray_pipeline_rows_total").values()) == NUM_ROWS)
        finally:
            ray.shutdown()
    return found


def label(series: str, name: str) -> str | None:
    found = re.search(rf'[{{,]{name}="([^"]*)"', series)
    return found[1] if found else None


def values(scrape: dict[str, float], name: str) -> dict[str, float]:
    """Return the value of each series of this name."""
    return {series: value for series, value in scrape.items() if re.match(rf"{name}\b", series)}


def test_rows_rise_while_they_are_generated(scrapes: list[dict[str, float]]) -> None:
    totals = [sum(values(scrape, "ray_pipeline_rows_total").values()) for scrape in scrapes]
    assert totals == sorted(totals)
    assert len(set(totals)) >= 2  # rows are counted a block at a time
    assert totals[-1] == NUM_ROWS


def test_every_metric_is_exported_with_its_run_and_model(scrapes: list[dict[str, float]]) -> None:
    seen = {series for scrape in scrapes for series in scrape}
    for name, metric in METRICS.items():
        found = [series for series in seen if re.match(rf"{PREFIX}{name}\b", series)]
        assert found, name
        for series in found:
            assert (label(series, "run_id"), label(series, "model")) == ("m1", "served")
            assert all(label(series, tag) for tag in metric.tags), series


def test_metrics_say_what_has_happened(scrapes: list[dict[str, float]]) -> None:
    outcomes = {label(series, "outcome") for series in values(scrapes[-1], "ray_pipeline_rows_total")}
    assert outcomes == {"done", "failed", "truncated"}
    assert set(values(scrapes[-1], "ray_pipeline_engine_restarts_total").values()) == {1.0}
    expected = {value for scrape in scrapes for value in values(scrape, "ray_pipeline_rows_expected").values()}
    assert expected == {NUM_ROWS}
    in_flight = [sum(values(scrape, "ray_pipeline_rows_in_flight").values()) for scrape in scrapes]
    assert 0 < max(in_flight) <= 4


def test_the_gauges_of_a_run_last_as_long_as_it_generates(scrapes: list[dict[str, float]]) -> None:
    """They are set once, at the start: the agent would drop what is not set again."""
    infos = [values(scrape, "ray_pipeline_run_info") for scrape in scrapes]
    running = [
        1.0 in (value for series, value in info.items() if label(series, "status") == "running") for info in infos
    ]
    first = running.index(True)
    assert any(running[first + 2 * len(running[first:]) // 3 :])


def test_alerts_and_board_name_only_what_is_exported(scrapes: list[dict[str, float]]) -> None:
    seen = {re.split(r"[{ ]", series)[0] for scrape in scrapes for series in scrape}
    for name in ("alerts.yaml", "grafana.json"):
        named = set(re.findall(r"\bray_pipeline_\w+", (ROOT / "conf/kuberay" / name).read_text(encoding="utf-8")))
        assert named
        assert named <= seen
