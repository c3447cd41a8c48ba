"""Compares two runs and writes compare.parquet, flips.parquet, compare.json and compare.html.

Memory does not grow with the questions: tasks and splits are paired one at a time, and flips are written as they are
read. compare.parquet and flips.parquet replace those of a previous comparison together, as the files of an artifact do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from pipeline.comparison import html
from pipeline.comparison.pairing import (
    ComparedRun,
    PairedOutcomes,
    SplitQuestions,
    flips,
    pair,
    require_same,
)
from pipeline.comparison.significance import Comparison, changes
from pipeline.comparison.verdict import as_json
from pipeline.records import CHANGE_SCHEMA, FLIP_SCHEMA, to_table
from pipeline.runs.directory import open_finished, require_complete
from pipeline.runs.environment_diff import Difference, differences
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

CHANGES_FILE = "compare.parquet"
FLIPS_FILE = "flips.parquet"
PAGE_FILE = "compare.html"
JSON_FILE = "compare.json"

MOST_ON_PAGE = 500
"""Maximum number of flipped questions on the page; flips.parquet has all."""


def compare_directories(base: str, new: str, out: str | None) -> tuple[Comparison, ArtifactStore]:
    """Compare the runs in two directories; return the comparison and the directory it was written to.

    Args:
        base: Path or URI of the baseline run.
        new: Path or URI of the new run.
        out: Output directory; by default `compare=<base>..<new>` next to the new run.

    Raises:
        RunError: A run does not exist or is not complete, or their questions differ.
        DataError: A file of the runs is damaged.
    """
    runs = _open(base, "base"), _open(new, "new")
    store = _default_output(*runs) if out is None else ArtifactStore.open(out)
    return compare(*runs, store), store


def _open(directory: str, argument: str) -> ComparedRun:
    store, config = open_finished(directory, argument=argument)
    return ComparedRun.of(store, config, require_complete(store))


def _default_output(base: ComparedRun, new: ComparedRun) -> ArtifactStore:
    parent = ArtifactStore(new.store.fs, new.store.root.rpartition("/")[0])
    return parent.child(f"compare={base.config.run_id}..{new.config.run_id}")


def compare(base: ComparedRun, new: ComparedRun, out: ArtifactStore) -> Comparison:
    """Compare two runs and write the result to `out`.

    Raises:
        Incomparable: The runs have different questions.
        RunError: `out` cannot be written.
        DataError: A file of the runs is damaged.
    """
    split_questions = require_same(base, new)
    out.create()
    with out.partial_files(FLIPS_FILE, CHANGES_FILE) as (flips_partial, changes_partial):
        with query.connection() as database:
            found: list[PairedOutcomes] = []
            first: list[pa.RecordBatch] = []
            batches = _pair_all(database, base, new, split_questions, found, first)
            num_flips = out.write_parquet(flips_partial, FLIP_SCHEMA, batches)
        domains = {name: task.domain for name, task in new.config.active_tasks.items()}
        single = base.is_single and new.is_single
        rows = changes(found, domains, single=single)
        table = to_table(rows, CHANGE_SCHEMA)
        out.write_parquet(changes_partial, table.schema, [table])
        comparison = Comparison(
            base=base,
            new=new,
            split_questions=split_questions,
            rows=rows,
            differences=_differences(base, new, split_questions),
            flipped=pa.Table.from_batches(first, schema=FLIP_SCHEMA).slice(0, MOST_ON_PAGE),
            num_flips=num_flips,
        )
        page_text = html.render(comparison, out)
    out.write_text(PAGE_FILE, page_text)
    out.write_text(JSON_FILE, json.dumps(as_json(comparison), ensure_ascii=False, indent=1))
    return comparison


def _pair_all(
    database: duckdb.DuckDBPyConnection,
    base: ComparedRun,
    new: ComparedRun,
    split_questions: Sequence[SplitQuestions],
    found: list[PairedOutcomes],
    first: list[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Yield every flip; append the paired outcomes to `found` and the flips for the page to `first`."""
    num_first = 0
    for each in split_questions:
        found.append(pair(database, base, new, each))
        for batch in flips(database, base, new, each):
            if num_first < MOST_ON_PAGE:
                first.append(batch)
                num_first += batch.num_rows
            yield batch


def _differences(base: ComparedRun, new: ComparedRun, questions: Sequence[SplitQuestions]) -> list[Difference]:
    """Return the differences in how the runs were made and scored, with the number of prompts whose text differs."""
    found = differences(base.recorded, new.recorded)
    then, now = (run.rules_version or "older rules: rescore it" for run in (base, new))
    if then != now:
        found.append(Difference(kind="scoring", name="rules that read the letters of `correct`", base=then, new=now))
    num_prompts = sum(each.num_other_prompts for each in questions)
    if num_prompts:
        what = f"{num_prompts:,} of {sum(each.num_questions for each in questions):,} questions"
        found.append(Difference(kind="template", name="prompt", base="its own", new=f"another text for {what}"))
    return sorted(found, key=lambda each: each.order)
