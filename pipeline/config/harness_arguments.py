"""The generation arguments in effect, named as in lm-evaluation-harness, the benchmark's reference implementation."""

from __future__ import annotations

from typing import Any

from pipeline.config.schema import GenerationConfig


def sampling(generation: GenerationConfig) -> dict[str, Any]:
    """Return temperature, top_p and top_k. Greedy decoding is temperature 0, whatever these keys are set to."""
    if not generation.do_sample:
        return {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
    return {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": generation.top_k}


def harness_arguments(generation: GenerationConfig) -> dict[str, Any]:
    """Return the harness's `generation_kwargs`, without temperature, top_p and top_k when decoding is greedy."""
    arguments = {
        "do_sample": generation.do_sample,
        "until": list(generation.until),
        "max_gen_toks": generation.max_gen_toks,
    }
    return arguments | sampling(generation) if generation.do_sample else arguments
