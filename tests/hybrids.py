"""Tiny models of the reference model's class and of a relative without a vision tower, with a known completion.

Both have the layers of Qwen3.6-35B-A3B: gated delta nets, gated attention every fourth layer, and experts. Their sizes
are those that vLLM's kernels for the CPU accept (heads of 128, bfloat16). The layers are random and small against the
embeddings, so the next token depends on the last one alone, and the rows of the output layer lead from each token of
`COMPLETION` to the next.
"""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from builders import ROOT

DEMO = ROOT / "data" / "demo" / "model"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")

REASONING, RESPONSE = "6*9", "B"
COMPLETION = f"{REASONING}</think>{RESPONSE}<|im_end|>"
"""What both models generate greedily after a prompt that ends in a line break; the last token ends the completion."""

CONTEXT_SIZE = 262_144

SIZES = {
    "vocab_size": 1011,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "max_position_embeddings": CONTEXT_SIZE,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def make_reference(directory: Path) -> None:
    """Write a `Qwen3_5MoeForConditionalGeneration` with 6 recurrent and 2 attention layers, and a vision tower."""
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 128}
    text = SIZES | {"num_hidden_layers": 8, "mamba_ssm_dtype": "float32"}
    config = Qwen3_5MoeConfig(text_config=text, vision_config=vision, image_token_id=1000, video_token_id=1001)
    _save(Qwen3_5MoeForConditionalGeneration, config, "bfloat16", directory)


def make_text_only(directory: Path, dtype: str = "bfloat16") -> None:
    """Write a `Qwen3NextForCausalLM` with 4 recurrent layers and one of attention."""
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    config = Qwen3NextConfig(**SIZES, num_hidden_layers=5, intermediate_size=128)
    _save(Qwen3NextForCausalLM, config, dtype, directory)


def _save(model_class: Any, config: Any, dtype: str, directory: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    model = model_class(config)
    ids = AutoTokenizer.from_pretrained(DEMO).encode(f"\n{COMPLETION}", add_special_tokens=False)
    with torch.no_grad():
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        table.normal_()
        for last, following in pairwise(ids):
            head[following] = table[last]
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    for name in (*TOKENIZER, "chat_template.jinja"):
        shutil.copy(DEMO / name, directory / name)
