"""report.html as a file: its contents, its chunks, and that no text in it is parsed as HTML."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archives import MakeRun, Scored, completion, question
from builders import record_manifest
from reports import HOSTILE, fixed_texts, flip, report_of, untranslated

from pipeline import rescore
from pipeline.comparison import gate
from pipeline.config import loading
from pipeline.errors import ConfigError
from pipeline.publish import report
from pipeline.publish import stage as publish_stage
from pipeline.publish.report import data as report_data
from pipeline.publish.report import sample_blocks
from pipeline.runs.manifest import ReportRecord, load

DATA = re.compile(r'<script type="application/(json|gzip)" (?:id|class)="(\w+)">(.*?)</script>', re.DOTALL)


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def data(file: Path) -> dict[str, list[Any]]:
    """Return the data that the page's script reads, by the name of its element."""
    found: dict[str, list[Any]] = {}
    for kind, name, text in DATA.findall(file.read_text(encoding="utf-8")):
        found.setdefault(name, []).append(json.loads(text) if kind == "json" else unpacked(text))
    return found


def ids(file: Path) -> list[tuple[str, str, str]]:
    columns = [data(file)["index"][0][name] for name in ("task", "split", "id")]
    return list(zip(*columns, strict=True))


def test_publish_makes_the_report_and_the_manifest_records_it(demo_run: Scored) -> None:
    products = publish_stage.publish(demo_run.store, demo_run.config, demo_run.manifest)
    assert products.published.report == ReportRecord(file="report.html", chunks=None, num_samples=214)
    assert products.lines[0].endswith("report.html  the report: scores, plots and 214 samples")


def test_every_sample_is_in_the_report_once(demo_run: Scored) -> None:
    found = ids(report_of(demo_run))
    assert (len(found), len(set(found))) == (214, 214)


def test_the_texts_of_a_sample_are_in_its_block_at_its_position(make_run: MakeRun) -> None:
    run = make_run([question("agro_bench", 7, text="Где?"), question("agro_bench", 3)])
    found = data(report_of(run))
    texts = found["texts"][0][found["index"][0]["id"].index("7")]
    assert "Где?" in texts["prompt"]
    assert texts["response"] == "B"


def test_what_is_unknown_is_null(make_run: MakeRun) -> None:
    index = data(report_of(make_run([question("agro_bench", 7)])))["index"][0]
    assert (index["gold"], index["em"], index["correct"], index["change"]) == ([None], [None], [None], [None])


def test_an_id_beyond_javascripts_numbers_is_exact(make_run: MakeRun) -> None:
    assert ids(report_of(make_run([question("agro_bench", 2**63 - 1)]))) == [("agro_bench", "test", str(2**63 - 1))]


def test_hostile_text_is_never_in_the_page_unescaped(make_run: MakeRun) -> None:
    prompts = [question("agro_bench", 1, text=HOSTILE, gold=HOSTILE[:500], split="train")]
    run = make_run(prompts, reply=lambda prompt, repeat: completion(prompt, repeat, HOSTILE))
    record_manifest(run.store, "complete", **run.content | {"warnings": [HOSTILE], "run_id": HOSTILE[:99]})
    page = report_of(run).read_text(encoding="utf-8")
    assert "<script>globalThis.hacked" not in page
    assert "&lt;script&gt;globalThis.hacked" in page
    assert not re.search("<(img|svg|iframe|/pre></div)", page.split("<script type", 1)[0])
    assert page.count("</script>") == page.count("<script")


def test_the_page_allows_only_its_own_scripts_and_no_address(make_run: MakeRun) -> None:
    page = report_of(make_run([question("agro_bench", 1)])).read_text(encoding="utf-8")
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; script-src &#39;sha256-")
    assert "http" not in policy[1]
    assert "file:" not in policy[1]
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="(?!data:)', page)


def test_texts_beyond_the_size_limit_are_in_files_next_to_the_page(make_run: MakeRun) -> None:
    run = make_run([question("agro_bench", 1), question("med_bench", 1)], "report.max_inline_mb=0")
    page = report_of(run)
    found = data(page)
    assert "texts" not in found
    assert found["settings"] == [{"chunks": "report_samples", "num_samples": 2}]
    chunk = (page.parent / "report_samples" / "0.js").read_text(encoding="utf-8")
    packed = re.fullmatch(r'reportChunk\(0, "([A-Za-z0-9+/=]+)"\);\n', chunk)
    assert packed is not None
    assert [text["response"] for text in unpacked(packed[1])] == ["B", "B"]


