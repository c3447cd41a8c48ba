"""The bench's summaries of its measurements, and the lengths that it forces. No time is asserted."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import pyarrow.parquet as pq
import pytest
from bench import growth
from bench.__main__ import rotated
from bench.meter.bench_meter import Meter
from bench.questions import as_started, lengths
from bench.results import Measurement, Target, as_json, summarize, table, targets
from bench.settings import SIZES, WAYS, parse
from bench.steps import METER, metered, taken
from builders import make_prompt, publish_prompts

from pipeline.errors import ConfigError
from pipeline.generate.work_list import write_work
from pipeline.records import PROMPT_SCHEMA, to_table
from pipeline.storage.artifacts import ArtifactStore


def measured(way: str, number: int, seconds: float, *, size: str = "demo", num_tokens: int = 1000) -> Measurement:
    return Measurement(
        size=size,
        way=way,
        round=number,
        seconds=seconds,
        num_rows=10,
        num_tokens=num_tokens,
        engine_start_s=20.0,
        num_steps=100,
        steps_s=0.9 * seconds,
        steps_cpu_s=0.8 * seconds,
    )


def test_a_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    """A slow round has the same weight as the others."""
    found = [measured("plain", number, seconds) for number, seconds in enumerate((10.0, 40.0, 10.0))]
    found += [measured("pipeline", number, seconds) for number, seconds in enumerate((8.0, 20.0, 20.0))]
    summary = {each.way: each for each in summarize(found)}["pipeline"]
    assert summary.ratio == pytest.approx(1.25)
    assert (summary.ratio_low, summary.ratio_high) == (pytest.approx(0.5), pytest.approx(2.0))
    assert summary.tokens_per_s == pytest.approx(50.0)
    assert summary.seconds == pytest.approx(20.0)


def test_ways_that_generate_different_numbers_of_tokens_are_compared_by_tokens_a_second() -> None:
    found = [measured("plain", 0, 10.0), measured("server_1", 0, 10.0, num_tokens=50)]
    assert {each.way: each.ratio for each in summarize(found)} == {"plain": 1.0, "server_1": pytest.approx(0.05)}


def test_a_ratio_is_unknown_where_plain_vllm_was_not_run() -> None:
    (summary,) = summarize([measured("pipeline", 0, 10.0)])
    assert (summary.ratio, summary.ratio_low, summary.to) == (None, None, {"pipeline": 1.0})
    assert targets([summary]) == []


def test_time_outside_of_steps_is_attributed_to_the_way() -> None:
    (summary,) = summarize([measured("plain", number, seconds) for number, seconds in enumerate((10.0, 40.0, 20.0))])
    assert (summary.num_steps, summary.step_ms, summary.outside_s) == (100, pytest.approx(160), pytest.approx(2.0))


def test_only_steps_within_the_interval_are_counted(tmp_path: Path) -> None:
    """The meter is called as vLLM's worker calls it, with a step before the interval and one after it."""
    environment = metered({"PYTHONPATH": "/here"}, tmp_path / "steps")
    assert environment == {"PYTHONPATH": f"{METER}{os.pathsep}/here", "BENCH_STEPS": str(tmp_path / "steps")}
    meter, times = Meter(environment["BENCH_STEPS"]), []
    step = meter.around(lambda grammar: [grammar])
    for number in range(4):
        times.append(time.monotonic())
        meter.begin()
        assert step(number) == [number]
    found = taken(tmp_path / "steps", times[1], times[3] - 1e-9)
    assert found["num_steps"] == 2
    assert 0 < found["steps_cpu_s"] < found["steps_s"] + 0.01
    metered({}, tmp_path / "steps")
    assert taken(tmp_path / "steps", 0.0, math.inf)["num_steps"] == 0


def test_sizes_are_not_mixed() -> None:
    found = [measured("plain", 0, 10.0), measured("plain", 0, 20.0, size="large")]
    found += [measured("pipeline", 0, 10.0), measured("pipeline", 0, 10.0, size="large")]
    assert [(each.size, each.way, each.ratio) for each in summarize(found)] == [
        ("demo", "plain", 1.0),
        ("demo", "pipeline", 1.0),
        ("large", "plain", 1.0),
        ("large", "pipeline", 2.0),
    ]


def test_each_target_is_met_or_missed_according_to_the_measurements() -> None:
    seconds = {
        "plain": 10.0,
        "pipeline": 10.6,
        "history": 9.0,
        "ray_llm": 15.0,
        "server_64": 10.0,
        "server_1": 150.0,
        "ceiling": 8.5,
    }
    found = [measured(way, 0, each) for way, each in seconds.items()]
    verdicts = {each.what: (round(each.value, 3), each.is_met) for each in targets(summarize(found))}
    assert verdicts == {
        "pipeline / plain vLLM": (0.943, False),
        "pipeline / ray.data.llm": (1.415, True),
        "pipeline / vLLM's API server, 64 at once": (0.943, False),
        "pipeline / vLLM's API server, one at a time": (14.151, False),
        "pipeline with history / plain vLLM": (1.111, True),
        "pipeline with history / ceiling": (0.944, True),
    }


