"""Measures what each choice in how rows are sent to vLLM is worth: one engine, one choice changed at a time.

    PYTHONPATH=tests .venv/bin/python -m bench.choices                      # about ten minutes on two cores
    PYTHONPATH=tests .venv/bin/python -m bench.choices rounds=2 num_questions=80

`AsyncLLM` is driven as in the generate stage, but without Ray, replica and journal. In each round every variant answers
the same questions with an empty prefix cache. The order of the variants changes from round to round, so that changes in
the machine's speed affect all of them. Out: a table of ratios: the geometric mean over the rounds of a variant's time
divided by the baseline's time in the same round, with its standard error. The first variant repeats the baseline: its
distance from 1 is noise.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any, TypeAlias

from bench.asleep import RayAsleep
from bench.child import sampling
from bench.models import make_models
from bench.questions import make_questions, read
from bench.settings import Bench, Size, engine_arguments, parse

Row: TypeAlias = dict[str, Any]

DEFAULTS = ("folder=outputs/choices", "sizes=demo", "num_questions=192", "rounds=12")


def shuffled(rows: list[Row]) -> list[Row]:
    """Return the rows in a random order that is the same each time."""
    return random.Random(1).sample(rows, len(rows))


def longest_first(rows: list[Row]) -> list[Row]:
    """Return the rows, longest completion first."""
    return sorted(rows, key=lambda row: -row["num_tokens"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How rows are sent to vLLM; the defaults are those of the generate stage, which admits as many rows as slots."""

    admits_all: bool = False
    order: Callable[[list[Row]], list[Row]] = list
    is_marked: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    next_to_ray: bool = False


STAGE = "as the stage does"
CHOICES = {
    STAGE: Choice(),
    "the same once more": Choice(),
    "admitted: all at once": Choice(admits_all=True),
    "order: shuffled": Choice(order=shuffled),
    "order: longest completion first": Choice(order=longest_first),
    "outputs: one for each token, not the last alone": Choice(sampling={"output_kind": "CUMULATIVE"}),
    "prompts: a bare list of ids": Choice(is_marked=False),
    "no text made of the tokens": Choice(sampling={"detokenize": False}),
    "beside a Ray Data pipeline that sleeps": Choice(next_to_ray=True),
}


class Engine:
    """An `AsyncLLM` in this process."""

    def __init__(self, bench: Bench, size: Size) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = engine_arguments(bench.config(size))
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, disable_log_stats=True))
        self._slots = size.max_num_seqs
        self._num_requests = 0

    async def seconds(self, choice: Choice, rows: list[Row]) -> tuple[float, float]:
        """Answer the rows; return the wall time and this process's CPU time, in seconds.

        Raises:
            RuntimeError: The number of generated tokens differs from the rows'.
        """
        await self._engine.reset_prefix_cache()
        semaphore = asyncio.Semaphore(len(rows) if choice.admits_all else self._slots)
        began, worked = time.monotonic(), time.process_time()
        counts = await asyncio.gather(*(self._answer(choice, row, semaphore) for row in choice.order(rows)))
        took = time.monotonic() - began, time.process_time() - worked
        if sum(counts) != sum(row["num_tokens"] for row in rows):
            raise RuntimeError(f"{sum(counts)} tokens instead of {sum(row['num_tokens'] for row in rows)}")
        return took

    async def _answer(self, choice: Choice, row: Row, semaphore: asyncio.Semaphore) -> int:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        overrides = {"output_kind": "FINAL_ONLY", **choice.sampling}
        overrides["output_kind"] = RequestOutputKind[overrides["output_kind"]]
        prompt: dict[str, Any] = {"prompt_token_ids": row["prompt_token_ids"]}
        if choice.is_marked:
            prompt["type"] = "token"
        async with semaphore:
            self._num_requests += 1
            params = SamplingParams(**sampling(row["num_tokens"]), **overrides)
            async for output in self._engine.generate(prompt, params, str(self._num_requests)):
                final = output
        return len(final.outputs[0].token_ids)

    def close(self) -> None:
        self._engine.shutdown()


def main(arguments: list[str]) -> None:
    bench = parse([*DEFAULTS, *arguments])
    (size,) = bench.sizes
    bench.directory.mkdir(parents=True, exist_ok=True)
    make_models(bench.directory / "models")
    make_questions(bench)
    with closing(Engine(bench, size)) as engine, closing(RayAsleep()) as ray_data:
        found = asyncio.run(_measure(bench, size, engine, ray_data))
    for line in table(found):
        print(line)


async def _measure(
    bench: Bench, size: Size, engine: Engine, ray_data: RayAsleep
) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CHOICES}
    for number in range(bench.rounds):
        directory = bench.directory / size.name / f"round-{number}"
        rows = read(directory / "questions.parquet")
        await engine.seconds(Choice(), read(directory / "warm_up.parquet"))
        for name in random.Random(number).sample(list(CHOICES), len(CHOICES)):
            choice = CHOICES[name]
            with ray_data.awake() if choice.next_to_ray else nullcontext():
                found[name].append(await engine.seconds(choice, rows))
        print(f"round {number + 1} of {bench.rounds}", file=sys.stderr, flush=True)
    return found


def table(found: Mapping[str, list[tuple[float, float]]]) -> Iterator[str]:
    """Yield the lines of the table: for each variant its mean ratio to the baseline and its median times."""
    yield "| variant | time / the stage's way | seconds | caller's processor seconds |"
    yield "|---|---:|---:|---:|"
    for name, passes in found.items():
        logs = [math.log(each[0] / base[0]) for each, base in zip(passes, found[STAGE], strict=True)]
        error = stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
        ratio = "1" if name == STAGE else f"{math.exp(mean(logs)):.3f} (+-{error:.3f})"
        seconds, worked = (median(each[at] for each in passes) for at in (0, 1))
        yield f"| {name} | {ratio} | {seconds:.2f} | {worked:.2f} |"


if __name__ == "__main__":
    main(sys.argv[1:])
