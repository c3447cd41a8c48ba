"""`pack`, `validate` and `rescore` on a complete run: what they print, record and refuse."""

from __future__ import annotations

import html
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archives import MakeRun, Scored, completion, question, rows, zipped
from builders import command, record_manifest

from pipeline import pack, rescore, validate
from pipeline.config.schema import SubmissionConfig
from pipeline.errors import ConfigError, DataError, InvalidArchive, RunError, TooManyFailedRows
from pipeline.publish import stage as publish_stage
from pipeline.records import PROMPT_SCHEMA, Completion
from pipeline.runs import directory as run_directory
from pipeline.runs.manifest import NoArchive

ONE = [question("agro_bench", 1), question("med_bench", 1, gold="B")]


def test_pack_makes_the_demos_archive_and_validate_accepts_it(
    demo_run: Scored, capsys: pytest.CaptureFixture[str]
) -> None:
    pack.main([f"run={demo_run.store.root}"])
    first, _, last = capsys.readouterr().out.splitlines()
    assert last == f"  {demo_run.store.path('report.html')}  the report: scores, plots and 214 samples"
    assert first == f"  {demo_run.archive}  the leaderboard's archive: 3 tasks, 180 answers"
    validate.main([f"archive={demo_run.archive}", "conf=demo"])
    assert capsys.readouterr().out == "would be accepted: 3 tasks, 180 answers\n"


def test_counts_of_one_are_singular(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(ONE[:1])
    pack.main([f"run={run.store.root}"])
    out = capsys.readouterr().out
    assert "the leaderboard's archive: 1 task, 1 answer\n" in out
    assert "scores, plots and 1 sample\n" in out
    validate.main([f"archive={run.archive}", f"run={run.store.root}"])
    assert capsys.readouterr().out == "would be accepted: 1 task, 1 answer\n"


def test_the_manifest_records_what_was_packed(make_run: MakeRun) -> None:
    run = make_run(ONE)
    pack.main([f"run={run.store.root}", "submission.mode=extracted"])
    record = run.content["published"]["submission"]
    assert record.pop("sha256")
    expected = {
        "file": "one_extracted_submission.zip",
        "mode": "extracted",
        "num_tasks": 2,
        "num_answers": 2,
        "num_extracted": 2,
    }
    assert (record, run.content["status"]) == (expected, "complete")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give one run, for instance"),
        (["run="], "give one run, for instance"),
        (["run=a", "run=b"], "give one run, for instance"),
        (["run=a", "limit=null"], "'limit=null': only keys of submission can be given"),
        (["run=nowhere"], "run=nowhere: there is no such directory"),
    ],
)
def test_wrong_arguments_of_pack_are_an_error_of_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises((ConfigError, RunError), match=line):
        pack.main(arguments)


def test_an_unknown_mode_is_an_error_of_one_line(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"submission\.mode='best': must be one of reference, extracted"):
        pack.main([f"run={make_run(ONE).store.root}", "submission.mode=best"])


def test_a_run_that_is_not_complete_is_not_packed(make_run: MakeRun) -> None:
    run = make_run(ONE)
    record_manifest(run.store, "failed", **run.content)
    with pytest.raises(RunError, match="is failed: only a complete run is packed"):
        pack.main([f"run={run.store.root}"])


def test_a_refused_pack_gives_the_reason_and_keeps_the_manifest(make_run: MakeRun) -> None:
    run = make_run(ONE, "limit=1")
    before = run.content
    with pytest.raises(RunError, match="limit=1 cuts the test split"):
        pack.main([f"run={run.store.root}"])
    assert run.content == before


def test_without_its_metrics_a_run_is_not_packed_until_it_is_rescored(make_run: MakeRun) -> None:
    run = make_run(ONE)
    pack.main([f"run={run.store.root}"])
    before = run.archive.read_bytes()
    Path(run.store.path("metrics.parquet")).unlink()
    with pytest.raises(DataError, match=r"metrics\.parquet is missing: python -m pipeline\.rescore run="):
        pack.main([f"run={run.store.root}"])
    assert run.archive.read_bytes() == before
    rescore.main([f"run={run.store.root}"])
    pack.main([f"run={run.store.root}"])


def test_a_run_is_resumed_with_another_submission_mode(make_run: MakeRun) -> None:
    run = make_run(ONE)
    record_manifest(run.store, "failed", **run.content)
    run_directory.begin(run.store, replace(run.config, submission=SubmissionConfig(mode="extracted")))
    assert run_directory.open_finished(run.store.root)[1].submission.mode == "extracted"


def test_publish_records_the_reason_and_removes_an_outdated_archive(make_run: MakeRun) -> None:
    run = make_run(ONE, "limit=1")
    run.archive.write_bytes(b"an older one")
    products = publish_stage.publish(run.store, run.config, run.manifest)
    made = products.published.submission
    assert isinstance(made, NoArchive)
    assert products.lines[0].startswith("  no archive for the leaderboard: limit=1 cuts the test split")
    assert made.file is None
    assert made.reason in products.lines[0]
    assert not run.archive.exists()


