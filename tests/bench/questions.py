"""Makes the questions of a bench as the pipeline prepares them, with the forced length of each completion.

Each round has its own questions, so that an engine that lasts over several rounds has no prefixes in its cache. The
lengths are the same in all rounds, in another random order. The questions are in the order in which the generate stage
starts them without history, so that all ways that know no lengths use the same order.

In: a `Bench`. Out: for each size and round `<directory>/<size>/round-<n>/` with a prompts artifact, and with
`questions.parquet`, `warm_up.parquet` and `alone.parquet` of `SCHEMA`.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bench.settings import ROOT, Bench, Size

from pipeline.prepare.stage import prepare
from pipeline.records import PROMPT_SCHEMA
from pipeline.storage.artifacts import ArtifactStore

SEED = 1234
NOISE = 0.35
"""Standard deviation of log(length in history / length now); with sigma 1 the lengths correlate with 0.91."""

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("num_tokens_before", pa.int32(), nullable=False),
    ]
)
"""`name` is the row's `task/split/id`; `num_tokens` is forced, `num_tokens_before` is its length in history."""


def lengths(size: Size, count: int) -> list[int]:
    """Return the lengths of `count` completions, ascending: the quantiles of the size's lognormal, clipped."""
    normal = NormalDist(math.log(size.median_tokens), size.sigma)
    quantiles = (normal.inv_cdf((number + 0.5) / count) for number in range(count))
    return [round(min(max(math.exp(each), size.min_tokens), size.max_tokens)) for each in quantiles]


def make_questions(bench: Bench) -> None:
    """Write the questions of every size and round."""
    per_round = max(size.num_questions + size.num_warm_up + size.num_alone for size in bench.sizes)
    write_data_set(bench.directory / "questions", per_round * bench.rounds)
    config = bench.config(bench.sizes[0], "output_dir=" + str(bench.directory))
    run = ArtifactStore.open(str(bench.directory / "prepared"))
    run.create()
    prepare(config, run)
    prompts = run.require_artifact("prompts", PROMPT_SCHEMA).dataset().to_table().sort_by("id")
    for size in bench.sizes:
        for number in range(bench.rounds):
            part = prompts.slice(number * per_round, per_round)
            _write_round(bench.directory / size.name / f"round-{number}", size, part, random.Random(SEED + number))


def write_data_set(directory: Path, count: int) -> None:
    """Write a data set of `count` questions like the demo's, without a train split."""
    sys.path.insert(0, str(ROOT / "data" / "demo"))
    from generate import training_examples

    directory.mkdir(parents=True, exist_ok=True)
    rows: Iterable[dict[str, Any]] = (example.row for example in islice(training_examples(SEED, ()), count))
    with (directory / "test.jsonl").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows, start=1):
            row["meta"]["id"] = number
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_round(directory: Path, size: Size, prompts: pa.Table, rng: random.Random) -> None:
    tokens = lengths(size, size.num_questions)
    rng.shuffle(tokens)
    before = [max(1, round(each * math.exp(rng.gauss(0.0, NOISE)))) for each in tokens]
    questions = as_started(prompts.slice(0, size.num_questions))
    warm_up = prompts.slice(size.num_questions, size.num_warm_up)
    one_at_a_time = prompts.slice(size.num_questions + size.num_warm_up, size.num_alone)
    run = ArtifactStore.open(str(directory))
    run.create()
    with run.publish("prompts", PROMPT_SCHEMA) as store:
        store.write_parquet("task=bench/split=test/part-00000.parquet", PROMPT_SCHEMA, [questions])
    _write(directory / "questions.parquet", questions, tokens, before)
    short = [min(each, round(size.median_tokens)) for each in lengths(size, size.num_warm_up)]
    _write(directory / "warm_up.parquet", warm_up, short, short)
    evenly = lengths(size, size.num_alone)
    _write(directory / "alone.parquet", one_at_a_time, evenly, evenly)


def as_started(prompts: pa.Table) -> pa.Table:
    """Return the prompts, longest first, as `pipeline.generate.work_list` sorts them when it knows no lengths."""
    return prompts.sort_by([("num_prompt_tokens", "descending"), ("id", "ascending")])


def _write(file: Path, prompts: pa.Table, num_tokens: list[int], before: list[int]) -> None:
    columns = prompts.select(["task", "split", "id"]).to_pylist()
    names = [f"{row['task']}/{row['split']}/{row['id']}" for row in columns]
    token_ids = prompts.column("prompt_token_ids")
    pq.write_table(pa.table([names, token_ids, num_tokens, before], schema=SCHEMA), file)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of one of the files, keyed as in `SCHEMA`."""
    rows: list[dict[str, Any]] = pq.read_table(file, schema=SCHEMA).to_pylist()
    return rows