def test_the_table_and_the_json_contain_every_measured_way() -> None:
    found = [measured(way, 0, 10.0) for way in WAYS]
    text = table(summarize(found))
    assert all(name in text for name in WAYS.values())
    content = as_json(found, {"date": "today"})
    assert content["date"] == "today"
    assert [each["way"] for each in content["summaries"]] == list(WAYS)
    assert len(content["measurements"]) == len(WAYS)
    assert all(isinstance(each["is_met"], bool) for each in content["targets"])


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_lengths_are_lognormal_and_within_their_bounds(size: object) -> None:
    found = lengths(size, 1000)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (max(size.min_tokens, found[0]), min(size.max_tokens, found[-1]))
    assert median(found) == pytest.approx(size.median_tokens, rel=0.05)
    assert mean(found) == pytest.approx(size.median_tokens * math.exp(size.sigma**2 / 2), rel=0.1)


def test_arguments_reduce_the_bench_and_other_overrides_reach_the_pipeline() -> None:
    bench = parse(["rounds=1", "sizes=demo", "num_questions=20", "only=plain,pipeline", "engine.max_num_seqs=8"])
    assert [(size.name, size.num_questions) for size in bench.sizes] == [("demo", 20)]
    assert (bench.ways, bench.rounds) == (("plain", "pipeline"), 1)
    assert bench.config(bench.sizes[0]).engine.max_num_seqs == 8


def test_a_target_relative_to_another_way_uses_the_median_of_ratios_within_rounds() -> None:
    found = [measured("pipeline", number, seconds) for number, seconds in enumerate((10.0, 30.0, 10.0))]
    found += [measured("server_64", number, seconds) for number, seconds in enumerate((11.0, 33.0, 8.0))]
    (target,) = targets(summarize(found))
    assert (target.value, target.is_met) == (pytest.approx(1.1), True)


@pytest.mark.parametrize(
    "argument", ["only=plane", "sizes=huge", "num_qestions=3", "rounds=0", "rounds=x", "sigma=wide"]
)
def test_an_unknown_argument_is_rejected(argument: str) -> None:
    with pytest.raises(ConfigError, match=argument.split("=")[0]):
        parse([argument])


def test_the_plot_shows_every_way_with_a_ratio(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.plot import plot

    plot(summarize([measured(way, 0, 10.0) for way in WAYS]), tmp_path / "bench.svg")
    text = (tmp_path / "bench.svg").read_text(encoding="utf-8")
    assert all(name in text for name in WAYS.values())


def test_questions_are_in_the_order_in_which_the_generate_stage_starts_them(tmp_path: Path) -> None:
    texts = ["б" * 9, "а" * 30, "а" * 9, "в" * 20]
    prompts = [make_prompt(number, question=text) for number, text in enumerate(texts)]
    run = ArtifactStore.open(str(tmp_path / "run"))
    publish_prompts(run, prompts)
    artifact = run.require_artifact("prompts", PROMPT_SCHEMA)
    work = write_work(run, artifact, [], 1)
    started = [row["id"] for name in work.files for row in pq.read_table(run.path(name)).to_pylist()]
    table = to_table([replace(each, num_prompt_tokens=len(each.messages)) for each in prompts], PROMPT_SCHEMA)
    assert as_started(table)["id"].to_pylist() == started == [1, 3, 0, 2]


def test_a_target_prints_whether_it_is_a_minimum_or_a_maximum() -> None:
    most = Target(size="growth", what="memory", value=1.31, wanted=1.3, is_most=True)
    assert str(most) == "growth: memory = 1.31, wanted at most 1.3: MISSED"
    least = Target(size="score", what="rows/s", value=37_347.4, wanted=20_000)
    assert str(least) == "score: rows/s = 37,347, wanted at least 20,000: met"


@pytest.mark.parametrize(
    ("peaks", "met"),
    [({100_000: 700, 1_000_000: 900}, [True]), ({100_000: 700, 1_000_000: 920}, [False]), ({100_000: 700}, [])],
)
def test_growth_has_a_target_only_if_both_sizes_were_run(peaks: dict[int, int], met: list[bool]) -> None:
    results = [{"rows": rows, "driver_mb": {"peak": peak}} for rows, peak in peaks.items()]
    assert [each.is_met for each in growth.targets(results)] == met


def test_over_the_rounds_each_way_is_early_and_late() -> None:
    ways = tuple("abcdefg")
    orders = [rotated(ways, number, 3) for number in range(3)]
    assert orders[0] == ways
    for way in ways:
        places = [order.index(way) for order in orders]
        assert max(places) - min(places) >= 4
