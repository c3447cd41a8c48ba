"""Makes the two models of the bench: the demo's with a longer context, and one of 52 million weights.

Both have the demo's tokenizer and template. Random weights suffice: the length of a completion is forced, and its text
does not matter.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bench.settings import ROOT

DEMO = ROOT / "data" / "demo" / "model"
POSITIONS = 2048

LARGE = {
    "hidden_size": 640,
    "intermediate_size": 1920,
    "num_hidden_layers": 11,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
"""52 million weights: on two cores the forward pass dominates, as it does on a GPU."""


def make_models(directory: Path) -> None:
    """Write `<directory>/demo` and `<directory>/large`."""
    shutil.copytree(DEMO, directory / "demo", dirs_exist_ok=True)
    content = json.loads((DEMO / "config.json").read_text(encoding="utf-8")) | {"max_position_embeddings": POSITIONS}
    (directory / "demo" / "config.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    _make_large(directory / "large")


def _make_large(directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    directory.mkdir(parents=True, exist_ok=True)
    content = json.loads((DEMO / "config.json").read_text(encoding="utf-8")) | LARGE
    content |= {"max_position_embeddings": POSITIONS, "layer_types": None, "dtype": "float32"}
    torch.manual_seed(1234)
    AutoModelForCausalLM.from_config(Qwen3Config(**content)).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(DEMO / name, directory / name)
