"""The plan's arithmetic against figures computed by hand, and its shapes against models built in memory."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import command, record_manifest

from pipeline.cli import parse
from pipeline.config.loading import compose
from pipeline.errors import ConfigError, ModelError
from pipeline.generate.cluster import place
from pipeline.planner.kv_cache import RESERVED_BYTES, CacheSettings
from pipeline.planner.model_shape import Shape, read_shape
from pipeline.planner.report import PlanOptions, assumed
from pipeline.planner.roofline import ALL_REDUCE_LATENCY_S, FRONT_END_TOKENS_PER_S, GPUS, Plan, Workload
from pipeline.planner.roofline import plans as plans_of
from pipeline.preview import main
from pipeline.runs import directory as run_directory
from pipeline.runs.past_runs import MOST_RUNS

pytestmark = pytest.mark.usefixtures("at_root")

A100 = GPUS["A100-SXM4-80GB"]
WORK = Workload(num_rows=9137, num_prompt_tokens=250, num_output_tokens=2000)

DENSE = Shape(
    name="dense",
    num_params=8_000_000_000,
    num_lookup_params=0,
    num_expert_params=0,
    num_experts=0,
    num_experts_per_token=0,
    weights_bytes=16_000_000_000,
    hidden_size=4096,
    num_layers=32,
    num_attention_layers=32,
    num_window_layers=0,
    window=0,
    num_attention_heads=32,
    num_kv_heads=8,
    head_size=128,
    kv_bytes=2,
    num_recurrent_layers=0,
    num_recurrent_heads=0,
    recurrent_bytes=0,
)


def settings(share: float = 0.9, max_num_seqs: int | None = 128, **others: Any) -> CacheSettings:
    others = {"context_size": 16_384, **others}
    return CacheSettings(gpu_memory_utilization=share, max_num_seqs=max_num_seqs, **others)


def plans(shape: Shape, num_gpus: int, gpus_per_node: int, engine: CacheSettings, work: Workload) -> list[Plan]:
    return [plan for plan in plans_of(shape, A100, num_gpus, gpus_per_node, engine, work) if plan.starts]


@pytest.fixture
def reference(tmp_path: Path) -> Shape:
    """Return the reference model's shape, from a config.json that transformers writes for that architecture."""
    from transformers.models.qwen3_5_moe.configuration_qwen3_5_moe import Qwen3_5MoeTextConfig

    model = tmp_path / "Qwen3.6-35B-A3B"
    Qwen3_5MoeTextConfig(dtype="bfloat16", mamba_ssm_dtype="float32").save_pretrained(model)
    return read_shape(compose(["conf=mera", f"model.path={model}"]), model)


def test_the_reference_model_has_its_published_sizes(reference: Shape) -> None:
    assert reference.num_params == pytest.approx(34.7e9, rel=0.002)  # and 0.45e9 of vision and prediction heads: 35B
    assert reference.num_active_params == pytest.approx(3e9, rel=0.03)  # A3B
    assert reference.num_lookup_params == 248_320 * 2048
    assert (reference.num_attention_layers, reference.num_recurrent_layers) == (10, 30)
    assert reference.kv_bytes_per_token == 2 * 10 * 2 * 256 * 2
    assert reference.recurrent_bytes == 30 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)


def test_the_plan_of_a_dense_model_on_one_gpu_is_as_computed_by_hand() -> None:
    (first, *_) = [each for each in plans(DENSE, 8, 8, settings(), WORK) if each.tensor_parallel_size == 1]
    kv_per_token = 2 * 32 * 8 * 128 * 2
    assert first.blocks_per_sequence == 141  # of 16 tokens
    free_bytes = A100.memory_bytes * 0.9 - RESERVED_BYTES - 16e9
    assert first.cache.num_blocks == math.floor(free_bytes / (kv_per_token * 16))
    assert first.num_fitting == (first.cache.num_blocks - 1) // 141
    assert first.num_running == 128
    step_s = (16e9 + 128 * kv_per_token * 1250) / 2.039e12
    assert first.step_s == pytest.approx(step_s)
    prefill_s = 2 * 8e9 * 250 / 312e12
    assert first.wall_s == pytest.approx(9137 * (2000 * step_s / 128 + prefill_s) / 8)
    assert first.tokens_per_s == pytest.approx(9137 * 2000 / first.wall_s)
    assert first.bound == "memory"


