"""What vLLM's log tells of a start. The lines are real vLLM's; those of GPUs are as its source formats them."""

from __future__ import annotations

import pytest

from pipeline.generate.engines.vllm_start import StartPhase, start_phase

CORE, WORKER = "(EngineCore pid=24607) INFO 11-28 07:59:16 ", "(Worker_TP0 pid=24872) INFO 11-28 07:59:22 "

START = (
    ("Triton is installed, but doesn't include CPU backend. Disabling Triton.", None),
    (
        "(MainProcess pid=24254) INFO 11-28 07:59:09 [model.py:733] Resolved architecture: Qwen3ForCausalLM",
        StartPhase("reading the model's configuration"),
    ),
    (
        f"{CORE}[core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='data/demo/model'",
        StartPhase("starting the engine's processes"),
    ),
    (f"{WORKER}[gpu_model_runner.py:5039] Starting to load model a/b...", StartPhase("building the model")),
    (f"{WORKER}[base_loader.py:82] Initializing model took 0.092122 seconds", StartPhase("downloading weights")),
    (
        f"{WORKER}[weight_utils.py:532] Time spent downloading weights for a/b: 61.000000 seconds",
        StartPhase("loading weights"),
    ),
    (
        "Loading safetensors checkpoint shards:   0% Completed | 0/16 [00:00<?, ?it/s]\n"
        "Loading safetensors checkpoint shards:  44% Completed | 7/16 [00:31<00:39,  4.39s/it]\n",
        StartPhase("loading weights", 44),
    ),
    ("Multi-thread loading shards:  50% Completed | 8/16 [00:31<00:39,  4.39s/it]", StartPhase("loading weights", 50)),
    (f"{WORKER}[gpu_model_runner.py:5149] Model loading took 32.28 GiB memory and 71 seconds", StartPhase("profiling")),
    (f"{WORKER}[monitor.py:40] Starting torch.compile", StartPhase("compiling")),
    (f"{WORKER}[monitor.py:62] torch.compile took 41.2 s in total", StartPhase("profiling")),
    (f"{WORKER}[gpu_worker.py:759] Available KV cache memory: 38.01 GiB", StartPhase("allocating the KV cache")),
    (f"{WORKER}[kernel_warmup.py:176] JIT kernel warmup starting.", StartPhase("warming up kernels")),
    (
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):   0%|          | 0/51 [00:00<?, ?it/s]\r"
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  20%|##        | 10/51 [00:02<00:08,  4.88it/s]",
        StartPhase("capturing CUDA graphs", 20),
    ),
    ("Capturing CUDA graphs (FULL): 100%|##########| 35/35", StartPhase("capturing CUDA graphs", 100)),
)


@pytest.mark.parametrize("number", range(len(START)))
def test_each_line_tells_what_the_start_is_at(number: int) -> None:
    log = "\n".join(line for line, _ in START[: number + 1])
    assert start_phase(log) == START[number][1]


@pytest.mark.parametrize("line", ["", "Loading everything: 300 files", "a 45% chance", "\x00" * 99, ":" * 5_000])
def test_an_unknown_line_says_nothing(line: str) -> None:
    assert start_phase(line) is None
    assert start_phase(f"{START[3][0]}\n{line}") == StartPhase("building the model")