def test_chunks_of_an_older_report_are_removed(make_run: MakeRun) -> None:
    run = make_run([question("agro_bench", 1)])
    stale = Path(run.store.path("report_samples/5.js"))
    stale.parent.mkdir()
    stale.write_text("older")
    report_of(run)
    assert not stale.parent.exists()


def test_blocks_are_full_by_rows_or_by_size(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run([question("agro_bench", number) for number in range(sample_blocks.BLOCK_ROWS + 1)])
    assert [len(each["id"]) for each in data(report_of(run))["index"]] == [sample_blocks.BLOCK_ROWS, 1]
    monkeypatch.setattr(sample_blocks, "BLOCK_CHARS", 1)
    assert len(data(report_of(run))["texts"]) == sample_blocks.BLOCK_ROWS + 1


@pytest.mark.parametrize(
    ("overrides", "is_present"),
    [
        (["report.reference={agriculture: 0.646}"], True),
        (["report.reference={agriculture: 0.646}", "limit=1"], False),
        (["report.reference={medicine: 0.858}"], False),
        ([], False),
    ],
)
def test_a_reference_appears_where_it_applies(make_run: MakeRun, overrides: list[str], is_present: bool) -> None:
    prompts = [question("agro_bench", 1, gold="B"), question("agro_bench", 1, split="train", gold="B")]
    page = report_of(make_run(prompts, *overrides)).read_text(encoding="utf-8")
    assert page.count("reference submission 0.646") == is_present


def test_it_tells_how_the_letters_were_read_by_one_and_several_right_answers(make_run: MakeRun) -> None:
    prompts = [
        question("agro_bench", number, split="train", gold=gold) for number, gold in enumerate(["B", "B", "A, B"])
    ]
    replies = ["B", "Ответ: B", "Ответ: A (возможно, B)"]
    page = report_of(make_run(prompts, reply=lambda prompt, repeat: completion(prompt, repeat, replies[prompt["id"]])))
    text = page.read_text(encoding="utf-8")
    section = text.split('id="letters"')[1].split("</section>")[0]
    assert [re.sub(r"<[^>]*>|\s+", " ", row).split() for row in section.split("<tr><td>")[1:]] == [
        ["train", "answer_prefix", "1", "33.3%", "100.0%", "1", "50.0%", "100.0%", "–", "–"],
        ["train", "bare_letters", "1", "33.3%", "100.0%", "1", "50.0%", "100.0%", "–", "–"],
        ["train", "conflict", "(no", "answer)", "1", "33.3%", "0.0%", "–", "–", "1", "100.0%", "0.0%"],
    ]
    assert "1 right, EM 0" in section
    assert "0 wrong, EM 1" in section
    assert data(page)["texts"][0][2]["seen_letters"] == "A, B"


def test_a_hidden_score_is_a_dash_with_a_reason(make_run: MakeRun) -> None:
    page = report_of(make_run([question("agro_bench", 1)])).read_text(encoding="utf-8")
    assert "not scored: the golds are hidden" in page
    assert "no sample has a score" in page


def test_the_gates_result_is_in_the_report(make_run: MakeRun) -> None:
    prompts = [question("agro_bench", number, split="train", gold="B") for number in range(9)]
    make_run(prompts, "run_id=last-night")
    overrides = ["run_id=tonight", "gate.baseline=last-night", "gate.max_drop=0.03"]
    run = make_run(prompts, *overrides, reply=lambda prompt, repeat: completion(prompt, repeat, "A"))
    content = run.content | {"counts": {"num_samples": 9, "num_truncated": 0, "num_failed": 0, "num_no_answer": 0}}
    manifest = load(content)
    verdict = gate.judge(run.config, run.store, manifest)
    assert verdict is not None
    report.write(run.store, run.config, replace(manifest, gate=verdict.result, compare=tuple(verdict.rows)))
    file = Path(run.store.path("report.html"))
    page = file.read_text(encoding="utf-8")
    assert untranslated(page) == []
    assert "significantly worse" in fixed_texts(page)
    assert fixed_texts(page).isdisjoint({"not significant", "The gate is kept"})
    assert data(file)["texts"][0][0]["baseline"]["response"] == "B"
    for text in ("Since the baseline", "-1.000", "broken</span>", "✗ GATE BROKEN – tonight – report</title>"):
        assert text in page
    assert data(file)["index"][0]["change"] == ["lost"] * 9


def test_what_the_gate_saw_over_runs_is_in_the_report(make_run: MakeRun) -> None:
    run = make_run([question("agro_bench", 1)])
    trend = {"level": "run", "task": "all", "split": "train", "num_runs": 31, "value": 0.641, "mean": 0.662}
    trend |= {"sigma": 0.006, "statistic": 7.0, "limit": 7.0, "since": "<b>n27", "has_declined": True}
    changed = {"since": "n30", "before": "n29", "num_questions": 2_000, "num_changed": 190, "num_before": 140}
    record = {"baseline": "n30", "broken": [], "rules": [], "notes": [], "baselines": ["n30", "n29", "n28"]}
    record |= {"trends": [trend], "changed": changed | {"p_value": 0.002}}
    report.write(run.store, run.config, load(run.content | {"gate": record}))
    page = Path(run.store.path("report.html")).read_text(encoding="utf-8")
    assert "<bdi>n30</bdi> and 2 runs before it" in page
    (row,) = re.findall(r'<table id="trends">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert untranslated(page) == []
    for text in ("all domains", "declined", ">31<", ">0.662<", ">0.641<", ">7.0<", "&lt;b&gt;n27"):
        assert text in row
    assert "<b>n27" not in page
    changes = re.sub("<[^>]*>", "", page.split('<p id="changed">')[1].split("</p>")[0])
    assert changes.endswith("190 of 2,000 (9.5%). Between n29 and that run: 140 (7.0%), p 0.002")


def test_questions_without_letters_are_marked_by_their_exact_match(make_run: MakeRun) -> None:
    free = question("agro_bench", 1, split="train", gold="дождь")
    doc = json.loads(free.doc) | {"inputs": {"question": "Что?"}}
    free = replace(free, doc=json.dumps(doc, ensure_ascii=False))
    run = make_run([free, question("med_bench", 1, split="train", gold="B")])
    assert data(report_of(run))["index"][0]["correct"] == [None, 1]
    flip(run, [("agro_bench", "train", 1, "lost")])
    assert data(report_of(run))["index"][0]["change"] == ["lost", None]


def test_flipped_questions_are_marked(make_run: MakeRun) -> None:
    run = make_run([question("agro_bench", number) for number in range(3)])
    flip(run, [("agro_bench", "test", 1, "gained")])
    index = data(report_of(run))["index"][0]
    assert dict(zip(index["id"], index["change"], strict=True)) == {"0": None, "1": "gained", "2": None}


def test_a_baselines_response_has_a_longest_length(make_run: MakeRun) -> None:
    run = make_run([question("agro_bench", number) for number in range(2)])
    flip(run, [("agro_bench", "test", 1, "lost")], base_response="x" * 30_000, base_answer="C")
    kept, flipped = data(report_of(run))["texts"][0]
    assert "baseline" not in kept
    assert (flipped["baseline"]["answer"], flipped["baseline"]["is_cut"]) == ("C", True)
    assert len(flipped["baseline"]["response"]) == sample_blocks.LONGEST_BASELINE


def test_rescore_remakes_the_report(demo_run: Scored) -> None:
    report_of(demo_run).write_text("older")
    rescore.main([f"run={demo_run.store.root}"])
    assert len(ids(Path(demo_run.store.path("report.html")))) == 214
    assert demo_run.content["published"]["report"]["num_samples"] == 214


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("report.max_inline_mb=-1", r"report\.max_inline_mb=-1: must be 0 or more"),
        ("report.reference={agriculture: 64.6}", r"report\.reference\.agriculture=64\.6: must be from 0 to 1"),
    ],
)
def test_a_wrong_key_is_an_error_of_one_line(at_root: Path, override: str, line: str) -> None:  # noqa: ARG001
    with pytest.raises(ConfigError, match=line):
        loading.compose(["conf=demo", override])


def test_of_very_many_groups_the_largest_are_plotted() -> None:
    row = {"task": "t", "split": "test", "group_by": "topic", "metric": "em"}
    rows = [{**row, "group": f"g{number}", "num_total": number} for number in range(report_data.MOST_GROUPS + 5)]
    whole = {**row, "group_by": None, "group": None, "num_total": 9}
    assert report_data._largest_groups([whole, *rows]) == [whole, *rows[5:]]
