"""The choice of questions is the same in every run, and the changes of the second pass are counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq
import pytest
from archives import MakeRun, completion, finish
from builders import record_manifest
from pairs import train, wrong

from pipeline.comparison import noise
from pipeline.config.loading import dump, load
from pipeline.errors import RunError
from pipeline.generate import work_list
from pipeline.records import PROMPT_SCHEMA
from pipeline.runs import directory as run_directory
from pipeline.runs.manifest import Noise
from pipeline.runs.manifest import dump as dump_record


def test_the_choice_has_the_share_and_a_larger_share_is_a_superset() -> None:
    keys = [("agro_bench", "test", number) for number in range(4_000)]
    tenth, half = ({key for key in keys if noise.is_chosen(*key, share=share)} for share in (0.1, 0.5))
    assert len(tenth) == pytest.approx(400, abs=60)
    assert len(half) == pytest.approx(2_000, abs=100)
    assert tenth < half
    assert not any(noise.is_chosen(*key, share=0) for key in keys)
    assert all(noise.is_chosen(*key, share=1) for key in keys)


@pytest.mark.parametrize("repeats", ["2", "{train: 2, test: 1}"])
def test_the_second_pass_is_compared_with_the_first_repeat(make_run: MakeRun, repeats: str) -> None:
    prompts = train(10) + train(10, "med_bench")

    def first(prompt: dict[str, Any], repeat: int) -> Any:
        return completion(prompt, repeat, "B" if repeat == 0 else "A")

    run = make_run("one", prompts, f"generation.repeats={repeats}", reply=first)
    config = load(dump(run.config), "config.yaml", ["noise.share=1"])
    store = noise.choose(config, run.store)
    finish(store, noise.second(config), wrong(0, 1, 2))
    found = noise.measure(config, run.store, run.manifest)
    assert (found.num_questions, found.num_changed) == (20, 6)
    assert found.variance["correct"] == pytest.approx(0.3)
    # Two domains of one task each: the weight of each task is one half.
    # With 2 repeats the mean of a question changes with half of the variance.
    assert found.variance_by_task == {"agro_bench": pytest.approx(0.3), "med_bench": pytest.approx(0.3)}
    assert found.spread == {"train": pytest.approx((2 * 0.25 * 0.3 / 10 / 2) ** 0.5)}
    assert found.spread_upper["train"] > found.spread["train"]
    line = noise.line(found)
    assert line.startswith(
        "noise: of 20 questions generated a second time 6 (30.0%, at most 50.8%) have another response"
    )


def test_questions_with_a_reference_answer_are_chosen_first(make_run: MakeRun) -> None:
    prompts = train(100) + [replace(each, id=each.id + 100, gold=None) for each in train(300)]
    run = make_run("one", prompts)
    for share, labelled, others in ((0.1, 40, 0), (0.5, 100, 100)):
        store = noise.choose(load(dump(run.config), "config.yaml", [f"noise.share={share}"]), run.store)
        golds = store.require_artifact("prompts", PROMPT_SCHEMA).dataset().to_table(["gold"])["gold"]
        assert len(golds) - golds.null_count == pytest.approx(labelled, abs=0 if labelled == 100 else 20)
        assert golds.null_count == pytest.approx(others, abs=0 if others == 0 else 30)


def test_no_changed_answer_of_a_few_is_reported_with_its_bound() -> None:
    assert noise.upper_bound(0, 45) == pytest.approx(0.0644, abs=1e-4)
    found = Noise(
        share=0.1,
        num_questions=45,
        num_changed=0,
        variance={},
        spread={"train": 0.0},
        changed_upper=0.0644,
        spread_upper={"train": 0.0379},
    )
    assert noise.line(found) == (
        "noise: of 45 questions generated a second time 0 (0.0%, at most 6.4%) have another response; between two runs "
        "of this model the score moves by at most 0.0379 (train), one standard deviation"
    )


def test_prompts_are_chosen_for_another_share_and_reused_for_the_same_share(make_run: MakeRun) -> None:
    run = make_run("one", train(200))
    num_rows = []
    for share in ("0.5", "0.1", "0.1"):
        store = noise.choose(load(dump(run.config), "config.yaml", [f"noise.share={share}"]), run.store)
        num_rows.append(store.require_artifact("prompts", PROMPT_SCHEMA).num_rows)
        store.write_text("mark", share)
    assert num_rows[0] > 2 * num_rows[1] > 0
    assert num_rows[1] == num_rows[2]


def test_a_choice_without_questions_is_reported() -> None:
    found = Noise(share=0.1, num_questions=0, num_changed=0, num_failed=0, variance={}, spread={})
    assert noise.line(found) == "noise: no question was answered twice: none was chosen, raise noise.share"


def test_a_failed_row_is_not_a_changed_response_and_can_be_retried(make_run: MakeRun) -> None:
    def failing(*ids: int) -> Any:
        return lambda prompt, repeat: completion(
            prompt, repeat, None if prompt["id"] in ids else "B", "the engine died" if prompt["id"] in ids else None
        )

    run = make_run("one", train(10), reply=failing(0))
    config = load(dump(run.config), "config.yaml", ["noise.share=1", "max_failed_rows=1"])
    finish(noise.choose(config, run.store), noise.second(config), failing(1, 2))
    found = noise.measure(config, run.store, run.manifest)
    assert (found.num_questions, found.num_changed, found.num_failed) == (7, 0, 2)
    assert noise.line(found).endswith("; 2 rows of the second pass failed")
    record_manifest(run.store, "complete", counts={"num_failed": 0}, noise=dump_record(found))
    with pytest.raises(RunError, match=r"and 2 rows failed: run\.retry_failed=true tries these again"):
        run_directory.begin(run.store, config)
    run_directory.begin(run.store, replace(config, run=replace(config.run, retry_failed=True)))


def test_the_order_of_the_second_pass_does_not_depend_on_the_length(make_run: MakeRun) -> None:
    run = make_run("one", [replace(each, num_prompt_tokens=each.id) for each in train(50)]).store
    prompts = run.require_artifact("prompts", PROMPT_SCHEMA)

    def ids(**how: bool) -> list[int]:
        work = work_list.write_work(run, prompts, [], 1, **how)
        (table,) = [pq.read_table(run.path(name)) for name in work.files]
        found: list[int] = table["id"].to_pylist()
        return found

    assert ids() == list(range(49, -1, -1))
    shuffled = ids(shuffled=True)
    assert sorted(shuffled) == list(range(50))
    assert shuffled == ids(shuffled=True)
    assert sum(left > right for left, right in pairwise(shuffled)) == pytest.approx(25, abs=10)
