"""Plain `vllm.LLM` on the prompts of a run: `python -m gpu_check.plain <run's directory> <answers.json>`.

It generates all rows twice: first in a random order, which is the warm-up and shows how many rows another order alone
changes, then in the pipeline's order, which is timed. Then it measures a step with all slots filled, and memory.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from bench.questions import as_started

from pipeline.config import loading
from pipeline.config.schema import Config
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

SEED = 1234
SHORT, LONG = 16, 144
"""Tokens of each sequence in the two passes whose difference is the time of `LONG - SHORT` steps."""


def memory(worker: Any) -> dict[str, int]:
    """Return the bytes of the weights in a worker of vLLM, and on a GPU its whole memory and what of it is in use."""
    import torch

    found = {"weights": sum(each.numel() * each.element_size() for each in worker.get_model().parameters())}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found |= {"total": total, "used": total - free}
    return found


class Plain:
    """`vllm.LLM` with the arguments that the pipeline gives its engine, written down a second time."""

    def __init__(self, config: Config, num_batched_tokens: int | None) -> None:
        from vllm import LLM

        model, engine = config.model, config.engine
        arguments = {
            "model": model.path,
            "revision": model.revision,
            "dtype": model.dtype,
            "max_model_len": model.context_size,
            "trust_remote_code": model.trust_remote_code,
            "seed": config.seed,
            "tensor_parallel_size": engine.tensor_parallel_size,
            "pipeline_parallel_size": engine.pipeline_parallel_size,
            "max_num_seqs": engine.max_num_seqs,
            "gpu_memory_utilization": engine.gpu_memory_utilization,
            "disable_log_stats": True,
            "max_num_batched_tokens": num_batched_tokens,  # vLLM's own default is larger in LLM than in AsyncLLM
        }
        began = time.monotonic()
        self._config = config
        self._llm = LLM(**{**arguments, **engine.extra})
        self.engine_start_s = time.monotonic() - began

    def generate(self, rows: list[dict[str, Any]]) -> tuple[dict[str, list[Any]], float]:
        """Return text, finish reason and number of tokens by the row's name, and the seconds that all took."""
        from vllm import SamplingParams

        from pipeline.generate.engines.reasoning import make_parser, parser_class_of

        parser = make_parser(self._config, parser_class_of(self._config), self._llm.get_tokenizer())
        generation = self._config.generation
        params = SamplingParams(
            temperature=0.0,
            max_tokens=generation.max_gen_toks,
            stop=list(generation.until),
            skip_special_tokens=parser.drops_special_tokens,
        )
        self._llm.reset_prefix_cache()
        began = time.monotonic()
        outputs = self._outputs(rows, params)
        seconds = time.monotonic() - began
        found = {
            row["name"]: [out.text, out.finish_reason, len(out.token_ids)]
            for row, out in zip(rows, outputs, strict=True)
        }
        return found, seconds

    def step_s(self, rows: list[dict[str, Any]]) -> float:
        """Return the seconds of one step in which every row has a slot and is decoded."""
        from vllm import SamplingParams

        took = []
        for num_tokens in (SHORT, LONG):
            self._llm.reset_prefix_cache()
            began = time.monotonic()
            self._outputs(rows, SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True))
            took.append(time.monotonic() - began)
        return (took[1] - took[0]) / (LONG - SHORT)

    def _outputs(self, rows: list[dict[str, Any]], params: Any) -> list[Any]:
        prompts = [{"prompt_token_ids": row["prompt_token_ids"]} for row in rows]
        return [each.outputs[0] for each in self._llm.generate(prompts, params, use_tqdm=False)]

    def memory(self) -> list[dict[str, int]]:
        """Return `memory` of each worker."""
        found: list[dict[str, int]] = self._llm.collective_rpc(memory)
        return found


def main(directory: str, target: str) -> None:
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # for the function `memory`
    run = ArtifactStore.open(directory)
    config = loading.load(run.read_text("config.yaml"), run.path("config.yaml"))
    prompts = run.require_artifact("prompts", PROMPT_SCHEMA).dataset().to_table()
    columns = ["task", "split", "id", "prompt_token_ids", "num_prompt_tokens"]
    rows = as_started(prompts).select(columns).to_pylist()
    rows = [row | {"name": f"{row['task']}/{row['split']}/{row['id']}"} for row in rows if row["prompt_token_ids"]]
    engines = json.loads(run.read_text("manifest.json")).get("engine") or {}
    budgets = [info.get("max_num_batched_tokens") for info in engines.values()]
    plain = Plain(config, next(iter(budgets), None))
    shuffled, _ = plain.generate(random.Random(SEED).sample(rows, len(rows)))
    answers, seconds = plain.generate(rows)
    in_step = rows[: config.engine.max_num_seqs]
    found = {
        "engine_start_s": plain.engine_start_s,
        "answers": answers,
        "num_same_shuffled": sum(shuffled[name] == answer for name, answer in answers.items()),
        "seconds": seconds,
        "num_output_tokens": sum(answer[2] for answer in answers.values()),
        "step_s": plain.step_s(in_step),
        "step_sequences": len(in_step),
        "step_prompt_tokens": sum(row["num_prompt_tokens"] for row in in_step) / len(in_step),
        "memory_bytes": plain.memory(),
    }
    Path(target).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