def test_rescore_remakes_the_archive(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(ONE)
    pack.main([f"run={run.store.root}"])
    before = run.archive.read_bytes()
    run.archive.write_bytes(b"stale")
    rescore.main([f"run={run.store.root}"])
    assert run.archive.read_bytes() == before
    assert run.content["published"]["submission"]["file"] == run.archive.name
    assert "the leaderboard's archive: 2 tasks, 2 answers" in capsys.readouterr().out


def test_rescore_of_a_run_that_is_not_complete_leaves_no_archive(make_run: MakeRun) -> None:
    run = make_run(ONE)
    record_manifest(run.store, "failed", **run.content)
    run.archive.write_bytes(b"stale")
    rescore.main([f"run={run.store.root}"])
    assert not run.archive.exists()


def test_failed_answers_finish_the_rescore_without_an_archive(make_run: MakeRun) -> None:
    run = make_run(ONE, reply=lambda prompt, repeat: completion(prompt, repeat, None, "told to"))
    with pytest.raises(TooManyFailedRows, match="2 rows failed, max_failed_rows=0"):
        rescore.main([f"run={run.store.root}"])
    assert "agro_bench: 1 of 1 test ids failed (1)" in run.content["published"]["submission"]["reason"]


def test_validate_counts_the_refusals_and_ends_with_2(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    archive.write_bytes(zipped({"ruTXTAgroBench.json": rows({1: None})}))
    done = command("pipeline.validate", f"archive={archive}", "conf=demo")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "refused: ruTXTAgroBench.json: outputs that are null, not a text, in 1 of 1 row (id 1): "
        'a row is {"outputs": "B", "meta": {"id": 1}}',
        "refused: ruTXTAgroBench.json: no row for 70 of 70 ids of the test split (13, 14, 15, 16, 17 and 65 more): "
        "one missing id fails the task: answer all and pack again",
        "warning: ruTXTAgroBench.json: no question of the test split for 1 of 1 id (1): "
        "leave them out, or give the revision of the data set that has them",
        "refused: ruTXTAquaBench.json: missing: pack the task's answers under this name",
        "refused: ruTXTMedQFundamental.json: missing: pack the task's answers under this name",
        "warning: logs_public.zip: missing: a public submission needs it: "
        "pack the zip of the harness's logs under this name",
    ]
    line = f"error: {archive} would be refused, for 4 reasons: fix what the lines that begin with refused: name, "
    assert done.stderr == f"{line}and pack again\n"


def test_validate_compares_with_the_ids_of_a_run(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(ONE)
    pack.main([f"run={run.store.root}"])
    other = make_run([question("agro_bench", 2), *ONE], "run_id=two")
    validate.main([f"archive={run.archive}", f"run={run.store.root}"])
    assert capsys.readouterr().out.endswith("would be accepted: 2 tasks, 2 answers\n")
    with pytest.raises(InvalidArchive, match=r"for 1 reason: fix"):
        validate.main([f"archive={run.archive}", f"run={other.store.root}"])
    assert "no row for 1 of 2 ids of the test split (2): one missing id fails the task" in capsys.readouterr().out


def test_validate_against_a_run_with_damaged_prompts_is_an_error_of_one_line(make_run: MakeRun) -> None:
    run = make_run(ONE)
    pack.main([f"run={run.store.root}"])
    for file in Path(run.store.path("prompts")).rglob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"part-00000\.parquet is missing or damaged: delete .*prompts and run again"):
        validate.main([f"archive={run.archive}", f"run={run.store.root}"])


@pytest.mark.usefixtures("at_root")
def test_without_the_hub_one_line_lists_what_was_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "x.zip"
    files = {f"{name}.json": rows({1: "B"}) for name in ("ruTXTAgroBench", "ruTXTAquaBench", "ruTXTMedQFundamental")}
    archive.write_bytes(zipped(files))
    validate.main([f"archive={archive}", "conf=mera"])
    lines = capsys.readouterr().out.splitlines()
    unchecked = [line for line in lines if line.startswith("unchecked: ")]
    assert len(unchecked) == 1
    assert "ruTXTAgroBench.json, ruTXTAquaBench.json, ruTXTMedQFundamental.json: the ids were not compared" in lines[-2]
    assert lines[-1] == "would be accepted: 3 tasks, 3 answers, their ids not compared"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["conf=demo"], "give one archive"),
        (["archive=", "conf=demo"], "give one archive"),
        (["archive=x.zip"], "name its tasks"),
        (["archive=x.zip", "limit=1"], "conf= must be given once"),
        (
            ["archive=/nowhere/x.zip", "conf=demo"],
            "archive=/nowhere/x.zip: cannot be read: No such file or directory: give a zip file$",
        ),
        (["archive=/tmp", "conf=demo"], "archive=/tmp: cannot be read"),
    ],
)
@pytest.mark.usefixtures("at_root")
def test_wrong_arguments_of_validate_are_an_error_of_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        validate.main(arguments)


