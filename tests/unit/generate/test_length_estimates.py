"""Which past run's lengths determine the order, and how runs that cannot be read are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import make_prompt, publish_past_run, publish_prompts, record_manifest, settings

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.generate import length_estimates, work_list
from pipeline.generate.length_estimates import Lengths
from pipeline.records import PROMPT_SCHEMA
from pipeline.runs import past_runs
from pipeline.runs.manifest import dump
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

OFF = ["schedule.other_models=false"]


@pytest.fixture
def output(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path))


def find(output: ArtifactStore, *overrides: str, prompts: Sequence[str] = ("a",)) -> tuple[Lengths | None, list[str]]:
    """Look for lengths for a run of the prompts with these `prompt_sha256`, of the revision "r" of the data set."""
    run = output.child("mine")
    run.remove()
    run.create()
    publish_prompts(
        run,
        [replace(make_prompt(number), prompt_sha256=sha) for number, sha in enumerate(prompts)],
        {"dataset_revision.agro_bench": "r"},
    )
    return length_estimates.find(config(output, *overrides), run.require_artifact("prompts", PROMPT_SCHEMA))


def config(output: ArtifactStore, *overrides: str) -> Config:
    return settings(f"output_dir={output.root}", *overrides)


def found(output: ArtifactStore, *overrides: str, prompts: Sequence[str] = ("a",)) -> Lengths | None:
    lengths, unread = find(output, *overrides, prompts=prompts)
    assert unread == []
    return lengths


def means(lengths: Lengths | None) -> dict[tuple[str | None, str | None], float]:
    assert lengths is not None
    return {(row["task"], row["split"]): row["tokens"] for row in lengths.by_task.to_pylist()}


def publish_other(
    output: ArtifactStore, run_id: str, tokens: dict[str, list[int | None]], *overrides: str, revision: str | None = "r"
) -> ArtifactStore:
    """Write a complete run of another model, with this revision of the data set."""
    run = publish_past_run(output, run_id, tokens, "engine.endpoint.model=other/model", *overrides)
    record_manifest(run, "complete", ended_at=run_id, datasets={"dataset_revision.agro_bench": revision})
    return run


def ranks(output: ArtifactStore, lengths: Lengths | None) -> tuple[list[int], work_list.Work]:
    """Return the ids of the prompts that `find` has published in the order of their work list, and the list."""
    run = output.child("mine")
    prompts = run.require_artifact("prompts", PROMPT_SCHEMA)
    work = work_list.write_work(run, prompts, [], 1, lengths)
    return [row for name in work.files for row in pq.read_table(run.path(name))["id"].to_pylist()], work


def test_without_a_past_run_there_are_no_lengths(output: ArtifactStore) -> None:
    assert found(output) is None


def test_a_null_history_disables_the_search(output: ArtifactStore) -> None:
    publish_past_run(output, "1", {"a": [10]})
    assert found(output, "schedule.history=null") is None


def test_lengths_are_means_over_repeats_without_failed_rows(output: ArtifactStore) -> None:
    publish_past_run(output, "1", {"a": [10, 30], "b": [None], "c": [100]})
    lengths = found(output)
    assert lengths is not None
    assert sorted(lengths.by_prompt.column("tokens").to_pylist()) == [20, 100]
    mean = pytest.approx(140 / 3)
    assert means(lengths) == {("agro_bench", "test"): mean, ("agro_bench", None): mean, (None, None): mean}


def test_a_length_is_capped_by_this_runs_limit(output: ArtifactStore) -> None:
    publish_past_run(output, "1", {"a": [500]})
    lengths = found(output, "generation.max_gen_toks=64")
    assert lengths is not None
    assert lengths.by_prompt.column("tokens").to_pylist() == [64]


def test_latest_is_the_newest_complete_run(output: ArtifactStore) -> None:
    for run_id in ("1", "3", "2"):
        publish_past_run(output, run_id, {"a": [10]})
    record_manifest(output.child("run=3"), "running", ended_at="3")
    lengths = found(output)
    assert lengths is not None
    assert lengths.run_id == "2"


def test_a_partial_run_does_not_hide_an_older_whole_run(output: ArtifactStore) -> None:
    publish_past_run(output, "1", {"a": [10]})
    publish_past_run(output, "2", {"a": [10]}, "limit=1")
    publish_past_run(output, "3", {"a": [10]}, "only=[agro_bench]")
    publish_past_run(output, "4", {"a": [10]}, "splits=[test]")
    lengths = found(output)
    assert lengths is not None
    assert lengths.run_id == "1"
    small = found(output, "limit=1", "only=[agro_bench]", "splits=[test]")
    assert small is not None
    assert small.run_id == "4"


def test_a_run_of_other_prompts_does_not_hide_a_run_of_the_same_prompts(output: ArtifactStore) -> None:
    publish_past_run(output, "1", {"a": [10]})
    publish_past_run(output, "2", {"a": [20], "b": [20]}, "limit=1")
    publish_past_run(output, "3", {"c": [30]})
    publish_past_run(output, "4", {"d": [40]}, "limit=1")
    assert [lengths.run_id for sha in "abcd" if (lengths := found(output, prompts=[sha]))] == ["1", "2", "3", "4"]
    unknown = found(output, prompts=["e"])
    assert unknown is not None
    assert unknown.run_id == "3"


@pytest.mark.parametrize("overrides", [["engine.endpoint.model=other"], ["only=[med_bench]"]])
def test_runs_of_another_model_or_of_other_tasks_are_ignored(output: ArtifactStore, overrides: list[str]) -> None:
    publish_past_run(output, "1", {"a": [10]}, *overrides)
    assert found(output, "only=[agro_bench]") is None


def test_a_run_without_token_counts_is_skipped(output: ArtifactStore) -> None:
    publish_past_run(output, "1", {"a": [10]})
    publish_past_run(output, "2", {"a": [None]})
    lengths = found(output)
    assert lengths is not None
    assert lengths.run_id == "1"


@pytest.mark.parametrize("name", ["manifest.json", "config.yaml", "samples/_stage.json", "samples"])
def test_a_damaged_run_is_reported_and_the_run_before_it_is_used(output: ArtifactStore, name: str) -> None:
    publish_past_run(output, "1", {"a": [10]})
    damaged = publish_past_run(output, "2", {"a": [20]})
    if name == "samples":
        file = Path(damaged.path("samples/task=agro_bench/split=test/part-00000.parquet"))
        file.write_bytes(file.read_bytes()[:-10])
    else:
        damaged.write_text(name, "{")
    lengths, unread = find(output)
    assert lengths is not None
    assert lengths.run_id == "1"
    assert len(unread) == 1
    assert unread[0].startswith(f"{damaged.root} is left out: ")


def test_a_flipped_bit_in_the_samples_is_reported(output: ArtifactStore) -> None:
    damaged = publish_past_run(output, "1", {f"{number:064x}": [number] for number in range(500)})
    file = Path(damaged.path("samples/task=agro_bench/split=test/part-00000.parquet"))
    columns = pq.ParquetFile(file).metadata.row_group(0)
    prompts = next(
        columns.column(i) for i in range(columns.num_columns) if "sha256" in columns.column(i).path_in_schema
    )
    data = bytearray(file.read_bytes())
    data[prompts.data_page_offset + prompts.total_compressed_size // 4] ^= 255
    file.write_bytes(data)
    lengths, unread = find(output)
    assert lengths is None
    assert len(unread) == 1


def test_a_run_can_be_named(output: ArtifactStore) -> None:
    for run_id in ("1", "2"):
        publish_past_run(output, run_id, {"a": [10]})
    lengths = found(output, "schedule.history=1")
    assert lengths is not None
    assert lengths.run_id == "1"


def test_a_named_run_that_cannot_be_used_is_a_one_line_error(output: ArtifactStore) -> None:
    publish_past_run(output, "1", {"a": [10]})
    record_manifest(output.child("run=1"), "failed")
    publish_past_run(output, "2", {"a": [None]})
    publish_past_run(output, "3", {"a": [10]}).write_text("samples/_stage.json", "{")
    lines = {
        "0": "there is no run .*run=0: name a complete one of output_dir",
        "1": "run=1 is failed, not complete",
        "2": "have no output tokens",
        "3": "_stage.json is damaged",
    }
    for run_id, line in lines.items():
        with pytest.raises(ConfigError, match=f"^schedule.history='{run_id}': .*{line}"):
            find(output, f"schedule.history={run_id}")
        if run_id in "01":  # the samples are read only once the prompts exist
            with pytest.raises(ConfigError, match=f"^schedule.history='{run_id}': .*{line}"):
                length_estimates.check(config(output, f"schedule.history={run_id}"))


def test_an_invalid_run_id_is_a_one_line_error(output: ArtifactStore) -> None:
    with pytest.raises(ConfigError, match=r"^schedule.history='\.\./x': must be latest, a run_id in output_dir, or"):
        config(output, "schedule.history=../x")


def test_the_number_of_past_runs_examined_is_limited(output: ArtifactStore) -> None:
    for number in range(past_runs.MOST_RUNS + 2):
        publish_past_run(output, f"{number:02}", {"a": [10]})
    runs = list(past_runs.of_model(config(output), []))
    assert len(runs) == past_runs.MOST_RUNS
    assert runs[0].run_id == f"{past_runs.MOST_RUNS + 1:02}"
    assert f"{past_runs.MOST_RUNS:02}" not in [
        run.run_id for run in past_runs.of_model(config(output, f"run_id={past_runs.MOST_RUNS:02}"), [])
    ]


def test_a_model_without_a_run_takes_the_lengths_of_another_models_questions(output: ArtifactStore) -> None:
    """The other model's prompts have another text, and it has not answered the last question."""
    publish_other(output, "1", {"x": [10], "y": [40], "z": [20]})
    lengths = found(output, prompts=["a", "b", "c", "d"])
    order, work = ranks(output, lengths)
    assert order == [1, 3, 2, 0]  # the mean is 23
    assert work.order == "longest first by run 1 of other/model, which has answered 3 of 4"
    assert dump(work.schedule) == {"history": "1", "model": "other/model", "num_known": 3, "num_rows": 4}


