"""The reference model's class, and a hybrid model without a vision tower, run with conf=mera on real vLLM.

vLLM imports torchvision for the reference's class. The CPU's environment has none, so the locked version is installed
into a directory that only these runs see (site/sitecustomize.py); where it cannot be downloaded its tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hybrids
import pytest
from builders import ROOT, command, printed_template

from pipeline.config.loading import compose
from pipeline.orchestrator import execute
from pipeline.planner.kv_cache import CacheSettings, cache_layout
from pipeline.planner.model_shape import Shape, read_shape
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs.manifest import EngineInfo, Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

TASKS = ("agro_bench", "aqua_bench", "med_bench")
KV_BYTES = 1 << 30
CPU_BLOCK_TOKENS = 128
"""Tokens of a block that vLLM's attention takes on the CPU; with FlashAttention they are 16."""

DOWNLOAD_LIMIT_S = 120
PROMPT_OF_TRAIN_1 = """<|im_start|>user
Задача по агрономии.
В хозяйстве "Южный склон" опыт ставят на делянках с чётными номерами. Какие делянки войдут в опыт?
"""


@dataclass(frozen=True)
class Ran:
    """A complete run of a model of tests/hybrids.py."""

    run: ArtifactStore
    arguments: list[str]
    model: Path

    @property
    def samples(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (
            self.run.require_artifact("samples", SAMPLE_SCHEMA).dataset().to_table().to_pylist()
        )
        return rows

    @property
    def manifest(self) -> Manifest:
        found = read_manifest(self.run)
        assert found is not None
        return found

    @property
    def engine(self) -> EngineInfo:
        (found,) = self.manifest.engine.values()
        return found

    @property
    def shape(self) -> Shape:
        return read_shape(compose(self.arguments), self.model)


def mera(output: Path, model: Path, *overrides: str) -> list[str]:
    """Return the arguments of a run of conf=mera: the demo's questions, one replica on the CPU, the rest as it is."""
    template = printed_template()
    arguments = ["conf=mera", "run_id=tiny", f"output_dir={output}", f"model.path={model}", "model.expected_config=[]"]
    if template is None:  # then the model's own, which renders a question alike
        arguments.append("prompt.expected_fingerprint=null")
    else:
        (output / "template.jinja").write_text(template, encoding="utf-8")
        arguments.append(f"prompt.chat_template={output / 'template.jinja'}")
    arguments += [f"tasks.{task}.dataset=data/demo/{task}" for task in TASKS]
    arguments += ["engine.replicas=1", "engine.tensor_parallel_size=1"]
    return [*arguments, "engine.extra.enforce_eager=true", f"engine.extra.kv_cache_memory_bytes={KV_BYTES}", *overrides]


def ran(output: Path, model: Path, *overrides: str) -> Ran:
    arguments = mera(output, model, *overrides)
    done = command("pipeline.run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return Ran(ArtifactStore.open(str(output / "run=tiny")), arguments, model)


@pytest.fixture(scope="module")
def torchvision_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the locked torchvision into a directory of its own; return the PYTHONPATH that has it."""
    directory = tmp_path_factory.mktemp("torchvision")
    lines = (ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8").splitlines()
    (locked,) = (line for line in lines if line.startswith("torchvision="))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--timeout=20", "--retries=1"]
    try:
        done = subprocess.run(
            [*pip, f"--target={directory}", locked],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{locked} was not downloaded within {DOWNLOAD_LIMIT_S} s")
    if done.returncode:
        pytest.skip(f"{locked} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return os.pathsep.join([str(ROOT / "tests/engine/site"), str(directory), os.environ["PYTHONPATH"]])


@pytest.fixture(scope="module")
def reference_run(torchvision_path: str, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    output = tmp_path_factory.mktemp("reference")
    hybrids.make_reference(output / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", torchvision_path)
        return ran(output, output / "model")


@pytest.fixture(scope="module")
def text_only_run(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """With prefix caching, which takes two blocks of state a sequence; on the CPU vLLM keeps the state in float32."""
    output = tmp_path_factory.mktemp("text-only")
    hybrids.make_text_only(output / "model")
    extra = ["engine.extra.enable_prefix_caching=true", "engine.extra.mamba_ssm_cache_dtype=float32"]
    return ran(output, output / "model", "limit=5", *extra)


@pytest.fixture(params=["reference_run", pytest.param("text_only_run", marks=pytest.mark.slow)])
def any_run(request: pytest.FixtureRequest) -> Ran:
    found: Ran = request.getfixturevalue(request.param)
    return found


def test_the_reference_class_runs_on_every_question_with_the_references_settings(reference_run: Ran) -> None:
    assert len(reference_run.samples) == 214
    engine = reference_run.engine
    assert engine.architecture == "Qwen3_5MoeForConditionalGeneration"
    assert (engine.dtype, engine.max_model_len, engine.max_num_seqs) == ("bfloat16", hybrids.CONTEXT_SIZE, 256)
    assert engine.prefix_caching is False
    assert (engine.num_layers, engine.num_experts, engine.num_experts_per_token) == (8, 8, 2)
    assert reference_run.manifest.published is not None
    assert (Path(reference_run.run.root) / "tiny_submission.zip").is_file()


def test_prompts_end_in_an_open_thought(any_run: Ran) -> None:
    prompts = {(row["task"], row["split"], row["id"]): row["prompt"] for row in any_run.samples}
    assert prompts["agro_bench", "train", 1].startswith(PROMPT_OF_TRAIN_1)
    assert all(prompt.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n") for prompt in prompts.values())


def test_the_thought_is_split_from_the_answer(any_run: Ran) -> None:
    expected = (f"{hybrids.REASONING}</think>{hybrids.RESPONSE}", hybrids.REASONING, hybrids.RESPONSE, "stop", 6)
    columns = ("completion", "reasoning", "response", "finish_reason", "num_output_tokens")
    assert {tuple(row[column] for column in columns) for row in any_run.samples} == {expected}


def assert_planned(ran: Ran, size: int = 1) -> None:
    """Compare the KV cache that vLLM has reported with the planner's."""
    settings = replace(CacheSettings.of(compose(ran.arguments)), block_tokens=CPU_BLOCK_TOKENS)
    layout = cache_layout(ran.shape, size, settings)
    num_blocks = KV_BYTES // layout.pool_block_bytes
    num_sequences = num_blocks / layout.num_blocks(settings.context_size, settings.in_flight_tokens)
    engine = ran.engine
    assert engine.prefix_caching is settings.prefix_caching
    assert (engine.kv_block_size, engine.num_kv_blocks) == (layout.block_tokens, num_blocks)
    assert engine.kv_concurrency == pytest.approx(num_sequences)
    assert engine.num_kv_tokens == int(num_sequences * settings.context_size)


def test_the_planner_agrees_with_the_blocks_that_vllm_reports(any_run: Ran) -> None:
    assert_planned(any_run)


@pytest.mark.slow
def test_the_planner_counts_the_weights_of_the_models_files(text_only_run: Ran) -> None:
    assert text_only_run.engine.num_parameters == text_only_run.shape.num_params


@pytest.mark.slow
def test_two_tensor_parallel_ranks_share_the_reference_class(
    torchvision_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks are processes on two cores, which Ray is told to count as GPUs."""
    import ray

    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("vLLM's ranks need a core each")
    hybrids.make_reference(tmp_path / "model")
    monkeypatch.setenv("PYTHONPATH", torchvision_path)
    # By itself vLLM gives each rank a NUMA node of its own.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[1]}")
    arguments = [*mera(tmp_path, tmp_path / "model"), "limit=5", "engine.tensor_parallel_size=2"]
    ray.init(address="local", num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        found = Ran(execute(compose(arguments)), arguments, tmp_path / "model")
    finally:
        ray.shutdown()
    assert_planned(found, size=2)
    assert {(row["reasoning"], row["response"]) for row in found.samples} == {(hybrids.REASONING, hybrids.RESPONSE)}
