"""The questions of a bench, as the pipeline prepares them, and how long each completion is made.

Each round has questions of its own, so that no engine that lives through several finds their prefixes in its cache;
the lengths are the same in each, shuffled anew. The questions stand in the order in which the generate stage starts
them without history: ways that know no lengths have the same order, and none is luckier than another.

In: a `Bench`. Out, for each size and round,
`<folder>/<size>/round-<n>/`: a prompts stage, and `questions.parquet`, `warm_up.parquet` and
`alone.parquet` with `SCHEMA`.
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
"""Spread of the logarithm of (length in history / length now); with sigma 1 the lengths correlate with 0.91."""

SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("num_tokens_before", pa.int32(), nullable=False),
    ]
)
"""`name` is the row's `task/split/id`; `num_tokens` is forced, `num_tokens_before` is what history says of it."""


def lengths(size: Size, count: int) -> list[int]:
    """Return the lengths of `count` completions, ascending: the quantiles of the size's lognormal, clipped."""
    normal = NormalDist(math.log(size.median_tokens), size.sigma)
    quantiles = (normal.inv_cdf((number + 0.5) / count) for number in range(count))
    return [round(min(max(math.exp(each), size.min_tokens), size.max_tokens)) for each in quantiles]


def make_questions(bench: Bench) -> None:
    """Write the questions of every size and round."""
    per_round = max(size.num_questions + size.num_warm_up + size.num_alone for size in bench.sizes)
    _write_data_set(bench.directory / "questions", per_round * bench.rounds)
    config = bench.config(bench.sizes[0], "output_dir=" + str(bench.directory))
    run = ArtifactStore.open(str(bench.directory / "prepared"))
    run.create()
    prepare(config, run)
    prompts = run.require_artifact("prompts", PROMPT_SCHEMA).dataset().to_table().sort_by("id")
    for size in bench.sizes:
        for number in range(bench.rounds):
            part = prompts.slice(number * per_round, per_round)
            _write_round(bench.directory / size.name / f"round-{number}", size, part, random.Random(SEED + number))


def _write_data_set(directory: Path, count: int) -> None:
    sys.path.insert(0, str(ROOT / "data" / "demo"))
    from generate import training_examples

    directory.mkdir(parents=True, exist_ok=True)
    rows: Iterable[dict[str, Any]] = (example.row for example in islice(training_examples(SEED, ()), count))
    with (directory / "test.jsonl").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows, start=1):
            row["meta"]["id"] = number
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_round(directory: Path, size: Size, prompts: pa.Table, rng: random.Random) -> None:
    wanted = lengths(size, size.num_questions)
    rng.shuffle(wanted)
    before = [max(1, round(each * math.exp(rng.gauss(0.0, NOISE)))) for each in wanted]
    asked = as_started(prompts.slice(0, size.num_questions))
    warm_up = prompts.slice(size.num_questions, size.num_warm_up)
    alone = prompts.slice(size.num_questions + size.num_warm_up, size.num_alone)
    run = ArtifactStore.open(str(directory))
    run.create()
    with run.publish("prompts", PROMPT_SCHEMA) as stage:
        stage.write_parquet("task=bench/split=test/part-00000.parquet", PROMPT_SCHEMA, [asked])
    _write(directory / "questions.parquet", asked, wanted, before)
    short = [min(each, round(size.median_tokens)) for each in lengths(size, size.num_warm_up)]
    _write(directory / "warm_up.parquet", warm_up, short, short)
    evenly = lengths(size, size.num_alone)
    _write(directory / "alone.parquet", alone, evenly, evenly)


def as_started(prompts: pa.Table) -> pa.Table:
    """Return the prompts, longest first, as `pipeline.generate.work_list` sorts them when it knows no lengths."""
    return prompts.sort_by([("num_prompt_tokens", "descending"), ("id", "ascending")])


def _write(file: Path, prompts: pa.Table, wanted: list[int], before: list[int]) -> None:
    columns = prompts.select(["task", "split", "id"]).to_pylist()
    names = [f"{row['task']}/{row['split']}/{row['id']}" for row in columns]
    tokens = prompts.column("prompt_token_ids")
    pq.write_table(pa.table([names, tokens, wanted, before], schema=SCHEMA), file)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of one of the files, as `SCHEMA` names their fields."""
    rows: list[dict[str, Any]] = pq.read_table(file, schema=SCHEMA).to_pylist()
    return rows