def test_another_models_lengths_can_be_left_out(output: ArtifactStore) -> None:
    publish_other(output, "1", {"x": [10]})
    assert found(output, "schedule.other_models=false") is None


@pytest.mark.parametrize("revision", ["other", None])
def test_another_model_with_another_or_an_unknown_data_set_tells_nothing(
    output: ArtifactStore, revision: str | None
) -> None:
    publish_other(output, "1", {"x": [10]}, revision=revision)
    assert found(output) is None


def test_other_tasks_of_another_model_are_not_read(output: ArtifactStore) -> None:
    run = publish_other(output, "1", {"x": [10]})
    other = {"dataset_revision.agro_bench": "other", "dataset_revision.med_bench": "r"}
    record_manifest(run, "complete", ended_at="1", datasets=other)
    assert found(output) is None


def test_among_other_models_the_newest_run_that_covers_the_questions_is_taken(output: ArtifactStore) -> None:
    publish_other(output, "1", {"x": [10]})
    publish_other(output, "2", {"x": [20]})
    publish_other(output, "3", {"x": [30]}, "limit=1")
    damaged = publish_other(output, "4", {"x": [40]})
    damaged.write_text("manifest.json", "{")
    lengths, unread = find(output)
    assert lengths is not None
    assert lengths.run_id == "2"
    assert len(unread) == 1
    assert unread[0].startswith(f"{damaged.root} is left out: ")


