"""Forty nights through the real score stage and gate: page, list, gate and CUSUM show a regression and a decline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from builders import ROOT
from nights import DECLINE, REGRESSION, Model, Nights

from pipeline import list as list_command
from pipeline import prune
from pipeline.overview import page
from pipeline.runs.index import IndexEntry, newest
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("at_root")]

NUM = 40


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the nights of a model that gets worse."""
    output = tmp_path_factory.mktemp("nights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        nights = Nights(output=output, num_questions=300, reports=True)
        for night in range(1, NUM + 1):
            nights.run(Model(name="worse", accuracy=0.7, gets_worse=True), night)
    return output


def entries(output: Path) -> list[IndexEntry]:
    return list(newest(ArtifactStore.open(str(output)), limit=100))[::-1]


def manifests(output: Path) -> list[Manifest]:
    store = ArtifactStore.open(str(output))
    found = [read_manifest(store.child(f"run={entry.run_id}")) for entry in entries(output)]
    return [each for each in found if each is not None]


def test_the_gate_breaks_on_the_regression_and_in_the_decline_alone(output: Path) -> None:
    broken = [number for number, entry in enumerate(entries(output), start=1) if not entry.kept_gate]
    assert broken[0] == REGRESSION
    assert broken[1] >= DECLINE
    assert broken[-1] == NUM


def test_the_cusum_of_the_gate_and_of_the_page_show_the_decline(output: Path) -> None:
    declined = []
    for number, manifest in enumerate(manifests(output), start=1):
        assert manifest.gate is not None
        declined += [number for each in manifest.gate.trends if each.level == "run" and each.has_declined]
    assert DECLINE <= declined[0] <= DECLINE + 8
    assert declined[-1] == NUM
    html = Path(page.write_index(str(output))).read_text()
    assert "1 of 1 model needs a look: <bdi>worse</bdi>" in html
    (alarm,) = re.findall(r'class="alarm" d="([^"]*)"/>\n<path class="limit"', html)
    assert alarm.count("Z") == len(declined)
    assert html.count("\ngate broken: max_drop\n") == sum(not entry.kept_gate for entry in entries(output))


def test_the_list_shows_the_regression(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_command.main([f"output_dir={output}", "last=100", "json=true"])
    runs = json.loads(capsys.readouterr().out)[::-1]
    scores = [
        next(each["value"] for each in run["entry"]["scores"] if each["level"] == "run" and each["value"])
        for run in runs
    ]
    before = sum(scores[: REGRESSION - 1]) / (REGRESSION - 1)
    assert before - scores[REGRESSION - 1] > 0.03
    assert scores[REGRESSION] == pytest.approx(before, abs=0.02)
    assert before - scores[-1] > 0.03


def test_prune_keeps_the_newest_run_and_the_pooled_baseline(output: Path) -> None:
    last = manifests(output)[-1]
    assert last.gate is not None
    needed = {str(last.run_id), *last.gate.baselines}
    prune.main([f"output_dir={output}", "keep_days=0", "apply=true"])
    whole = {entry.run_id for entry in entries(output) if (output / f"run={entry.run_id}/samples").exists()}
    assert whole == needed
    assert len(entries(output)) == NUM
    html = Path(page.write_index(str(output))).read_text()
    assert html.count("pruned 20") == NUM - len(needed)
    assert 'class="alarm" d="M' in html
