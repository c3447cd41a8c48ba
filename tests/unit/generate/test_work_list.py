"""The work list: which rows are in it and in which order they start."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest
from builders import completed, make_prompt, publish_past_run, settings
from hypothesis import given
from hypothesis import strategies as st

from pipeline.generate import length_estimates, work_list
from pipeline.generate.length_estimates import Lengths
from pipeline.generate.work_list import Work, write_work
from pipeline.records import PROMPT_SCHEMA, Prompt
from pipeline.storage.artifacts import Artifact, ArtifactStore

Make = Callable[[list[Prompt]], ArtifactStore]


def prompts_of(run: ArtifactStore) -> Artifact:
    return run.require_artifact("prompts", PROMPT_SCHEMA)


def rows(run: ArtifactStore, work: Work) -> list[dict[str, Any]]:
    return [row for name in work.files for row in pq.read_table(run.path(name)).to_pylist()]


def ids(run: ArtifactStore, work: Work) -> list[int]:
    return [row["id"] for row in rows(run, work)]


def known(run: ArtifactStore, tokens: dict[int, int]) -> Lengths:
    """Return the lengths that a past run recorded for these ids of the run's prompts."""
    output = ArtifactStore.open(run.root).child("past")
    shas = {row["id"]: row["prompt_sha256"] for row in prompts_of(run).dataset().to_table().to_pylist()}
    publish_past_run(output, "1", {shas[number]: [each] for number, each in tokens.items()})
    config = settings(f"output_dir={output.root}", "generation.max_gen_toks=10000")
    lengths, _ = length_estimates.find(config, prompts_of(run))
    assert lengths is not None
    return lengths


def questions(*lengths: int) -> list[Prompt]:
    return [make_prompt(number, question="x" * length) for number, length in enumerate(lengths)]


@pytest.mark.usefixtures("at_root")
class TestWithHistory:
    def test_rows_start_in_the_order_of_their_own_lengths(self, run_with_prompts: Make) -> None:
        run = run_with_prompts(questions(9, 8, 7, 6))
        work = write_work(run, prompts_of(run), [], 1, known(run, {0: 20, 1: 900, 2: 5, 3: 10_000}))
        assert ids(run, work) == [3, 1, 0, 2]
        assert (work.num_rows, work.num_known, work.history) == (4, 4, "1")
        assert work.order == "longest first by run 1, which has answered 4 of 4"

    def test_a_new_prompt_is_placed_at_the_mean_of_its_task(self, run_with_prompts: Make) -> None:
        run = run_with_prompts(questions(9, 8, 7))
        work = write_work(run, prompts_of(run), [], 1, known(run, {0: 10, 1: 90}))
        assert ids(run, work) == [1, 2, 0]
        assert work.num_known == 2

    def test_a_new_prompt_is_placed_at_the_mean_of_its_split_task_or_all(self, run_with_prompts: Make) -> None:
        prompts = questions(1, 2, 3, 4)
        prompts[1] = replace(prompts[1], split="train")
        prompts[2] = replace(prompts[2], task="med_bench")
        run = run_with_prompts(prompts)
        lengths = known(run, {0: 50})
        means = {("agro_bench", "test"): 1.0, ("agro_bench", None): 2.0, (None, None): 3.0}
        columns = [[task for task, _ in means], [split for _, split in means], list(means.values())]
        table = length_estimates.TASK_LENGTHS.empty_table().from_arrays(columns, schema=length_estimates.TASK_LENGTHS)
        work = write_work(run, prompts_of(run), [], 1, replace(lengths, by_task=table))
        assert ids(run, work) == [0, 2, 1, 3]

    def test_rows_of_equal_length_are_ordered_by_prompt_length_and_then_by_id(self, run_with_prompts: Make) -> None:
        texts = ["b 1", "a 22", "b 2", "a 33", "c 333"]
        run = run_with_prompts([make_prompt(number, question=text) for number, text in enumerate(texts)])
        work = write_work(run, prompts_of(run), [], 1, known(run, dict.fromkeys(range(5), 7)))
        assert ids(run, work) == [4, 1, 3, 0, 2]

    def test_the_repeats_of_a_prompt_are_adjacent(self, run_with_prompts: Make) -> None:
        run = run_with_prompts(questions(3, 3))
        work = write_work(run, prompts_of(run), [], 3, known(run, {0: 5, 1: 6}))
        assert [(row["id"], row["repeat"]) for row in rows(run, work)] == [(i, r) for i in (1, 0) for r in range(3)]
        assert (work.num_rows, work.num_known) == (6, 6)


