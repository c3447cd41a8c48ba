"""The board shows scores over nights, the gate, the CUSUM, and which models differ; it asks for nothing outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from builders import record_manifest, settings
from cheap_nights import TASKS, make_nights
from nights import Model, Nights

from pipeline import board
from pipeline.comparison import trend
from pipeline.errors import ConfigError, RunError
from pipeline.overview import page
from pipeline.overview.history import Benchmark, BoardRun, benchmarks
from pipeline.overview.pairwise import compare_models
from pipeline.overview.prune import apply, plan
from pipeline.runs import index, past_runs
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")


def board_runs(output: Path) -> list[BoardRun]:
    store = ArtifactStore.open(str(output))
    entries = index.newest(store, limit=1_000, most_read=1_000)
    return [BoardRun(entry=each, store=store.child(f"run={each.run_id}"), link=None) for each in entries]


def written(output: Path, *arguments: str) -> str:
    board.main([f"output_dir={output}", *arguments])
    return (output / "index.html").read_text()


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def test_a_regression_breaks_the_line_and_a_decline_raises_the_cusum(made: Path) -> None:
    (benchmark,) = benchmarks(board_runs(made))
    worse = next(model for model in benchmark.models if model.name == "worse")
    assert [model.name for model in benchmark.models] == ["worse", "small"]
    alarms = [number for number, night in enumerate(worse.nights, start=1) if night.steps["all"].is_alarm]
    assert alarms[-1] == 40
    assert 30 <= alarms[0] <= 36
    assert alarms == list(range(alarms[0], 41))
    broken = [number for number, night in enumerate(worse.nights, start=1) if not night.run.entry.kept_gate]
    assert broken == [25]
    assert worse.best is not None
    assert worse.score(worse.best).value == max(
        score.value for night in worse.nights if (score := worse.score(night.run))
    )


def test_the_cusum_is_that_of_the_gate(made: Path) -> None:
    config = settings(f"output_dir={made}", "run_id=x", "engine.endpoint.model=worse")
    config = replace(config, tasks={name: config.tasks[name] for name in TASKS}, only=())
    newest, *earlier = past_runs.of_model(config, [], limit=100)
    found = trend.read(config, trend.scores_of(newest.store, newest.run_id), earlier, [])
    (benchmark,) = benchmarks(board_runs(made))
    (model,) = [each for each in benchmark.models if each.name == "worse"]
    night = model.newest
    assert {each.task: each.statistic for each in found} == {name: step.statistic for name, step in night.steps.items()}
    assert {each.task: each.since for each in found} == night.since
    assert {each.task for each in found if each.has_declined} == {
        name for names in night.declined.values() for name in names
    }


def test_the_page_has_the_models_the_gate_the_decline_and_links(made: Path) -> None:
    html = Path(page.write_index(str(made))).read_text()
    assert 2 * 400 * len(html) / 43 < 2_000_000  # two models over a year
    text = text_of(html)
    assert "43 complete runs, 2 models; newest 2025-11-28 23:00 UTC" in text
    assert "1 of 2 models needs a look: worse" in text
    assert re.search(r"by the CUSUM: score, agriculture, medicine since 2025-11-\d\d-worse", text)
    assert html.count('class="broken" d="M') == 2  # the legend and night 25
    assert "<title>2025-11-13-worse\nscore 0.634\n95% interval 0.602 to 0.665\ngate broken: max_drop\n" in html
    assert '<a href="run%3D2025-11-28-worse/report.html"><bdi>2025-11-28-worse</bdi></a>' in html
    assert text.count("broken: max_drop") == 2  # its point and its row
    assert "13 earlier runs" in text


def test_the_page_is_the_same_for_the_same_runs_and_holds_no_script(output: Path) -> None:
    html = written(output)
    assert written(output) == html
    assert "<script" not in html
    assert "default-src 'none'" in unescape(html)
    assert re.findall(r'(?:src|href|action)="(?!run%3D|data:,)[^"]*"', html) == []
    assert "http" not in re.sub(r"http-equiv", "", html)


def test_the_first_line_is_good_only_if_each_newest_run_kept_a_gate(tmp_path: Path) -> None:
    make_nights(tmp_path, [0.5], model="gated")
    assert '<p class="better">no broken gate and no decline in the newest runs</p>' in written(tmp_path)
    make_nights(tmp_path, [0.5], model="ungated", gate=None)
    html = written(tmp_path)
    assert "no alarm, but 1 newest run without a gate" in html
    assert "no broken gate" not in html
    run = ArtifactStore.open(str(tmp_path)).child("run=torn")
    run.create()
    record_manifest(run, "failed", reason="x", run_id="torn")
    assert "2 complete runs, 2 models; 1 not complete; newest" in text_of(written(tmp_path)).replace(" ;", ";")


def test_foreign_text_is_escaped(output: Path) -> None:
    hostile = "<script>alert(1)</script>\"'>{{ 7 * 7 }}\u202e</style>"
    make_nights(output, [0.4, 0.5], model="odd", engine={"r0": {"served_model": hostile}})
    run = ArtifactStore.open(str(output)).child("run=torn")
    run.create()
    record_manifest(run, "failed", reason=hostile, run_id="torn")
    html = written(output)
    assert "<script" not in html
    assert html.count("</style>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7 * 7 }}" in html


@pytest.mark.parametrize("file", ["../../x.html", "/etc/passwd", "javascript:alert(1)", "a/b.html", ".x", "\u202e"])
def test_a_report_elsewhere_is_not_linked(output: Path, file: str) -> None:
    published = {"report": {"file": file, "chunks": None, "num_samples": 1}}
    make_nights(output, [0.4], model="odd", published=published)
    assert [link for link in re.findall(r'href="([^"]*)"', written(output)) if "odd" in link] == []


def test_limited_runs_stand_apart_and_are_not_compared(output: Path) -> None:
    make_nights(output, [0.99], model="quick", overrides=["limit=3"])
    found = benchmarks(board_runs(output))
    assert [(each.limit, [model.name for model in each.models]) for each in found] == [
        (None, ["worse", "small"]),
        (3, ["quick"]),
    ]
    html = written(output)
    assert '<span class="tag">limit=3</span>' in html
    assert "0.990" not in html.partition(">Runs</h2>")[0]


def test_a_change_of_settings_is_marked_and_the_cusum_begins_anew(tmp_path: Path) -> None:
    make_nights(tmp_path, [0.7] * 10, model="m")
    shutil.rmtree(tmp_path / "index")
    for number, run in enumerate(sorted(tmp_path.glob("run=*"))):
        if number >= 5:
            content = json.loads((run / "manifest.json").read_text())
            (run / "manifest.json").write_text(json.dumps(content | {"settings_hash": "other"}))
    ((model,),) = [benchmark.models for benchmark in benchmarks(board_runs(tmp_path))]
    assert [night.changed for night in model.nights] == [()] * 5 + [("settings",)] + [()] * 4
    assert [night.steps["all"].mean is None for night in model.nights] == [True, *[False] * 4] * 2
    assert ">settings</text>" in written(tmp_path)


def test_the_cusum_begins_anew_with_an_accepted_run(tmp_path: Path) -> None:
    scores = [0.7, 0.71] * 6 + [0.64, 0.65] * 6
    make_nights(tmp_path, scores, model="m")
    ((model,),) = [benchmark.models for benchmark in benchmarks(board_runs(tmp_path))]
    assert model.newest.declined
    run = tmp_path / f"run={model.nights[16].run.entry.run_id}"
    content = json.loads((run / "manifest.json").read_text())
    accepted = {"run": model.nights[12].run.entry.run_id, "by": "me", "at": "2025-11-01T00:00:00Z"}
    content["gate"] |= {"accepted": accepted}
    (run / "manifest.json").write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "index")
    ((model,),) = [benchmark.models for benchmark in benchmarks(board_runs(tmp_path))]
    assert model.nights[15].declined
    assert [night.declined for night in model.nights[16:]] == [{}] * 8


def test_an_older_index_is_made_again(output: Path) -> None:
    before = written(output)
    for file in (output / "index").rglob("*.json"):
        entry = json.loads(file.read_text())
        scores = [{name: value for name, value in each.items() if name != "num_scored"} for each in entry["scores"]]
        file.write_text(json.dumps({key: each for key, each in entry.items() if key != "domains"} | {"scores": scores}))
    assert written(output) == before


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of each of three models over the same questions; two of them answer alike."""
    output = tmp_path_factory.mktemp("answered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[3])
        nights = Nights(output=output, num_questions=40)
        for name, accuracy, seed in (("good", 0.9, 1), ("alike", 0.9, 1), ("bad", 0.4, 1)):
            nights.run(Model(name=name, accuracy=accuracy, seed=seed), 1, "gate.baseline=null")
    return output


def benchmark_of(output: Path) -> Benchmark:
    (benchmark,) = benchmarks(board_runs(output))
    return benchmark


def test_models_are_compared_question_by_question(answered: Path) -> None:
    benchmark = benchmark_of(answered)
    names = [model.name for model in benchmark.models]
    pairs = {(names[a], names[b]): result for (a, b), result in compare_models(benchmark).items()}
    assert names == ["alike", "good", "bad"]
    assert len(pairs) == 6
    better, same, worse = pairs["good", "bad"], pairs["good", "alike"], pairs["bad", "good"]
    assert better.is_significant
    assert better.difference is not None
    assert better.difference > 0.2
    assert worse.difference == -better.difference
    assert (same.difference, same.is_significant) == (0.0, False)


def test_what_cannot_be_compared_is_named_with_the_reason(answered: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(answered, tmp_path / "outputs"))
    runs = {name: next(output.glob(f"run=*-{name}")) for name in ("good", "alike", "bad")}
    content = json.loads((runs["bad"] / "manifest.json").read_text())
    content["datasets"]["dataset_revision.agro_bench"] = "sha256:others"
    (runs["bad"] / "manifest.json").write_text(json.dumps(content))
    shutil.rmtree(runs["alike"] / "samples")
    benchmark = benchmark_of(output)
    names = [model.name for model in benchmark.models]
    pairs = {(names[a], names[b]): result.reason for (a, b), result in compare_models(benchmark).items()}
    assert pairs["good", "bad"] == pairs["bad", "good"] == "their data sets differ"
    assert pairs["alike", "good"] == f"the samples of {runs['alike'].name[4:]} cannot be read"
    assert "not comparable" in text_of(written(output))


def test_some_runs_from_anywhere_are_drawn_on_a_page_elsewhere(answered: Path, tmp_path: Path) -> None:
    good, bad = (next(answered.glob(f"run=*-{name}")) for name in ("good", "bad"))
    board.main([f"runs={good},{bad}", f"out={tmp_path}/pages/two.html"])
    html = (tmp_path / "pages/two.html").read_text()
    assert "2 complete runs, 2 models" in text_of(html)
    assert "better, p <0.001" in text_of(html)


def test_pruned_runs_stay_on_the_page_without_a_link(output: Path) -> None:
    store = ArtifactStore.open(str(output))
    for run in plan(store, 0).runs:
        apply(store, run)
    html = written(output)
    assert "13 complete runs" in text_of(html)
    assert html.count("pruned 20") == 6
    assert 'href="run%3D2025-10-20-worse' not in html


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output_dir= and runs= are both given"):
        board.main([f"output_dir={tmp_path}", "runs=a,b"])
    with pytest.raises(RunError, match=r"there is no such directory"):
        board.main([f"output_dir={tmp_path}/gone"])
    with pytest.raises(RunError, match=r"runs=\S*gone: there is no such directory"):
        board.main([f"runs={tmp_path}/gone"])


@pytest.mark.parametrize("name", [".", "..", "/", "s3://", "a-directory", "a-fifo"])
def test_a_page_replaces_nothing_but_a_file(output: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(output)
    Path("a-directory").mkdir()
    os.mkfifo("a-fifo")
    with pytest.raises(ConfigError, match=r"^out='"):
        board.main([f"output_dir={output}", f"out={name}"])
    assert stat.S_ISFIFO(Path("a-fifo").stat().st_mode)
    with pytest.raises(ConfigError, match="runs=', ' names no run"):
        board.main(["runs=, "])


def test_a_score_of_any_size_is_left_out(output: Path) -> None:
    for file in (output / "index").rglob("*.json"):
        entry = json.loads(file.read_text())
        for score in entry["scores"]:
            score |= {"value": 1e308, "ci_low": -1e308, "ci_high": 1e308}
        file.write_text(json.dumps(entry))
    assert "13 complete runs" in text_of(written(output))


def test_the_index_page_of_an_empty_directory_says_so(tmp_path: Path) -> None:
    assert page.write_index(str(tmp_path)) == f"{tmp_path}/index.html"
    assert "There is no complete run yet" in (tmp_path / "index.html").read_text()
