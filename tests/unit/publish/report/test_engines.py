"""The report's table of the engines: short where replicas are alike, a range where only measured figures differ."""

from __future__ import annotations

from dataclasses import replace

from archives import MakeRun, question
from builders import record_manifest
from reports import report_of

from pipeline.publish.report.engines import engine_table
from pipeline.runs.manifest import EngineInfo

INFO = EngineInfo(
    device="cuda",
    kv_block_size=1056,
    num_kv_blocks=3632,
    num_kv_tokens=3_835_392,
    kv_concurrency=14.63,
    prefix_caching=False,
    async_scheduling=True,
    max_num_seqs=256,
    max_num_batched_tokens=2048,
    cuda_graph_mode="FULL_AND_PIECEWISE",
    cuda_graph_sizes="1, 2, 4, 512",
    largest_cuda_graph=512,
    moe_config="default",
    num_preemptions=0,
    num_preempted_rows=0,
    peak_kv_cache_usage=0.43,
)


def test_replicas_that_are_alike_are_one_column() -> None:
    other = replace(INFO, num_kv_blocks=3630, peak_kv_cache_usage=0.5, num_preemptions=3, num_preempted_rows=2)
    table = engine_table({"a": INFO, "b": other, "gone": EngineInfo(gave_up="vLLM does not start")})
    assert table is not None
    assert table.columns == ["a, b"]
    assert dict(table.rows) == {
        "KV cache, blocks": ["3,630–3,632"],
        "tokens a block": ["1,056"],
        "KV cache, tokens": ["3,835,392"],
        "sequences of the longest length that fit": ["14.6"],
        "KV cache in use at most": ["43%–50%"],
        "prefix caching": ["off"],
        "asynchronous scheduling": ["on"],
        "sequences at once, at most": ["256"],
        "tokens a step, at most": ["2,048"],
        "CUDA graphs": ["4 sizes, 1 to 512 sequences (FULL_AND_PIECEWISE)"],
        "tuned MoE file": ["default"],
        "preemptions": ["3, of 2 rows (b: 3)"],
    }


def test_replicas_with_other_settings_are_columns_of_their_own() -> None:
    many = {f"r{number}": INFO for number in range(8)}
    table = engine_table({**many, "odd": replace(INFO, moe_config=None, prefix_caching=True)})
    assert table is not None
    assert table.columns == ["8 replicas", "odd"]
    assert dict(table.rows)["tuned MoE file"] == ["default", "–"]
    assert dict(table.rows)["prefix caching"] == ["off", "on"]


def test_figures_that_nobody_reported_are_left_out() -> None:
    assert engine_table({"a": EngineInfo(served_model="x")}) is None
    assert engine_table({"a": EngineInfo(device="cpu")}) is None
    table = engine_table({"a": EngineInfo(device="cpu", cuda_graph_mode="NONE", num_kv_blocks=5)})
    assert table is not None
    assert dict(table.rows) == {"KV cache, blocks": ["5"], "CUDA graphs": ["none"]}


def test_the_page_has_the_table_and_warns_of_preempted_rows(make_run: MakeRun) -> None:
    run = make_run([question("agro_bench", 1)])
    engine = replace(INFO, num_preemptions=3, num_preempted_rows=2, moe_config="<b>x").to_flat()
    record_manifest(run.store, "complete", **run.content | {"engine": {"<i>a": engine}})
    page = report_of(run).read_text(encoding="utf-8")
    assert "CUDA graphs</span><td><bdi>4 sizes, 1 to 512 sequences (FULL_AND_PIECEWISE)</bdi>" in page
    assert "<bdi>&lt;i&gt;a</bdi>" in page
    assert "<bdi>&lt;b&gt;x</bdi>" in page
    assert "2 rows were preempted and computed again: the KV cache was full" in page
