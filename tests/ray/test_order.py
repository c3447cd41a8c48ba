"""Rows start in the order of the work list, and a run learns the order from the previous one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import Counting, Started, make_prompt, publish_past_run, settings
from scripted import ScriptedFactory

from pipeline.generate import length_estimates, work_list
from pipeline.generate import stage as generate_stage
from pipeline.generate.blocks import ROWS_AT_ONCE, ROWS_FOR_ONE_REPLICA
from pipeline.generate.cluster import cluster
from pipeline.records import PROMPT_SCHEMA, Prompt
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

Make = Callable[[list[Prompt]], ArtifactStore]


def test_rows_start_in_the_order_of_the_work_list_over_all_its_files(
    run_with_prompts: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_list, "ROWS_PER_PARTITION", 40)
    prompts = [make_prompt(number) for number in range(200)]
    tokens = {prompt.prompt_sha256: [1 + prompt.id * 7919 % 200] for prompt in prompts}
    output = ArtifactStore.open(str(tmp_path / "outputs"))
    publish_past_run(output, "1", {prompt: [each] for prompt, (each,) in tokens.items()})
    config = settings(f"output_dir={output.root}", "engine.endpoint.concurrency=1", "generation.max_gen_toks=10000")
    requests, progress = tmp_path / "requests", Counting()
    run = run_with_prompts(prompts)
    lengths, _ = length_estimates.find(config, run.require_artifact("prompts", PROMPT_SCHEMA))
    with cluster(config) as placement:
        generate_stage.generate(
            config, run, placement, ScriptedFactory(seconds=0.01, requests=str(requests)), progress, progress, lengths
        )
    started = [int(line.split("/")[2]) for line in requests.read_text().splitlines()]
    expected = sorted(range(200), key=lambda number: -tokens[prompts[number].prompt_sha256][0])
    assert sorted(started) == sorted(expected)
    # Blocks overtake each other. Waiting rows start by their places, but the first block may arrive after the second.
    late = max(abs(started.index(number) - place) for place, number in enumerate(expected))
    assert late <= min(ROWS_FOR_ONE_REPLICA)
    assert progress.order == "longest first by run 1, which has answered 200 of 200"


@pytest.mark.slow
def test_the_next_run_learns_from_another_models_run(tmp_path: Path) -> None:
    """A server renders the prompts, so the other model's are the same."""
    overrides = (f"output_dir={tmp_path}", "limit=5", "splits=[test]", "only=[med_bench]")
    known = {"num_known": 5, "num_rows": 5}
    server = "http://127.0.0.1:9/v1"
    for run_id, model, line, order in (
        ("one", "null", "no earlier run has their lengths", {"history": None, "num_known": 0, "num_rows": 5}),
        ("new", "new", f"longest first by run one of {server}, which", {"history": "one", "model": server, **known}),
    ):
        code, out, err = Started({}, f"run_id={run_id}", f"engine.endpoint.model={model}", *overrides).end(within_s=300)
        assert (code, err) == (0, "")
        assert f"generate: {line}" in out
        manifest = json.loads((tmp_path / f"run={run_id}" / "manifest.json").read_text())
        assert manifest["schedule"] == order


def test_a_missing_history_is_a_one_line_error(tmp_path: Path) -> None:
    overrides = (f"output_dir={tmp_path}", "limit=1", "run_id=one", "schedule.history=none-such")
    code, _, err = Started({}, *overrides).end(within_s=120)
    assert code == 2
    assert err.startswith("error: schedule.history='none-such': there is no run ")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_more_rows_than_the_replicas_and_ray_hold_at_once_all_arrive(run_with_prompts: Make) -> None:
    config, progress = settings("engine.endpoint.concurrency=16"), Counting()
    run = run_with_prompts([make_prompt(number) for number in range(3_000)])
    with cluster(config) as placement:
        generate_stage.generate(config, run, placement, ScriptedFactory(), progress, progress)
    assert progress.num_done == 3_000 > 2 * ROWS_AT_ONCE
