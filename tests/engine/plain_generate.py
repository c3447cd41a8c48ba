"""Runs `vllm.LLM.generate` once over all prompts of a run, as the reference for the pipeline's completions.

Usage: python tests/engine/plain_generate.py <prompts directory> <output json>
"""

from __future__ import annotations

import json
import sys

import pyarrow.dataset as pads
from vllm import LLM, SamplingParams


def main(prompts: str, target: str) -> None:
    table = pads.dataset(prompts, format="parquet", partitioning=None, exclude_invalid_files=True)
    rows = table.to_table(columns=["task", "split", "id", "prompt"]).to_pylist()
    llm = LLM(
        model="data/demo/model",
        dtype="float32",
        max_model_len=1024,
        enforce_eager=True,
        max_num_seqs=64,
        seed=1234,
        kv_cache_memory_bytes=1 << 30,
        disable_log_stats=True,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=192, stop=["<|im_end|>"], skip_special_tokens=False)
    outputs = llm.generate([row["prompt"] for row in rows], sampling)
    found = {
        f"{row['task']}/{row['split']}/{row['id']}": [
            each.outputs[0].text,
            each.outputs[0].finish_reason,
            len(each.outputs[0].token_ids),
        ]
        for row, each in zip(rows, outputs, strict=True)
    }
    with open(target, "w", encoding="utf-8") as file:
        json.dump(found, file, ensure_ascii=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
