"""One way of driving vLLM in a separate process: `python -m bench.child <way> <size> <arguments>...`.

It prints a line of JSON after its start. Then it reads lines `<way> <round's directory>` from standard input and prints
a line of JSON for each. All other output, also vLLM's, goes to standard error. It ends at the end of its input.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from bench.settings import Size, parse
from bench.steps import taken

from pipeline.config.schema import Config

MODULES = {
    "plain": "bench.ways.plain",
    "pipeline": "bench.ways.stage",
    "history": "bench.ways.stage",
    "ray_llm": "bench.ways.ray_llm",
    "server_64": "bench.ways.server",
    "server_1": "bench.ways.server",
    "ceiling": "bench.ways.ceiling",
}


class Way(Protocol):
    """A running way of driving vLLM, made by its module's `start(config)`."""

    engine_start_s: float | None
    """Seconds until the engine was ready; None if each round starts its own engine."""

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        """Warm up, answer a round's questions, and write the rows to disk.

        Returns:
            `began`, the first request's start by `time.monotonic()`; `seconds` from there to the last row on disk;
            `num_rows` and `num_tokens` generated in that time; and `engine_start_s` if the round starts its engine.
        """

    def close(self) -> None:
        """End the engine."""


def write_rows(directory: Path, way: str, rows: list[tuple[str, str, int]]) -> None:
    """Write a way's rows (name, text, number of tokens) to disk as Parquet."""
    names, texts, counts = zip(*rows, strict=True)
    file = directory / f"{way}.parquet"
    pq.write_table(pa.table({"name": names, "text": texts, "num_tokens": counts}), file, compression="zstd")
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def sampling(num_tokens: int) -> dict[str, Any]:
    """Return vLLM's sampling parameters for greedy decoding of exactly `num_tokens` tokens."""
    return {"temperature": 0.0, "max_tokens": num_tokens, "ignore_eos": True, "skip_special_tokens": False}


def check(way: str, expected: dict[str, int], got: dict[str, int]) -> None:
    """Check the number of tokens of each row by name: with other lengths the time would be meaningless.

    Raises:
        RuntimeError: A row is missing or has another length than expected.
    """
    if expected != got:
        wrong = next(name for name in {**expected, **got} if expected.get(name) != got.get(name))
        raise RuntimeError(f"{way}: {wrong} has {got.get(wrong)} tokens, not {expected.get(wrong)}")


def main(arguments: list[str]) -> None:
    name, size_name, *rest = arguments
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    bench = parse(rest)
    size: Size = next(each for each in bench.sizes if each.name == size_name)
    config: Config = bench.config(size)
    way: Way = import_module(MODULES[name]).start(config)
    with closing(way):
        print(json.dumps({"engine_start_s": way.engine_start_s}), file=answers)
        for line in sys.stdin:
            way_name, directory = line.rstrip("\n").split(" ", 1)
            answer = way.run(way_name, Path(directory))
            steps = taken(Path(os.environ["BENCH_STEPS"]), answer["began"], answer["began"] + answer["seconds"])
            if not steps["num_steps"]:
                raise RuntimeError(f"{way_name}: vLLM's worker has noted no step in {os.environ['BENCH_STEPS']}")
            print(json.dumps(answer | steps), file=answers)


if __name__ == "__main__":
    main(sys.argv[1:])
