"""The simulation of makespan.py, played for real: Ray, 8 replicas on pretended GPUs, engines that only sleep.

    PYTHONPATH=tests .venv/bin/python -m bench.feeding        # three orders of 1,142 rows, 5 minutes

An eighth of the night: 8 slots a replica, a token takes 2 ms. What is printed is the time from the first row's start to
the last one's end over the bound of the simulation, and what the simulation says for the same rows.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import ray
from bench.makespan import Cluster, lengths_of, makespan
from builders import Counting, make_prompt, publish_prompts

from pipeline.compose import compose
from pipeline.generate import history, job
from pipeline.generate.cluster import Placement
from pipeline.generate.engine import Engine, Output, Request
from pipeline.generate.history import Lengths
from pipeline.generate.portions import Portions
from pipeline.records import Prompt
from pipeline.store import Folder

NUM_ROWS, NUM_REPLICAS, SLOTS, SPREAD = 1_142, 8, 8, 1.0
TOKEN_S = 0.002
ORDERS = {"file order": 0.0, "history, correlation 0.9": 0.9, "perfect oracle": 1.0}


@dataclass(frozen=True)
class Sleepers:
    """Starts engines that sleep as long as a question says, and write when they began and ended."""

    folder: str

    def __call__(self) -> Engine:
        return Sleeper(Path(self.folder) / f"{os.getpid()}.txt")


class Sleeper:
    def __init__(self, file: Path) -> None:
        self._file = file
        self.facts: dict[str, str | int | float] = {"engine": "sleeper"}

    async def generate(self, request: Request) -> Output:
        found = re.search(r"(\d+) tokens", request.messages)
        assert found is not None
        began = time.monotonic()
        await asyncio.sleep(int(found[1]) * TOKEN_S)
        with self._file.open("a") as file:
            file.write(f"{began} {time.monotonic()}\n")
        return Output(
            completion="A",
            reasoning=None,
            content="A",
            finish_reason="stop",
            num_prompt_tokens=1,
            num_output_tokens=int(found[1]),
        )

    def close(self) -> None:
        return None


def main() -> None:
    ray.init(address="local", num_cpus=2, num_gpus=NUM_REPLICAS, log_to_driver=False, include_dashboard=False)
    placement = Placement(num_replicas=NUM_REPLICAS, gpus_per_replica=1, num_gpus=NUM_REPLICAS, gpu_type=None)
    cluster = Cluster(num_replicas=NUM_REPLICAS, slots=SLOTS, portions=Portions.of(NUM_ROWS, SLOTS, NUM_REPLICAS))
    print("| | measured / bound | simulated / bound |\n|---|---|---|")
    for name, correlation in ORDERS.items():
        rng = np.random.default_rng(0)
        scores = rng.standard_normal(NUM_ROWS)
        guess = correlation * scores + np.sqrt(1 - correlation**2) * rng.standard_normal(NUM_ROWS)
        tokens, guesses = lengths_of(scores, SPREAD), lengths_of(guess, SPREAD)
        with tempfile.TemporaryDirectory() as place:
            measured_s = play(Path(place), tokens.astype(int).tolist(), guesses.tolist(), placement)
        order = tokens[np.argsort(-guesses, kind="stable")].tolist()
        bound = cluster.bound(order)
        print(f"| {name} | {measured_s / TOKEN_S / bound:.3f} | {makespan(order, cluster) / bound:.3f} |", flush=True)
    ray.shutdown()


def play(place: Path, tokens: list[int], guesses: list[float], placement: Placement) -> float:
    """Generate rows of these lengths in the order of the guesses; return the seconds from first start to last end."""
    prompts = [make_prompt(number, question=f"{each} tokens") for number, each in enumerate(tokens)]
    run = Folder.open(str(place / "run=feeding"))
    publish_prompts(run, prompts)
    folder = place / "times"
    folder.mkdir()
    config = compose(["conf=demo", "engine.replicas=auto", f"engine.max_num_seqs={SLOTS}"])
    job.generate(config, run, placement, Sleepers(str(folder)), Counting(), Counting(), lengths_by(prompts, guesses))
    lines = [line.split() for file in folder.iterdir() for line in file.read_text().splitlines()]
    assert len(lines) == len(tokens)
    return max(float(ended) for _, ended in lines) - min(float(began) for began, _ in lines)


def lengths_by(prompts: list[Prompt], guesses: list[float]) -> Lengths:
    """Return what an earlier run would tell that had made these lengths."""
    asked = pa.table({"sha": [prompt.prompt_sha256 for prompt in prompts], "tokens": guesses})
    with duckdb.connect() as database:
        database.register("asked", asked)
        table = database.sql("SELECT hash(sha)::UBIGINT AS prompt, tokens::FLOAT AS tokens FROM asked").to_arrow_table()
    return Lengths(
        run_id="guess", by_prompt=table.cast(history.PROMPT_LENGTHS), by_task=history.TASK_LENGTHS.empty_table()
    )


if __name__ == "__main__":
    main()
