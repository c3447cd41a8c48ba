"""A model with which every row crashes real vLLM: a hybrid in float32, which the CPU kernels refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import ROOT, command

pytestmark = pytest.mark.slow

DEMO = ROOT / "data" / "demo" / "model"


def make_hybrid(directory: Path) -> None:
    """Write a random Qwen3-Next of four small layers, three of them with linear attention."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3NextConfig

    config = Qwen3NextConfig(
        vocab_size=1011,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=128,
        linear_key_head_dim=128,
        linear_value_head_dim=128,
        linear_num_key_heads=1,
        linear_num_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
        max_position_embeddings=1024,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
        dtype="float32",
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(DEMO / name, directory / name)


def test_a_model_that_crashes_vllm_with_every_row_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    make_hybrid(tmp_path / "hybrid")
    model = f"model.path={tmp_path / 'hybrid'}"
    done = command("pipeline.run", "conf=demo", model, "run_id=hybrid", f"output_dir={tmp_path}")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stdout + done.stderr
    assert "crashed alike" in last
    assert "AssertionError: CPU GDN attention requires BF16 (" in last
    (log,) = (tmp_path / "run=hybrid" / "logs").glob("*-*.log")
    assert str(log) in last
    assert log.read_text().count("Starting to load model") <= 3
    restarts = [line for line in done.stdout.splitlines() if "the engine crashed: AssertionError: CPU GDN" in line]
    assert 1 <= len(restarts) <= 2
