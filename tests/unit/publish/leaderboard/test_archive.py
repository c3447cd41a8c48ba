"""The archive has the server's layout, is the same bytes each time, and is not made if an id is missing."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from archives import STAMP, MakeRun, Scored, completion, members, question

from pipeline.errors import ConfigError, DataError, RunError
from pipeline.publish.leaderboard import archive as leaderboard_archive
from pipeline.publish.leaderboard.answers import Artifacts, answers
from pipeline.runs.manifest import load
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

TWO = [question("agro_bench", 7), question("agro_bench", 3), question("med_bench", 1)]


def pack(run: Scored) -> dict[str, bytes]:
    leaderboard_archive.pack(run.store, run.config, run.manifest)
    return members(run.archive)


def outputs(file: bytes) -> dict[int, str]:
    return {row["meta"]["id"]: row["outputs"] for row in json.loads(file)["data"]["test"]}


def test_the_archive_has_a_file_a_task_and_the_logs_at_its_root(make_run: MakeRun) -> None:
    files = pack(make_run(TWO))
    assert list(files) == ["ruTXTAgroBench.json", "ruTXTMedQFundamental.json", "logs_public.zip"]
    assert list(members(files["logs_public.zip"])) == [
        f"samples_agro_bench_{STAMP}.jsonl",
        f"samples_med_bench_{STAMP}.jsonl",
        f"results_{STAMP}.json",
    ]


def test_a_tasks_file_is_the_json_of_the_references_packer_to_the_byte(make_run: MakeRun) -> None:
    def reply(prompt: dict[str, Any], repeat: int) -> Any:
        return completion(prompt, repeat, " \n«Ответ»:\u2028 B\x85\n\tи C ")

    expected = [{"outputs": "«Ответ»:\u2028 B\x85\n\tи C ", "meta": {"id": number}} for number in (7, 3)]
    file = pack(make_run(TWO, reply=reply))["ruTXTAgroBench.json"]
    assert file.decode() == json.dumps({"data": {"test": expected}}, ensure_ascii=False, indent=4)


def test_train_rows_are_not_submitted(make_run: MakeRun) -> None:
    files = pack(make_run([*TWO, question("agro_bench", 4, split="train", gold="B")]))
    assert outputs(files["ruTXTAgroBench.json"]).keys() == {7, 3}
    assert members(files["logs_public.zip"])[f"samples_agro_bench_{STAMP}.jsonl"].count(b"\n") == 2


def test_an_archive_made_twice_is_the_same_bytes(demo_run: Scored) -> None:
    first = leaderboard_archive.pack(demo_run.store, demo_run.config, demo_run.manifest)
    before = demo_run.archive.read_bytes()
    second = leaderboard_archive.pack(demo_run.store, demo_run.config, demo_run.manifest)
    assert (demo_run.archive.read_bytes(), second) == (before, first)
    assert (first.num_tasks, first.num_answers, first.mode) == (3, 180, "reference")


def test_later_entries_of_the_manifest_do_not_change_the_archive(make_run: MakeRun) -> None:
    run = make_run(TWO)
    before = leaderboard_archive.pack(run.store, run.config, run.manifest)
    later = {"counts": {"num_samples": 3}, "timings_s": {"total": 1.5}, "ended_at": "2026-11-21T23:00:00Z"}
    assert leaderboard_archive.pack(run.store, run.config, load(run.content | later)) == before


def test_members_have_the_runs_time_and_plain_permissions(make_run: MakeRun) -> None:
    run = make_run(TWO)
    pack(run)
    with zipfile.ZipFile(run.archive) as whole:
        attributes = {(info.date_time, info.external_attr, info.create_system) for info in whole.infolist()}
    assert attributes == {((2026, 11, 21, 22, 38, 40), 0o100644 << 16, 3)}


@pytest.mark.parametrize("rows_per_part", [1, 4, 100])
def test_answers_come_in_the_data_sets_order_for_any_part_size(make_run: MakeRun, rows_per_part: int) -> None:
    numbers = [11, 2, 30, 4, 25, 6, 17, 8, 19, 1]
    run = make_run([question("agro_bench", number) for number in numbers])
    with query.connection() as database:
        found = list(answers(database, Artifacts.open(run.store), "agro_bench", rows_per_part))
    assert [(row.place, row.id, row.response) for row in found] == [(n, row, "B") for n, row in enumerate(numbers)]


def answered(prompt: dict[str, Any], repeat: int) -> Any:
    return completion(prompt, repeat, {7: "Ответ: B, потому что", 3: " не знаю"}.get(prompt["id"]))


def test_the_reference_mode_submits_the_unchanged_response(make_run: MakeRun) -> None:
    files = pack(make_run(TWO, reply=answered))
    assert outputs(files["ruTXTAgroBench.json"]) == {7: "Ответ: B, потому что", 3: "не знаю"}
    assert outputs(files["ruTXTMedQFundamental.json"]) == {1: ""}


def test_the_extracted_mode_submits_letters_and_without_them_the_response(make_run: MakeRun) -> None:
    run = make_run(TWO, "submission.mode=extracted", reply=answered)
    packed = leaderboard_archive.pack(run.store, run.config, run.manifest)
    assert outputs(members(run.archive)["ruTXTAgroBench.json"]) == {7: "B", 3: "не знаю"}
    assert (packed.mode, packed.num_extracted, packed.num_answers) == ("extracted", 1, 3)


def test_of_several_repeats_the_first_is_submitted(make_run: MakeRun) -> None:
    def reply(prompt: dict[str, Any], repeat: int) -> Any:
        return completion(prompt, repeat, "ABC"[repeat], "late" if repeat == 2 else None)

    file = pack(make_run(TWO, "generation.repeats=3", reply=reply))["ruTXTAgroBench.json"]
    assert outputs(file) == {7: "A", 3: "A"}


def test_failed_ids_are_listed_and_nothing_is_written(make_run: MakeRun) -> None:
    def reply(prompt: dict[str, Any], repeat: int) -> Any:
        fails = prompt["task"] == "agro_bench"
        return completion(prompt, repeat, None if fails else "B", "told to" if fails else None)

    run = make_run(
        [question("agro_bench", number) for number in range(1, 24)] + [question("med_bench", 1)], reply=reply
    )
    ids = ", ".join(map(str, range(1, 21)))
    with pytest.raises(RunError, match=rf"agro_bench: 23 of 23 test ids failed \({ids} and 3 more\)\. The reasons"):
        leaderboard_archive.pack(run.store, run.config, run.manifest)
    assert not run.archive.exists()


def test_ids_without_a_sample_are_missing(make_run: MakeRun) -> None:
    run = make_run(TWO)
    short = make_run([TWO[0], TWO[2]], "run_id=two")
    run.store.remove("samples")
    pafs.copy_files(short.store.path("samples"), run.store.path("samples"))
    with pytest.raises(RunError, match=r"agro_bench: 1 of 2 test ids are missing \(3\)\. "):
        leaderboard_archive.pack(run.store, run.config, run.manifest)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["limit=2"], "limit=2 cuts the test split, .*: run without a limit"),
        (["splits=[train]"], r"splits=\[train\] has no test split"),
        (["tasks.med_bench.submission_name=ruTXTAgroBench"], "submission_name='ruTXTAgroBench': another task has"),
    ],
)
def test_a_run_that_cannot_be_packed_gives_the_reason(make_run: MakeRun, overrides: list[str], line: str) -> None:
    split = "train" if "splits=[train]" in overrides else "test"
    run = make_run([replace(each, split=split) for each in TWO], *overrides)
    with pytest.raises((RunError, ConfigError), match=line):
        leaderboard_archive.pack(run.store, run.config, run.manifest)


def test_a_task_without_a_file_name_is_named_by_its_key(make_run: MakeRun) -> None:
    data = "tasks.mine={dataset: data/demo/med_bench, domain: medicine}"
    run = make_run([question("mine", 1)], data)
    with pytest.raises(ConfigError, match=r"tasks\.mine\.submission_name='': give the name of the task's file"):
        leaderboard_archive.pack(run.store, run.config, run.manifest)


def test_a_task_that_was_left_out_is_named(demo_run: Scored) -> None:
    config = replace(demo_run.config, only=("med_bench",))
    reason = str(leaderboard_archive.reason_not_packable(demo_run.store, config))
    assert reason.startswith("only=[med_bench] leaves out agro_bench, aqua_bench, and the server refuses an archive")


def test_a_task_without_test_rows_is_named(make_run: MakeRun) -> None:
    run = make_run([*TWO[:2], question("med_bench", 1, split="train", gold="A")])
    assert "med_bench has no test rows in this run" in str(
        leaderboard_archive.reason_not_packable(run.store, run.config)
    )


def test_damaged_samples_are_named(make_run: MakeRun) -> None:
    run = make_run(TWO)
    next(Path(run.store.path("samples")).rglob("*.parquet")).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is missing or damaged"):
        leaderboard_archive.pack(run.store, run.config, run.manifest)


def test_a_directory_that_cannot_be_written_is_an_error_of_one_line(make_run: MakeRun) -> None:
    run = make_run(TWO)
    run.archive.mkdir()
    (run.archive / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        leaderboard_archive.pack(run.store, run.config, run.manifest)
    assert not [path for path in Path(run.store.root).iterdir() if path.name.startswith(".one_sub")]


def test_an_archive_in_object_storage_is_the_same_as_on_a_disk(make_run: MakeRun, s3_query: str) -> None:
    there = make_run(TWO, where=f"s3://runs/pack?{s3_query}")
    here = make_run(TWO)
    packed = leaderboard_archive.pack(there.store, there.config, there.manifest)
    assert packed == leaderboard_archive.pack(here.store, here.config, here.manifest)
    with ArtifactStore.open(f"s3://runs/pack/run=one?{s3_query}").fs.open_input_file(
        there.store.path(packed.file)
    ) as stream:
        assert stream.read() == here.archive.read_bytes()


@pytest.mark.parametrize("year", ["1970", "2200"])
def test_a_host_with_a_wrong_clock_packs_an_archive(make_run: MakeRun, year: str) -> None:
    run = make_run(TWO)
    manifest = load(run.content | {"started_at": f"{year}-01-01T00:00:00Z"})
    leaderboard_archive.pack(run.store, run.config, manifest)
    assert members(run.archive).keys() == pack(run).keys()