def test_two_gpus_halve_the_bytes_read_and_add_all_reduces() -> None:
    one, two = (
        next(each for each in plans(DENSE, 2, 8, settings(), WORK) if each.tensor_parallel_size == size)
        for size in (1, 2)
    )
    all_reduce_s = 2 * 32 * (ALL_REDUCE_LATENCY_S + 128 * 4096 * 2 / 300e9)
    assert two.step_s == pytest.approx(one.step_s / 2 + all_reduce_s)
    assert (one.num_replicas, two.num_replicas) == (2, 1)


def test_the_reference_model_is_faster_on_two_gpus_because_more_sequences_fit(reference: Shape) -> None:
    found = plans(reference, 8, 8, settings(0.92, prefix_caching=False), WORK)
    by_size = {each.tensor_parallel_size: each for each in found}
    assert found[0].tensor_parallel_size == 2
    assert by_size[1].num_fitting < 64 < 512 < by_size[2].num_fitting
    assert by_size[2].wall_s < 0.6 * by_size[1].wall_s


def test_with_as_few_sequences_as_fit_on_one_gpu_two_gpus_per_replica_gain_little(reference: Shape) -> None:
    by_size = {each.tensor_parallel_size: each for each in plans(reference, 8, 8, settings(0.92, 16), WORK)}
    assert by_size[1].wall_s < by_size[2].wall_s * 1.05


def test_weights_that_a_step_reads_grow_with_the_experts_that_its_tokens_touch(reference: Shape) -> None:
    one, many = reference.weights_read(1), reference.weights_read(100_000)
    assert one == pytest.approx(2 * reference.num_active_params)
    assert many == pytest.approx(reference.weights_bytes - 2 * reference.num_lookup_params)


def test_kv_heads_fewer_than_gpus_are_copied() -> None:
    few = replace(DENSE, num_kv_heads=2)
    by_size = {each.tensor_parallel_size: each for each in plans(few, 8, 8, settings(), WORK)}
    layouts = [by_size[size].cache.layout for size in (2, 8)]
    assert layouts[0] == layouts[1]  # one KV head a GPU


def test_a_layers_state_and_a_block_of_keys_and_values_have_the_same_size(reference: Shape) -> None:
    """1,056 is the smallest multiple of 16 tokens, of 2,048 bytes each, that holds a state of 2,146,304 bytes."""
    engine = settings(0.92, prefix_caching=False)
    by_size = {each.tensor_parallel_size: each for each in plans(reference, 8, 8, engine, WORK)}
    assert reference.recurrent_bytes == 30 * 2_146_304
    for size in (1, 2):
        assert by_size[size].cache.layout.block_tokens == 1056
        assert by_size[size].cache.layout.pool_block_bytes == 10 * 1056 * 2_048 / size
        assert by_size[size].blocks_per_sequence == 3 + 3  # of keys and values, and one state in each of three groups


def test_a_sliding_window_layer_keeps_no_more_than_its_window() -> None:
    windows = replace(DENSE, num_window_layers=24, window=512)
    (full, some) = (
        next(each for each in plans(shape, 1, 8, settings(), WORK) if each.tensor_parallel_size == 1)
        for shape in (DENSE, windows)
    )
    assert some.cache.layout.pool_block_bytes == full.cache.layout.pool_block_bytes / 4  # a group is 8 layers, not 32
    assert some.blocks_per_sequence == 141 + 3 * (32 + 1)
    assert some.step_s < full.step_s


