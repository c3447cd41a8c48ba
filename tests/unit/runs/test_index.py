"""The index of complete runs: found newest first, made again from the runs, whatever lies in the directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from archives import question, run_of
from builders import ENDPOINT, publish_past_run, record_manifest, settings

from pipeline import preview
from pipeline.errors import PipelineError
from pipeline.orchestrator import _require_good, pack, rescore
from pipeline.records import SAMPLE_SCHEMA
from pipeline.runs import index, past_runs
from pipeline.runs.directory import open_finished
from pipeline.runs.index import IndexEntry, model_key, newest
from pipeline.storage.artifacts import ArtifactStore

pytestmark = pytest.mark.usefixtures("at_root")

NESTED = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, to copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[3])
        run = publish_past_run(ArtifactStore.open(str(tmp_path_factory.mktemp("template"))), "x", {"a": [10]})
    return Path(run.root)


@pytest.fixture
def output(tmp_path: Path, template: Path) -> ArtifactStore:
    """Three complete runs; `c` is the newest."""
    output = ArtifactStore.open(str(tmp_path))
    for run_id in "bca":
        copy(template, output, run_id)
    return output


def copy(template: Path, output: ArtifactStore, run_id: str, **content: object) -> ArtifactStore:
    """Add a copy of the run `template`, which ended at the time `run_id`."""
    shutil.copytree(template, output.path(f"run={run_id}"))
    run = output.child(f"run={run_id}")
    record_manifest(run, "complete", **{"ended_at": run_id} | content)
    return run


def ids(entries: Iterator[IndexEntry]) -> str:
    return "".join(entry.run_id for entry in entries)


def entry_file(output: ArtifactStore, run_id: str) -> Path:
    (file,) = Path(output.root).glob(f"index/*/*__{run_id}.json")
    return file


def test_runs_are_found_newest_first_without_opening_them(output: ArtifactStore) -> None:
    assert ids(newest(output)) == "cba"
    for run_id in "abc":
        output.child(f"run={run_id}").write_text("manifest.json", "{")
    lines: list[str] = []
    assert ids(newest(output, unread=lines)) == "cba"
    assert lines == []


def test_entries_are_selected_by_model_time_number_and_condition(output: ArtifactStore, template: Path) -> None:
    other = copy(template, output, "d")
    text = other.read_text("config.yaml")
    other.write_text("config.yaml", text.replace("model: null", "model: other"))
    mine = model_key(settings())
    assert ids(newest(output)) == "dcba"
    assert ids(newest(output, model=mine)) == "cba"
    assert ids(newest(output, other_than=mine)) == "d"
    assert ids(newest(output, before="b")) == "ba"
    assert ids(newest(output, without="c")) == "dba"
    assert ids(newest(output, limit=2)) == "dc"
    assert ids(newest(output, is_match=lambda entry: entry.run_id in "ab", limit=1)) == "b"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:0],
        lambda text: text[:-20],
        lambda text: text[:0] + NESTED,
        lambda text: text.replace('"status": "complete"', '"status": 5'),
        lambda text: text.replace('"num_rows": null', '"num_rows": 1e400'),
        lambda text: text.replace('"run_id": "b"', '"run_id": "c"'),
        lambda text: text + " " * index.MOST_BYTES,
    ],
)
def test_a_damaged_entry_is_made_again(output: ArtifactStore, damage: Callable[[str], str]) -> None:
    assert ids(newest(output)) == "cba"
    file = entry_file(output, "b")
    whole = file.read_text()
    file.write_text(damage(whole))
    assert file.read_text() != whole
    lines: list[str] = []
    assert ids(newest(output, unread=lines)) == "cba"
    assert (file.read_text(), lines) == (whole, [])


def test_an_absent_entry_is_made_again_and_one_without_a_run_is_passed_over(output: ArtifactStore) -> None:
    assert ids(newest(output)) == "cba"
    entry_file(output, "b").unlink()
    output.remove("run=c")
    assert ids(newest(output)) == "ba"
    assert entry_file(output, "b").exists()


def test_incomplete_runs_and_other_directories_are_no_past_runs(output: ArtifactStore, template: Path) -> None:
    for status in ("running", "failed"):
        record_manifest(copy(template, output, status), status)
    for name in ("run=", "run=.x", "run=a b", "other", "run=empty", f"run={'x' * 200}"):
        output.child(name).create()
    (Path(output.root) / "run=file").write_text("")
    lines: list[str] = []
    assert ids(newest(output, unread=lines)) == "cba"
    assert lines == []


def _fifo(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "manifest nested": lambda run: (run / "manifest.json").write_text(NESTED),
    "manifest nested inside": lambda run: (run / "manifest.json").write_text(
        '{"status": "complete", "config": ' + NESTED + "}"
    ),
    "manifest FIFO": lambda run: _fifo(run, "manifest.json"),
    "manifest directory": lambda run: ((run / "manifest.json").unlink(), (run / "manifest.json").mkdir()),
    "manifest device": lambda run: ((run / "manifest.json").unlink(), (run / "manifest.json").symlink_to("/dev/zero")),
    "manifest endless": lambda run: os.truncate(run / "manifest.json", 1 << 40),
    "manifest of a wrong type": lambda run: (run / "manifest.json").write_text('{"status": "complete", "counts": []}'),
    "infinite count": lambda run: (run / "manifest.json").write_text(
        '{"status": "complete", "counts": {"num_samples": 1e400}}'
    ),
    "huge count": lambda run: (run / "manifest.json").write_text(
        f'{{"status": "complete", "counts": {{"num_output_tokens": {10**4000}}}}}'
    ),
    "infinite time": lambda run: (run / "manifest.json").write_text(
        '{"status": "complete", "timings_s": {"total": 1e400}}'
    ),
    "not a number": lambda run: (run / "manifest.json").write_text(
        '{"status": "complete", "timings_s": {"generate": NaN}}'
    ),
    "long text": lambda run: (run / "manifest.json").write_text(
        json.dumps({"status": "complete", "conf": "x" * 100_000})
    ),
    "config nested": lambda run: (run / "config.yaml").write_text(f"tasks: {NESTED}"),
    "config FIFO": lambda run: _fifo(run, "config.yaml"),
    "config of aliases": lambda run: (run / "config.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
    "config with tags": lambda run: (run / "config.yaml").write_text("tasks: !!timestamp x\n"),
    "config list": lambda run: (run / "config.yaml").write_text("[1]"),
    "config date": lambda run: (run / "config.yaml").write_text("tasks: 2026-13-45"),
    "config of wrong types": lambda run: (run / "config.yaml").write_text(
        "tasks: {x: 3}\nmodel: 7\nengine: [vllm]\ngeneration: {max_gen_toks: -1}\nsplits: 4\n"
    ),
    "config of a model in a mapping": lambda run: (run / "config.yaml").write_text(
        "tasks: {x: {}}\nmodel: {path: {a: b}}\nengine: {kind: vllm}\n"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_run_is_left_out_with_one_line(output: ArtifactStore, template: Path, name: str) -> None:
    hostile = copy(template, output, "z")
    HOSTILE[name](Path(hostile.root))
    for _ in range(2):
        lines: list[str] = []
        assert ids(newest(output, unread=lines)) == "cba"
        assert len(lines) == 1
        assert lines[0].startswith(f"{hostile.root} is left out: ")
        assert len(lines[0]) <= 400
        assert "\n" not in lines[0]


@pytest.mark.parametrize("name", ["FIFO", "nested", "column"])
def test_unreadable_scores_are_unknown_and_samples_are_left_out(
    output: ArtifactStore, template: Path, name: str
) -> None:
    hostile = copy(template, output, "z")
    root = Path(hostile.root)
    if name == "FIFO":
        _fifo(root, "metrics.parquet")
        _fifo(root, "samples/task=agro_bench/split=test/part-00000.parquet")
    elif name == "nested":
        hostile.write_text("samples/_stage.json", '{"facts": ' + NESTED + "}")
    else:
        file = root / "samples/task=agro_bench/split=test/part-00000.parquet"
        file.write_bytes(file.read_bytes().replace(b"messages", b"\xe3essages"))
    entries = {entry.run_id: entry for entry in newest(output)}
    assert entries["z"].scores is None
    lines: list[str] = []
    config = settings(f"output_dir={output.root}")
    runs = past_runs.of_model(config, lines)
    found = past_runs.each(runs, lambda run: run.store.require_artifact("samples", SAMPLE_SCHEMA).num_rows, lines)
    assert list(found) == [1, 1, 1]
    assert len(lines) == 1
    assert lines[0].startswith(f"{hostile.root} is left out: ")


def test_a_preview_names_a_hostile_run_and_estimates_from_another(
    output: ArtifactStore, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fifo(Path(copy(template, output, "z").root), "manifest.json")
    copy(template, output, "y", timings_s={"generate": 1e308}, counts={"num_output_tokens": 1})
    preview.main(["conf=demo", *ENDPOINT, f"output_dir={output.root}", "only=[agro_bench]", "limit=1", "n=0"])
    printed = capsys.readouterr().out
    assert f"run=z is left out: {output.root}/run=z/manifest.json cannot be read: it is no regular file" in printed
    assert "from run y, ended y" in printed
    assert "time: unknown" in printed


@pytest.mark.parametrize("kind", ["file", "FIFO", "loop", "directories"])
def test_whatever_lies_in_place_of_the_index_no_run_is_lost(output: ArtifactStore, kind: str) -> None:
    place = Path(output.root) / "index"
    if kind == "file":
        place.write_text("")
    elif kind == "FIFO":
        os.mkfifo(place)
    elif kind == "loop":
        place.mkdir()
        (place / "again").symlink_to(place)
        (place / "all").symlink_to(output.root)
    else:
        assert ids(newest(output)) == "cba"
        file = entry_file(output, "b")
        file.unlink()
        file.mkdir()
    lines: list[str] = []
    assert ids(newest(output, unread=lines)) == "cba"
    assert bool(lines) == (kind in ("file", "FIFO", "directories"))
    assert all(line.startswith(f"{place} ") for line in lines)


def test_several_processes_make_the_entries_at_once(output: ArtifactStore, template: Path) -> None:
    for number in range(10):
        copy(template, output, f"d{number}")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: [entry.run_id for entry in newest(output)], range(4)))
    assert found == [[*(f"d{number}" for number in range(9, -1, -1)), "c", "b", "a"]] * 4
    assert len(list(Path(output.root).glob("index/*/*"))) == 13


def test_a_run_that_ends_again_has_one_entry_and_a_reopened_one_has_none(output: ArtifactStore) -> None:
    assert ids(newest(output)) == "cba"
    run = output.child("run=a")
    record_manifest(run, "complete", ended_at="x")
    index.record(run, past_runs.require_complete(run))
    assert ids(newest(output)) == "acb"
    assert entry_file(output, "a").name == "x__a.json"
    record_manifest(run, "running")
    index.remove(run)
    assert ids(newest(output)) == "cb"


def test_a_run_that_changed_behind_the_index_is_read_again(output: ArtifactStore) -> None:
    assert ids(newest(output)) == "cba"
    record_manifest(output.child("run=a"), "running")
    record_manifest(output.child("run=b"), "complete", ended_at="b", rescored_at="later", counts={"num_failed": 3})
    record_manifest(output.child("run=c"), "complete", ended_at="0")
    config = settings(f"output_dir={output.root}")
    found = list(past_runs.of_model(config, []))
    assert [(run.run_id, run.entry.num_failed) for run in found] == [("c", None), ("b", 3)]
    assert ids(newest(output, before="b")) == "bac"


def test_an_entry_that_claims_another_runs_name_is_not_believed(output: ArtifactStore, template: Path) -> None:
    other = copy(template, output, "d")
    other.write_text("config.yaml", other.read_text("config.yaml").replace("model: null", "model: other"))
    claims = next(newest(output, model=model_key(settings())))
    index._write(output, replace(claims, run_id="d", ended_at="z"))
    config = settings(f"output_dir={output.root}")
    assert [run.run_id for run in past_runs.of_model(config, [])] == ["c", "b", "a"]
    assert [run.run_id for run in past_runs.of_other_models(config, [])] == ["d"]


def test_a_run_elsewhere_has_no_entry(tmp_path: Path, template: Path) -> None:
    shutil.copytree(template, tmp_path / "copy")
    run = ArtifactStore.open(str(tmp_path / "copy"))
    index.record(run, past_runs.require_complete(run))
    assert not (tmp_path / "index").exists()


def test_different_models_have_different_directories() -> None:
    names = [
        *("org/m", "org-m", "/data/org/m", "~/m", "../m", ".", "..", "мера", "a" * 300, "m\n"),
        *("M", "m", "m/", "m//"),
    ]
    keys = [("vllm", name) for name in names] + [("endpoint", "http://a/v1", None), ("endpoint", "http://b/v1", None)]
    slugs = {index._slug(key) for key in keys}
    assert len(slugs) == len(keys)
    assert all(slug.strip(".") and len(slug) < 80 and set(slug).isdisjoint("/\n ") for slug in slugs)


def test_the_entry_of_a_scored_run_has_its_scores_and_its_verdict(tmp_path: Path) -> None:
    prompts = [question("agro_bench", number, gold="B" if number else "A", split="train") for number in range(4)]
    prompts += [question("agro_bench", 5)]
    scored = run_of(prompts, str(tmp_path), "gate.max_no_answer=0.5")
    rescore(*open_finished(scored.store.root))
    (entry,) = newest(ArtifactStore.open(str(tmp_path)))
    assert (entry.run_id, entry.conf, entry.exit_code, entry.kept_gate) == ("one", "demo", 0, True)
    assert (entry.num_rows, entry.num_failed, entry.num_output_tokens) == (5, 0, 5)
    assert (entry.tasks, entry.max_gen_toks, entry.num_slots) == (("agro_bench",), 192, 64)
    assert entry.report == "run=one/report.html"
    assert (tmp_path / entry.report).exists()
    assert entry.scores is not None
    values = {(each.level, each.split, each.metric): each.value for each in entry.scores}
    assert values["task", "train", "score"] == values["task", "train", "correct"] == 0.75
    assert entry.gate is not None
    assert (entry.gate.baseline, entry.gate.broken) == (None, ())
    assert len(entry_file(ArtifactStore.open(str(tmp_path)), "one").read_bytes()) < 4_096
    file = entry_file(ArtifactStore.open(str(tmp_path)), "one")
    text = file.read_text()
    file.unlink()
    pack(*open_finished(scored.store.root))
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({}, 0),
        ({"counts": {"num_failed": 0}, "gate": {"baseline": "a", "broken": [], "rules": [], "notes": []}}, 0),
        ({"counts": {"num_failed": 1}}, 4),
        ({"gate": {"baseline": "a", "broken": ["max_drop"], "rules": [], "notes": []}}, 3),
        (
            {
                "counts": {"num_failed": 1},
                "gate": {"baseline": None, "broken": ["max_failed"], "rules": [], "notes": []},
            },
            4,
        ),
    ],
)
def test_the_exit_code_of_an_entry_is_that_of_the_run(
    output: ArtifactStore, template: Path, content: dict[str, object], code: int
) -> None:
    run = copy(template, output, "d", **content)
    entry = next(newest(output))
    assert (entry.run_id, entry.exit_code) == ("d", code)
    assert entry.kept_gate == (not content.get("gate") or not entry.gate.broken)
    ends = pytest.raises(PipelineError) if code else nullcontext()
    with ends as caught:
        _require_good(run, settings(), past_runs.require_complete(run))
    assert caught is None or caught.value.exit_code == code


def test_in_object_storage_a_new_model_takes_three_requests_at_most(
    s3_query: str, output: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from werkzeug.serving import WSGIRequestHandler

    store = ArtifactStore.open(f"s3://runs/many?{s3_query}")
    entry = next(newest(output))
    manifest = output.read_text("run=c/manifest.json")

    def put(number: int) -> None:
        run_id, model = f"{number:03}", ("endpoint", "http://127.0.0.1:9/v1", f"m{number % 2}")
        store.write_text(f"run={run_id}/manifest.json", manifest.replace('"c"', f'"{run_id}"'))
        index._write(store, replace(entry, run_id=run_id, ended_at=run_id, model=model))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(400)))
    requests: list[str] = []
    monkeypatch.setattr(WSGIRequestHandler, "log_request", lambda self, *_args: requests.append(str(self.requestline)))
    config = settings(f"output_dir=s3://runs/many?{s3_query}", "engine.endpoint.model=new")
    assert list(past_runs.of_model(config, [])) == []
    assert len(requests) <= 3
    config = replace(config, engine=replace(config.engine, endpoint=replace(config.engine.endpoint, model="m1")))
    assert next(past_runs.of_model(config, [])).run_id == "399"
    assert len(requests) <= 12


def test_runs_in_object_storage_get_their_entries(s3_query: str, template: Path) -> None:
    store = ArtifactStore.open(f"s3://runs/few?{s3_query}")
    for run_id in "ab":
        run = store.child(f"run={run_id}")
        run.write_text("config.yaml", (template / "config.yaml").read_text())
        record_manifest(run, "complete", ended_at=run_id)
    assert ids(newest(store)) == "ba"
    assert len(store.files("index", ".json")) == 2
    record_manifest(store.child("run=a"), "complete", ended_at="c")
    index.record(store.child("run=a"), past_runs.require_complete(store.child("run=a")))
    assert ids(newest(store)) == "ab"
    assert len(store.files("index", ".json")) == 2
