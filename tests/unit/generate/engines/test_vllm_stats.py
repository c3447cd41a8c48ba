"""Preemptions and tuned MoE files as vLLM's own classes and functions report them."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import ROOT

from pipeline.generate.engines.base import EngineStats
from pipeline.generate.engines.vllm_start import moe_config
from pipeline.generate.engines.vllm_stats import StatCounts, ray_stat_logger, stat_logger
from pipeline.generate.reports import counted
from pipeline.runs.manifest import EngineInfo

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch, on import
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]


def step(*num_preemptions: int, tokens: int = 7) -> Any:
    """Return vLLM's statistics of a step that finishes a request for each number, preempted so often."""
    from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, FinishReason
    from vllm.v1.metrics.stats import IterationStats, LoRARequestStates, RequestStateStats

    stats, loras = IterationStats(), LoRARequestStates()
    for number in num_preemptions:
        request = RequestStateStats(arrival_time=1.0, queued_ts=1.0, scheduled_ts=2.0, last_token_ts=3.0)
        events = [EngineCoreEvent.new_event(EngineCoreEventType.PREEMPTED, 2.0) for _ in range(number)]
        output = EngineCoreOutput(request_id="r", new_token_ids=[1] * tokens, events=events)
        stats.update_from_output(output, 4.0, False, request, loras, None)
        stats.update_from_finished_request(FinishReason.STOP, "r", 5, 100, request)
    return stats


def scheduler(running: int, waiting: int, usage: float) -> Any:
    from vllm.v1.metrics.stats import SchedulerStats

    return SchedulerStats(num_running_reqs=running, num_waiting_reqs=waiting, kv_cache_usage=usage)


def test_vllms_statistics_are_counted_and_no_metric_is_registered() -> None:
    from vllm.v1.metrics.loggers import StatLoggerManager

    counts = StatCounts()
    config = SimpleNamespace()
    manager = StatLoggerManager(config, custom_stat_loggers=[stat_logger(counts)], enable_default_loggers=False)
    assert len(manager.stat_loggers) == 1
    manager.log_engine_initialized()
    manager.record(scheduler(4, 2, 0.5), step(0, 2))
    manager.record(scheduler(3, 9, 0.25), step(1))
    manager.record(None, None)
    manager.log()
    assert counts.stats == EngineStats(
        num_running=3,
        num_waiting=9,
        num_output_tokens=21,
        kv_cache_usage=0.25,
        peak_running=4,
        peak_waiting=9,
        peak_kv_cache_usage=0.5,
        num_preemptions=3,
        num_preempted_rows=2,
    )


def test_statistics_that_cannot_be_read_are_unknown_and_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    counts = StatCounts()
    counts.record(None, step(1))
    counts.record(None, SimpleNamespace(num_generation_tokens=1))
    counts.record(None, step(1))
    assert counts.stats == EngineStats()
    assert "not counted any more" in caplog.text


def test_vllms_own_metrics_are_exported_without_ray_serve(caplog: pytest.LogCaptureFixture) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    model = str(ROOT / "data/demo/model")
    config = AsyncEngineArgs(model=model, max_model_len=512, enforce_eager=True).create_engine_config()
    exporter = ray_stat_logger()(config, [0])
    exporter.record(scheduler(1, 0, 0.5), step(0), None, 0)
    exporter.log_engine_initialized()
    assert "not exported any more" not in caplog.text


def test_vllms_own_metrics_that_cannot_be_exported_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    exporter = ray_stat_logger()(SimpleNamespace(), [0])
    exporter.record(scheduler(1, 0, 0.5), step(0), None, 0)
    exporter.log_engine_initialized()
    assert caplog.text.count("not exported any more") == 1


def test_the_counters_of_a_replica_include_its_earlier_processes() -> None:
    before = EngineInfo(num_preemptions=3, num_preempted_rows=2, peak_running=9, peak_kv_cache_usage=0.25)
    now = EngineStats(num_preemptions=1, num_preempted_rows=1, peak_running=4, peak_waiting=0, peak_kv_cache_usage=0.5)
    assert counted(before, now) == EngineInfo(
        num_preemptions=4, num_preempted_rows=3, peak_running=9, peak_waiting=0, peak_kv_cache_usage=0.5
    )
    assert counted(before, EngineStats()) == EngineInfo()


def test_the_moe_file_is_the_one_that_vllm_says_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.model_executor.layers.fused_moe import fused_moe

    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    tuned = tmp_path / fused_moe.get_config_file_name(8, 32, None)
    tuned.write_text(json.dumps({"1": {}}))
    with caplog.at_level(logging.INFO, logger="vllm"):  # whoever imports vLLM first sets its level
        assert moe_config(caplog.text) is None
        fused_moe.get_moe_configs(8, 64, None)
        assert moe_config(caplog.text) == "default"
        caplog.clear()
        fused_moe.get_moe_configs(8, 32, None)
    assert moe_config(caplog.text) == str(tuned)


def test_a_file_of_vllms_own_is_named_alike_in_every_installation() -> None:
    line = "Using configuration from /venv/lib/python3.11/site-packages/vllm/configs/E=8.json for MoE layer."
    assert moe_config(line) == "vllm/configs/E=8.json"