def test_the_number_of_repeats_may_differ_by_split(run_with_prompts: Make) -> None:
    prompts = questions(2, 1, 0)
    run = run_with_prompts([replace(prompts[0], split="train"), prompts[1], replace(prompts[2], error="too long")])
    work = write_work(run, prompts_of(run), [completed(0, repeat=1)], {"train": 3})
    assert [(row["id"], row["repeat"]) for row in rows(run, work)] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert work.num_rows == 4


def test_without_history_the_longest_prompt_starts_first(run_with_prompts: Make) -> None:
    run = run_with_prompts(questions(3, 9, 1, 5))
    work = write_work(run, prompts_of(run), [], 1)
    assert ids(run, work) == [1, 3, 0, 2]
    assert (work.history, work.num_known) == (None, 0)
    assert work.order == "no earlier run has their lengths: longest prompts first"


def test_prompts_are_ordered_by_tokens_where_known_rather_than_by_characters(run_with_prompts: Make) -> None:
    prompts = [
        replace(prompt, num_prompt_tokens=number, prompt_token_ids=[7] * number)
        for number, prompt in enumerate(questions(9, 8, 7))
    ]
    run = run_with_prompts(prompts)
    found = rows(run, write_work(run, prompts_of(run), [], 1))
    assert [row["prompt_token_ids"] for row in found] == [[7, 7], [7], []]
    assert {row["messages"] for row in found} == {None}


def test_finished_rows_and_prompts_that_cannot_be_sent_are_left_out(run_with_prompts: Make) -> None:
    prompts = questions(3, 3, 3, 3)
    prompts[2] = replace(prompts[2], error="too long")
    run = run_with_prompts(prompts)
    finished = [
        completed(0, repeat=0, prompt_sha256=prompts[0].prompt_sha256),
        completed(1, repeat=1, prompt_sha256="another prompt that had this id"),
        completed(3, repeat=1, prompt_sha256=prompts[3].prompt_sha256),
    ]
    found = rows(run, write_work(run, prompts_of(run), iter(finished), 2))
    assert [(row["id"], row["repeat"]) for row in found] == [(0, 1), (1, 0), (1, 1), (3, 0)]


def test_without_remaining_rows_no_file_is_written(run_with_prompts: Make) -> None:
    run = run_with_prompts([make_prompt(0, error="too long")])
    work = write_work(run, prompts_of(run), [], 1)
    assert (list(work.files), work.num_rows) == ([], 0)
    assert not run.exists("work")


def test_more_rows_than_are_sorted_at_once_are_in_the_same_order(
    run_with_prompts: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = questions(*(int(hashlib.sha256(bytes([n % 256, n // 256])).hexdigest(), 16) % 90 for n in range(600)))
    run = run_with_prompts(prompts)
    at_once = rows(run, write_work(run, prompts_of(run), [], 1))
    monkeypatch.setattr(work_list, "ROWS_PER_PARTITION", 50)
    work = write_work(run, prompts_of(run), [], 1)
    assert len(work.files) > 10
    assert rows(run, work) == at_once


ranks_of_rows = st.dictionaries(st.integers(0, 10_000), st.integers(1, 60_000), min_size=1).map(
    lambda counts: sorted(counts.items(), reverse=True)
)


@given(ranks_of_rows)
def test_partitions_hold_few_rows_or_a_single_rank_and_cover_all_rows(ranks: list[tuple[int, int]]) -> None:
    lowest = work_list._lowest_ranks(ranks)
    assert sum(lowest.values()) == sum(num_rows for _, num_rows in ranks)
    assert list(lowest) == sorted(lowest, reverse=True)
    highest = ranks[0][0]
    for low, num_rows in lowest.items():
        inside = [count for rank, count in ranks if low <= rank <= highest]
        assert sum(inside) == num_rows
        assert num_rows <= work_list.ROWS_PER_PARTITION or len(inside) == 1 or len(lowest) > 20
        highest = low - 1


def test_a_work_file_has_the_columns_that_a_replica_reads(run_with_prompts: Make) -> None:
    run = run_with_prompts(questions(1))
    work = write_work(run, prompts_of(run), [], 1)
    assert pq.read_schema(run.path(work.files[0])).equals(work_list.WORK_SCHEMA)