def test_an_archive_in_object_storage_is_checked_there(
    make_run: MakeRun, s3_query: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(ONE, where=f"s3://runs/validate?{s3_query}")
    pack.main([f"run=s3://runs/validate/run=one?{s3_query}"])
    capsys.readouterr()
    uri = f"s3://runs/validate/run=one/one_submission.zip?{s3_query}"
    validate.main([f"archive={uri}", f"run=s3://runs/validate/run=one?{s3_query}"])
    assert capsys.readouterr().out == "would be accepted: 2 tasks, 2 answers\n"
    assert json.loads(run.store.read_text("manifest.json"))["published"]["submission"]["num_answers"] == 2


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_commonest_reasons_are_on_the_terminal_in_the_manifest_and_in_the_report(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    def reply(prompt: dict[str, Any], repeat: int) -> Completion:
        error = f"HTTP 400: row {prompt['id']} has no 'max_tokens' <b>" if prompt["id"] <= 6 * share else None
        return completion(prompt, repeat, None if error else "B", error=error)

    run = make_run([question("agro_bench", number, gold="B") for number in range(1, 7)], reply=reply)
    with pytest.raises(TooManyFailedRows):
        rescore.main([f"run={run.store.root}"])
    reason = {"num": int(6 * share), "reason": "HTTP 400: row 1 has no 'max_tokens' <b>"}
    assert run.content["failures"] == [reason | {"example": "agro_bench test id=1"}]
    line = f"{int(6 * share)} rows failed: HTTP 400: row 1 has no 'max_tokens' <b> (such as agro_bench test id=1)"
    assert line in capsys.readouterr().out.splitlines()
    report = html.unescape(run.store.read_text("report.html"))
    assert f"<bdi>{line}</bdi>" in report
    assert ("every row failed" in report) == (share == 1)


ODD = {1: "<think>мысль</think>B", 2: "", 3: "B<|im_end|>", 4: "А", 5: "x" * 2_001} | dict.fromkeys(range(6, 40), "C")


@pytest.mark.parametrize("mode", ["reference", "extracted"])
def test_run_pack_and_validate_report_the_same_warnings(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    questions = [question("agro_bench", number) for number in ODD]
    run = make_run(
        questions,
        f"submission.mode={mode}",
        reply=lambda prompt, repeat: completion(prompt, repeat, ODD[prompt["id"]]),
    )
    rescore.main([f"run={run.store.root}"])
    rescored = _warnings(capsys.readouterr().out, "agro_bench test")
    pack.main([f"run={run.store.root}"])
    packed = _warnings(capsys.readouterr().out, "agro_bench test")
    archive = run.store.path(run.content["published"]["submission"]["file"])
    validate.main([f"archive={archive}", f"run={run.store.root}"])
    validated = _warnings(capsys.readouterr().out, "ruTXTAgroBench.json")
    assert rescored == packed == [line.partition(": ")[2] for line in run.content["published"]["answers"]]
    assert [line.partition(" in ")[0] for line in packed] == [
        "no text",
        *(
            ["look-alikes of another alphabet (such as Cyrillic АВСЕНКМОРТХ) for letters"]
            if mode == "reference"
            else []
        ),
        "reasoning (such as <think> or </think>)",
        "special tokens (such as <|im_end|>)",
        "more than 2,000 characters",
        "87% of 39 outputs are 'C', more than 50%: four even options give one letter a quarter: check the prompts "
        "and how the answers are read",
    ]
    if mode == "reference":
        assert validated == packed
    report = html.unescape(run.store.read_text("report.html"))
    assert all(f"<bdi>agro_bench test: {line}</bdi>" in report for line in packed)


def _warnings(out: str, where: str) -> list[str]:
    start = f"warning: {where}: "
    return [line.removeprefix(start) for line in out.splitlines() if line.startswith(start)]


def test_what_is_no_regular_file_is_no_archive(tmp_path: Path, at_root: Path) -> None:
    assert at_root
    os.mkfifo(tmp_path / "a.zip")  # opening it waits for a writer
    with pytest.raises(ConfigError, match="cannot be read: it is no regular file"):
        validate.main([f"archive={tmp_path / 'a.zip'}", "conf=demo"])


@pytest.mark.parametrize("column", ["doc", "messages"])
@pytest.mark.parametrize("text", ["{", "[1]", "5", "[" * 100_000])
def test_prompts_that_were_not_made_by_a_run_are_an_error_of_one_line(
    make_run: MakeRun, column: str, text: str
) -> None:
    run = make_run(ONE)
    artifact = run.store.require_artifact("prompts", PROMPT_SCHEMA)
    prompts = artifact.dataset().to_table()
    place = prompts.schema.get_field_index(column)
    prompts = prompts.set_column(place, prompts.schema.field(place), [[text] * prompts.num_rows])
    with run.store.publish("prompts", PROMPT_SCHEMA) as store:
        store.write_parquet("part-00000.parquet", PROMPT_SCHEMA, [prompts])
    for use in (rescore.main, pack.main):
        with pytest.raises(DataError, match=r"a row of prompts/ has"):
            use([f"run={run.store.root}"])
        record_manifest(run.store, "complete", **run.content)
