"""Whole runs with a scripted engine: the files that a run writes, and the errors of a run that fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import ScriptedEngine, ScriptedFactory

from pipeline import pack, rescore, validate
from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, EndpointError, GateFailed, RunError, TooManyFailedRows
from pipeline.generate.cluster import cluster
from pipeline.generate.engines.base import Output, Request
from pipeline.orchestrator import execute
from pipeline.records import COMPLETION_SCHEMA, SAMPLE_SCHEMA
from pipeline.runs import directory as run_directory
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

ENDPOINT = ["engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:9/v1", "model.path=null"]


def settings(output: Path, *overrides: str) -> Config:
    return compose(["conf=demo", *ENDPOINT, f"output_dir={output}", "run_id=one", "limit=3", *overrides])


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """Share one local Ray among the tests of this file."""
    with cluster(compose(["conf=demo", *ENDPOINT])):
        yield


def test_a_run_writes_every_file_that_it_should(tmp_path: Path) -> None:
    run = execute(settings(tmp_path), ScriptedFactory(answer="\n\nA"))
    names = {path.name for path in Path(run.root).iterdir()}
    assert names == {
        "config.yaml",
        "manifest.json",
        "prompts",
        "completions",
        "samples",
        "metrics.parquet",
        "card.md",
        "card.json",
        "report.html",
        "logs",
        ".lock",
    }
    samples = run.artifact("samples", SAMPLE_SCHEMA)
    assert samples is not None
    assert samples.num_rows == 3 * 2 * 3
    assert set(samples.dataset().to_table().column("response").to_pylist()) == {"A"}
    content = json.loads(run.read_text("manifest.json"))
    assert content["status"] == "complete"
    assert content["counts"]["num_samples"] == 18


def test_a_run_prints_and_records_the_results_of_the_checks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = execute(settings(tmp_path, "generation.top_k=5", "generation.until=['[/x]']"), ScriptedFactory())
    content = json.loads(run.read_text("manifest.json"))
    names = [line.partition(":")[0] for line in content["warnings"]]
    assert names == ["stop-in-reasoning", "short-thinking", "unused-sampling"]
    assert "warning: unused-sampling: generation.top_k=5 has no effect" in capfd.readouterr().out
    assert not [name for name in content["datasets"] if name.startswith("warning")]


def test_a_run_of_every_test_row_writes_the_leaderboards_archive(tmp_path: Path) -> None:
    run = execute(settings(tmp_path, "limit=null", "splits=[test]"), ScriptedFactory(answer="\n\nB"))
    record = json.loads(run.read_text("manifest.json"))["published"]["submission"]
    assert (record["file"], record["num_tasks"], record["num_answers"]) == ("one_submission.zip", 3, 180)
    made = Path(run.path("one_submission.zip")).read_bytes()
    pack.main([f"run={run.root}"])
    assert Path(run.path("one_submission.zip")).read_bytes() == made
    validate.main([f"archive={run.path('one_submission.zip')}", "conf=demo"])


def test_a_limited_run_is_complete_and_records_why_it_has_no_archive(tmp_path: Path) -> None:
    run = execute(settings(tmp_path), ScriptedFactory())
    content = json.loads(run.read_text("manifest.json"))
    assert content["status"] == "complete"
    assert content["published"]["submission"]["reason"].startswith("limit=3 cuts the test split")


def test_a_run_with_failed_rows_is_complete_and_they_decide_its_exit_code(tmp_path: Path) -> None:
    factory = ScriptedFactory(raise_on="ц")
    with pytest.raises(TooManyFailedRows, match=r"\d+ rows failed, max_failed_rows=0: .*column error"):
        execute(settings(tmp_path), factory)
    content = json.loads((tmp_path / "run=one" / "manifest.json").read_text())
    assert content["status"] == "complete"
    assert content["counts"]["num_failed"] > 0
    execute(settings(tmp_path, "run_id=two", "max_failed_rows=18"), factory)


def test_retry_failed_retries_failed_rows_only_those_of_the_second_pass_too(tmp_path: Path) -> None:
    noise = "noise.share=0.9"
    with pytest.raises(TooManyFailedRows):
        execute(settings(tmp_path, noise), ScriptedFactory(raise_on="ц"))
    before = json.loads((tmp_path / "run=one" / "manifest.json").read_text())
    num_failed, num_noise = before["counts"]["num_failed"], before["noise"]["num_failed"]
    requests = tmp_path / "requests"
    script = ScriptedFactory(answer="B", requests=str(requests))
    run = execute(settings(tmp_path, noise, "run.retry_failed=true"), script)
    samples = run.require_artifact("samples", SAMPLE_SCHEMA).dataset().to_table()
    assert num_failed >= num_noise > 0
    assert len(requests.read_text().splitlines()) == num_failed + num_noise
    assert samples.column("error").null_count == samples.num_rows == 18
    assert sorted(samples.column("response").to_pylist()) == ["A"] * (18 - num_failed) + ["B"] * num_failed
    after = json.loads(run.read_text("manifest.json"))["noise"]
    assert (after["num_failed"], after["num_changed"]) == (0, 0)
    assert after["num_questions"] == before["noise"]["num_questions"] + num_noise


def test_a_retry_that_cannot_start_leaves_the_run_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooManyFailedRows):
        execute(settings(tmp_path), ScriptedFactory(raise_on="ц"))
    files = [tmp_path / "run=one" / name for name in ("completions/_stage.json", "manifest.json", "report.html")]
    before = [file.read_bytes() for file in files]

    def unreachable(config: Config, *_: object) -> None:
        raise ConfigError(f"cluster.address={config.cluster.address!r}: no Ray cluster answers")

    monkeypatch.setattr("pipeline.orchestrator.cluster", unreachable)
    with pytest.raises(ConfigError, match="no Ray cluster answers"):
        execute(settings(tmp_path, "run.retry_failed=true"), ScriptedFactory())
    assert [file.read_bytes() for file in files] == before


def test_a_complete_run_prints_the_same_summary_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    execute(settings(tmp_path), ScriptedFactory())
    first = capfd.readouterr().out.splitlines()
    execute(settings(tmp_path), ScriptedFactory(raise_on=""))
    title, *summary = capfd.readouterr().out.splitlines()
    assert title == f"run one is complete in {tmp_path}/run=one: nothing is generated"
    assert len(summary) > 10
    assert first[-len(summary) :] == summary
    (entry,) = (tmp_path / "index").glob("*/*__one.json")
    assert json.loads(entry.read_text())["num_rows"] == 18


def test_a_failed_run_resumes_once_its_error_is_fixed(tmp_path: Path) -> None:
    data = tmp_path / "med_bench"
    config = settings(tmp_path, f"tasks.med_bench.dataset={data}")
    shutil.copytree("data/demo/med_bench", data)
    (data / "test.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"med_bench test"):
        execute(config, ScriptedFactory())
    assert json.loads((tmp_path / "run=one" / "manifest.json").read_text())["status"] == "failed"
    shutil.copytree("data/demo/med_bench", data, dirs_exist_ok=True)
    execute(config, ScriptedFactory())
    assert json.loads((tmp_path / "run=one" / "manifest.json").read_text())["status"] == "complete"


def test_another_configuration_under_the_same_id_is_rejected_by_key(tmp_path: Path) -> None:
    run_directory.begin(*run_directory.place(settings(tmp_path)))
    with pytest.raises(RunError, match=r"was begun with generation\.max_gen_toks=192, not 64: choose another run_id"):
        execute(settings(tmp_path, "generation.max_gen_toks=64"), ScriptedFactory())
    run_directory.begin(*run_directory.place(settings(tmp_path, "engine.max_num_seqs=3", "max_failed_rows=9")))


def test_an_output_directory_that_is_a_file_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        execute(settings(tmp_path / "file"), ScriptedFactory())


def test_rescore_rebuilds_the_samples_without_an_engine(tmp_path: Path) -> None:
    run = execute(settings(tmp_path), ScriptedFactory())
    before = Path(run.path("metrics.parquet")).read_bytes()
    run.remove("samples")
    run.remove("metrics.parquet")
    rescore.main([f"run={run.root}"])
    assert run.artifact("samples", SAMPLE_SCHEMA) is not None
    assert Path(run.path("metrics.parquet")).read_bytes() == before


def test_a_share_of_the_questions_is_repeated_by_the_same_engine_and_counted_as_noise_only(tmp_path: Path) -> None:
    requests, starts = tmp_path / "requests", tmp_path / "starts"
    run = execute(
        settings(tmp_path, "noise.share=0.5", "generation.repeats=2"),
        ScriptedFactory(requests=str(requests), starts=str(starts)),
    )
    content = json.loads(run.read_text("manifest.json"))
    noise = content["noise"]
    assert content["counts"]["num_samples"] == 36
    assert 0 < noise["num_questions"] < 18
    assert starts.read_text() == "start\n"
    lines = requests.read_text().split()
    assert [line.count("/") for line in lines] == [3] * 36 + [4] * noise["num_questions"]
    assert (noise["num_changed"], noise["variance"]["em"]) == (0, 0.0)
    noise_completions = run.child("noise").require_artifact("completions", COMPLETION_SCHEMA)
    assert noise_completions.num_rows == noise["num_questions"]
    assert set(noise_completions.dataset().to_table(columns=["repeat"])["repeat"].to_pylist()) == {0}
    assert {"generate", "noise"} <= content["timings_s"].keys()
    assert [run.exists(name) for name in ("journal", "work", "noise/journal", "noise/work")] == [False] * 4


class Ending(ScriptedFactory):
    """Makes engines that answer 20 rows and then raise an error that the user can fix."""

    def __call__(self) -> ScriptedEngine:
        class EndingEngine(ScriptedEngine):
            num_left = 20

            async def generate(self, request: Request) -> Output:
                self.num_left -= 1
                if self.num_left < 0:
                    raise EndpointError("gone")
                return await super().generate(request)

        return EndingEngine(self)


def test_a_noise_pass_that_fails_loses_no_row_and_is_resumed_by_itself(tmp_path: Path) -> None:
    config = settings(tmp_path, "noise.share=0.9", "engine.endpoint.concurrency=1")
    with pytest.raises(EndpointError, match="gone"):
        execute(config, Ending())
    run = ArtifactStore.open(str(tmp_path / "run=one"))
    assert run.require_artifact("completions", COMPLETION_SCHEMA).num_rows == 18
    requests, starts = tmp_path / "requests", tmp_path / "starts"
    execute(config, ScriptedFactory(answer="B", requests=str(requests), starts=str(starts)))
    content = json.loads(run.read_text("manifest.json"))
    num_questions = content["noise"]["num_questions"]
    assert num_questions > 2
    assert starts.read_text() == "start\n"
    assert len(requests.read_text().split()) == content["noise"]["num_changed"] == num_questions - 2
    samples = run.require_artifact("samples", SAMPLE_SCHEMA).dataset().to_table()
    assert set(samples.column("response").to_pylist()) == {"A"}


def test_a_run_that_fails_its_gate_is_complete_and_its_failure_is_reported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    execute(settings(tmp_path), ScriptedFactory(answer="A"))
    overrides = ["run_id=two", "gate.baseline=one", "gate.max_no_answer=0.5"]
    with pytest.raises(GateFailed, match="run two is complete, and breaks rules of its gate: max_no_answer"):
        execute(settings(tmp_path, *overrides), ScriptedFactory(answer="не знаю"))
    content = json.loads((tmp_path / "run=two/manifest.json").read_text())
    assert (content["status"], content["gate"]["baseline"]) == ("complete", "one")
    assert "gate: broken: max_no_answer: 18 of 18 rows (100.0%) have no readable answer" in capfd.readouterr().out
