"""One way of driving vLLM in a process of its own: `python -m bench.child <way> <folder> <size> words...`.

On standard input it is told a round's directory a line; on standard output it answers a line of JSON a round, after
one for its start. What it and vLLM print besides goes to standard error. It ends when its input does.
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
    """A running way; its module's `start(config)` makes it."""

    engine_start_s: float | None
    """Seconds until the engine could generate; None where the engine starts with each round."""

    def run(self, way: str, directory: Path) -> dict[str, Any]:
        """Warm up, generate a round's questions, and put the rows on disk.

        Returns:
            `seconds` from the first request's start, at `began` of `time.monotonic()`, to the last row on disk,
            `num_tokens` generated in them, `num_rows`, and where the engine starts with the round `engine_start_s`.
        """

    def close(self) -> None:
        """End the engine."""


def write_rows(directory: Path, way: str, rows: list[tuple[str, str, int]]) -> None:
    """Put a way's rows (name, text, number of tokens) on disk as Parquet."""
    names, texts, counts = zip(*rows, strict=True)
    file = directory / f"{way}.parquet"
    pq.write_table(pa.table({"name": names, "text": texts, "num_tokens": counts}), file, compression="zstd")
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def sampling(num_tokens: int) -> dict[str, Any]:
    """Return the sampling that yields exactly so many tokens, greedily, in vLLM's words."""
    return {"temperature": 0.0, "max_tokens": num_tokens, "ignore_eos": True, "skip_special_tokens": False}


def check(way: str, wanted: dict[str, int], got: dict[str, int]) -> None:
    """Raise when a row is missing or not as long as it was to be: its time would mean nothing."""
    if wanted != got:
        wrong = next(name for name in {**wanted, **got} if wanted.get(name) != got.get(name))
        raise RuntimeError(f"{way}: {wrong} has {got.get(wrong)} tokens, not {wanted.get(wrong)}")


def main(words: list[str]) -> None:
    name, size_name, *rest = words
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