def test_a_replica_is_no_faster_than_its_front_end() -> None:
    small = replace(DENSE, num_params=1_000_000, weights_bytes=2_000_000, num_kv_heads=1)
    (first, *_) = [each for each in plans(small, 8, 8, settings(), WORK) if each.tensor_parallel_size == 1]
    assert (first.bound, first.step_s) == ("front end", 128 / FRONT_END_TOKENS_PER_S)


def test_advised_slots_have_cuda_graphs_and_enough_rows() -> None:
    small = replace(DENSE, num_kv_heads=1)
    engine = settings(max_num_seqs=None, context_size=2048)
    for num_rows, slots in ((1_000_000, 512), (8 * 8 * 300, 256), (8 * 8 * 40, 40)):
        work = replace(WORK, num_rows=num_rows)
        by_size = {each.tensor_parallel_size: each for each in plans(small, 8, 8, engine, work)}
        assert by_size[1].num_running == slots


@pytest.mark.parametrize(
    ("num_gpus", "gpus_per_node", "size", "num_replicas"), [(12, 6, 4, 2), (8, 3, 2, 3), (10, 5, 2, 4), (16, 12, 8, 1)]
)
def test_no_group_spans_two_nodes(num_gpus: int, gpus_per_node: int, size: int, num_replicas: int) -> None:
    by_size = {each.tensor_parallel_size: each for each in plans(DENSE, num_gpus, gpus_per_node, settings(), WORK)}
    assert by_size[size].num_replicas == num_replicas
    nodes = [gpus_per_node] * (num_gpus // gpus_per_node) + [num_gpus % gpus_per_node]
    config = compose(["conf=mera", f"engine.tensor_parallel_size={size}", f"engine.replicas={num_replicas}"])
    alive = [{"Alive": True, "Resources": {"GPU": float(count)}} for count in nodes if count]
    assert place(config, alive).num_replicas == num_replicas


def test_an_engine_runs_no_more_rows_than_it_gets() -> None:
    few = replace(WORK, num_rows=80)
    by_size = {each.tensor_parallel_size: each for each in plans(DENSE, 8, 8, settings(max_num_seqs=1000), few)}
    assert (by_size[1].num_running, by_size[8].num_running) == (10, 80)


def test_sizes_that_do_not_divide_the_heads_are_not_offered() -> None:
    odd = replace(DENSE, num_attention_heads=12, num_kv_heads=3)
    assert {each.tensor_parallel_size for each in plans(odd, 8, 8, settings(), WORK)} == {1}


def test_a_model_that_fits_nowhere_is_a_one_line_error() -> None:
    huge = replace(DENSE, weights_bytes=2_000_000_000_000)
    with pytest.raises(ConfigError, match=r"dense weighs 2000\.0 GB, and 8 x A100-SXM4-80GB of a node hold no"):
        plans(huge, 8, 8, settings(), WORK)


@pytest.mark.parametrize(
    ("name", "sizes", "what"),
    [
        ("Mamba2Config", {"num_heads": 2}, "a model without linear_conv_kernel_dim"),
        ("DeepseekV3Config", {}, "'multi-head latent attention'"),
    ],
)
def test_an_architecture_with_an_unknown_cache_is_rejected(
    tmp_path: Path, name: str, sizes: dict[str, int], what: str
) -> None:
    import transformers

    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 99, **sizes}
    getattr(transformers, name)(**sizes).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"model.path=.*: what .*{what}.* keeps for a sequence is not known here"):
        read_shape(compose(["conf=demo", f"model.path={tmp_path}"]), tmp_path)


def test_an_unknown_architecture_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody_knows"}))
    with pytest.raises(ModelError, match=r"its config\.json does not describe its shape: .*nobody_knows"):
        read_shape(compose(["conf=demo", f"model.path={tmp_path}"]), tmp_path)