def test_this_models_answers_go_first_then_another_models_then_this_models_means(output: ArtifactStore) -> None:
    publish_past_run(output, "own", {"a": [10]})
    publish_other(output, "zother", {"x": [10]})
    taken = [found(output, *overrides, prompts=[sha]) for sha, overrides in (("a", []), ("b", []), ("b", OFF))]
    assert [lengths and (lengths.run_id, lengths.model) for lengths in taken] == [
        ("own", None),
        ("zother", "other/model"),
        ("own", None),
    ]


def test_a_named_run_of_another_model_is_read_by_its_prompts_or_else_by_its_questions(output: ArtifactStore) -> None:
    publish_other(output, "1", {"a": [10]})
    for prompt, is_by_question in (("a", False), ("b", True)):
        lengths = found(output, "schedule.history=1", *OFF, prompts=[prompt])
        assert lengths is not None
        assert (lengths.model, lengths.is_by_question) == ("other/model", is_by_question)
        assert ranks(output, lengths)[1].num_known == 1


def test_another_models_name_cannot_control_the_terminal(output: ArtifactStore) -> None:
    run = publish_other(output, "1", {"x": [10]})
    run.write_text("config.yaml", run.read_text("config.yaml").replace("other/model", '"a\\e[31m\\nb"'))
    lengths = found(output)
    assert lengths is not None
    assert lengths.model == "a\x1b[31m\nb"
    assert ranks(output, lengths)[1].order.isprintable()