def test_the_demo_models_parameters_are_counted() -> None:
    shape = read_shape(compose(["conf=demo"]), Path("data/demo/model"))
    from safetensors import safe_open

    with safe_open("data/demo/model/model.safetensors", framework="np") as file:
        stored = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert shape.num_params == stored
    assert shape.weights_bytes == 4 * stored


def options(*arguments: str) -> PlanOptions:
    own, _ = parse("plan", ["conf=demo", *arguments])
    return PlanOptions(**own)


def preview(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def test_the_preview_prints_the_plans_fastest_first_and_recommends_one(
    tmp_path: Path, reference: Shape, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["conf=mera", f"model.path={tmp_path / reference.name}", f"output_dir={tmp_path / 'none'}", "plan=true"]
    out = preview(capsys, *arguments)
    assert "34.66 B parameters, 2.95 B active, 69.3 GB of weights" in out
    assert "fastest with engine.max_num_seqs=256: engine.tensor_parallel_size=2 engine.replicas=4\n" in out
    assert "with other slots" not in out
    assert "this configuration" not in out  # it is the fastest
    assert re.search(r"\n +1 .* 1,056 tokens +21,626,880 B +213 +5\.076 GiB +3\.15 GiB +at the edge", out)
    assert "TP 1 is at the edge: after the weights and engine.max_num_seqs=256 slots" in out
    assert "the longest context that fits is 220,704, and engine.max_num_seqs is at most 213\n" in out
    paste = "engine: {replicas: 4, tensor_parallel_size: 2, max_num_seqs: 256, gpu_memory_utilization: 0.92}\n"
    assert out.endswith(paste)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["gpus=4", "gpu=A100-SXM4-40GB"],
            "TP 1 is refused: the weights take 64.56 GiB of each GPU, of which the engine",
        ),
        (["gpus=4", "gpu=A100-SXM4-40GB"], "are assumed, and vLLM measures; with 4.00 GiB no context fits"),
        (["engine.max_num_seqs=400"], "TP 1 is refused: after the weights and engine.max_num_seqs=400 slots with a "),
        (["engine.max_num_seqs=700"], "engine.max_num_seqs=700: vLLM has CUDA graphs for at most 512 sequences"),
        (
            ["model.context_size=400000"],
            "TP 1 is refused: after the weights and a sequence of model.context_size=400,",
        ),
        (["model.context_size=400000"], "with 4.00 GiB the longest context that fits is 220,704\n"),
    ],
)
def test_a_size_that_vllm_refuses_is_shown_with_the_reason(
    tmp_path: Path, reference: Shape, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    model = f"model.path={tmp_path / reference.name}"
    assert line in preview(capsys, "conf=mera", model, f"output_dir={tmp_path}", "plan=true", *arguments)


def test_what_the_plan_prints_to_paste_is_a_configuration(
    tmp_path: Path, reference: Shape, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["engine.max_num_seqs=16", "engine.extra.enable_prefix_caching=true"]
    out = preview(
        capsys, "conf=mera", f"model.path={tmp_path / reference.name}", f"output_dir={tmp_path}", "plan=true", *more
    )
    (tmp_path / "mine.yaml").write_text(f"base: [mera]\n{out.splitlines()[-1]}\n")
    engine = compose([f"conf={tmp_path / 'mine.yaml'}"]).engine
    assert (engine.replicas, engine.tensor_parallel_size, engine.max_num_seqs) == (4, 2, 256)
    assert engine.extra == {"language_model_only": True, "enable_prefix_caching": False}
    assert "prompts of 250 tokens never hit, and 2 states a sequence are kept" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["plan=maybe"], r"plan='maybe': give true or false"),
        (["gpus=8"], r"gpus= is a word of the plan: give plan=true with it"),
        (["plan=true", "gpu=TPU"], r"gpu='TPU': there are A100-SXM4-40GB, A100-SXM4-80GB"),
        (["plan=true", "gpus=0"], r"gpus='0': give a number from 1"),
        (["plan=true", "task=med_bench"], r"task, id, n, write have no part in a plan: leave them out, or plan=true"),
        (["plan=true", "rows=many"], r"rows='many': give a number from 1"),
        (["plan=true", "engine.kind=endpoint", "engine.endpoint.base_url=http://x/v1"], r"plan=true: an endpoint"),
        (["plan=true", "engine.pipeline_parallel_size=2"], r"plan=true: engine\.pipeline_parallel_size=2 has no plan"),
        (["plan=true", "engine.extra.quantization=fp8"], r"plan=true: engine\.extra\.quantization='fp8'"),
        (
            ["plan=true", "engine.extra.speculative_config={method: mtp}"],
            r"plan=true: engine\.extra\.speculative_config=",
        ),
        (["plan=true", "engine.extra.kv_cache_dtype=nvfp4"], r"plan=true: engine\.extra\.kv_cache_dtype='nvfp4'"),
    ],
)
def test_wrong_arguments_of_the_plan_are_a_one_line_error(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        main(["conf=demo", *arguments])


def test_a_small_models_sizes_are_printed_in_small_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = preview(capsys, "conf=demo", f"output_dir={tmp_path}", "plan=true")
    assert "model: 572.86 k parameters, 572.86 k active, 2.3 MB of weights\n" in out
    (row,) = [line.split() for line in out.splitlines() if line.split()[:2] == ["1", "1"]]
    assert row[2:5] == ["28", "688.1", "kB"]
    assert not [cell for cell in row[2:] if float(re.sub(r"[^0-9.]", "", cell) or 1) == 0 and cell != "0"]


def test_a_model_that_cannot_be_downloaded_is_a_one_line_error_with_the_fix(tmp_path: Path) -> None:
    began = time.monotonic()
    done = command("pipeline.preview", "conf=mera", f"output_dir={tmp_path}", "plan=true")
    assert time.monotonic() - began < 60  # the hub's client by itself retries for minutes
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: model.path='Qwen/Qwen3.6-35B-A3B'")
    assert done.stderr.endswith("Put a copy of the model in a directory and set model.path=<dir>\n")
    with pytest.raises(ModelError, match=r"model\.path='\./none': there is no such directory"):
        main(["conf=demo", "model.path=./none", "plan=true"])


def test_a_past_runs_length_is_at_most_the_budget_and_few_runs_are_read(tmp_path: Path) -> None:
    config = compose(["conf=demo", f"output_dir={tmp_path}"])

    def made(run_id: str, **content: object) -> None:
        run, mine = run_directory.place(replace(config, run_id=run_id))
        run_directory.begin(run, mine)
        record_manifest(run, "complete", **{"ended_at": run_id} | content)

    made("000", counts={"num_samples": 1, "num_output_tokens": 5_000})
    found = assumed(config, options())
    assert (found.num_output_tokens, found.origin) == (192, "of run 000")
    for number in range(1, MOST_RUNS):
        made(f"{number:03}")
    assert assumed(config, options()).origin == "of run 000"
    made(f"{MOST_RUNS:03}")
    assert assumed(config, options()).origin == "assumed"


def test_the_length_of_a_completion_is_that_of_a_past_run_if_there_is_one(tmp_path: Path) -> None:
    config = compose(["conf=demo", f"output_dir={tmp_path}"])
    assert (assumed(config, options()).num_output_tokens, assumed(config, options()).origin) == (192, "assumed")
    run, config = run_directory.place(replace(config, run_id="before"))
    run_directory.begin(run, config)
    record_manifest(run, "complete", counts={"num_samples": 10, "num_output_tokens": 570, "num_failed": 0})
    after = replace(config, run_id="after")
    assert (assumed(after, options()).num_output_tokens, assumed(after, options()).origin) == (57, "of run before")
    found = assumed(after, options("output_tokens=9"))
    assert (found.num_output_tokens, found.origin) == (9, "as given")
