"""A whole run against a strict server of another model: what was evaluated is what answered, and it costs money."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from builders import ROOT
from strict_server import StrictServer, serving

from pipeline import pack, rescore
from pipeline.config.loading import compose
from pipeline.generate.cluster import cluster
from pipeline.orchestrator import execute
from pipeline.runs import index
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.storage.artifacts import ArtifactStore

SERVED = "someone/else-7b"
SCRIPT = StrictServer(refused=("max_tokens", "seed"), served=f"{SERVED}-2026-11-01")


@dataclass
class Ran:
    run: ArtifactStore
    server: StrictServer

    @property
    def manifest(self) -> Manifest:
        found = read_manifest(self.run)
        assert found is not None
        return found

    def json(self, name: str) -> Any:
        return json.loads(self.run.read_text(name))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """A run of conf=mera, the reference model's, against a server of another model that refuses max_tokens."""
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, serving(SCRIPT) as server:
        patch.chdir(ROOT)
        patch.setenv("MY_FOLDER", "b1gsecret")
        server.required = {"x-folder-id": "b1gsecret"}
        arguments = ["conf=mera", "run_id=one", f"output_dir={output}", "splits=test"]
        arguments += [f"tasks.{task}.dataset=data/demo/{task}" for task in ("agro_bench", "aqua_bench", "med_bench")]
        arguments += ["engine.kind=endpoint", f"engine.endpoint.base_url={server.url}"]
        arguments += ["engine.endpoint.headers.x-folder-id=MY_FOLDER", "engine.endpoint.leave_out=[seed]"]
        arguments += ["engine.endpoint.token_limit=max_completion_tokens"]
        arguments += ["engine.endpoint.price={input_per_million: 10, output_per_million: 100, currency: RUB}"]
        config = compose(arguments)
        with cluster(config):
            yield Ran(execute(config), server)


def test_no_product_names_the_model_of_the_configuration(ran: Ran) -> None:
    fields = ran.json("card.json")["fields"]
    assert (fields["model_name"]["value"], fields["model_name"]["origin"]) == (SERVED, "engine.served_model")
    for name in ("team", "model_link", "model_size", "license", "architecture_description", "additional_links"):
        assert fields[name]["value"] is None, name
    assert (ran.manifest.model, ran.manifest.model_fingerprint) == (SERVED, None)
    assert "Qwen3.6-35B-A3B" not in ran.run.read_text("card.md")
    _, _, text = ran.run.read_text("report.html").partition('<dl class="about">')
    head, _, _ = text.partition("</dl>")
    assert SERVED in head
    assert "Qwen3.6-35B-A3B" not in head
    with zipfile.ZipFile(ran.run.path("one_submission.zip")) as archive:
        logs = zipfile.ZipFile(io.BytesIO(archive.read("logs_public.zip")))
        (results,) = (json.loads(logs.read(name)) for name in logs.namelist() if name.startswith("results_"))
    assert (results["model_name"], results["config"]["model_args"]) == (SERVED, f"model={SERVED}")


def test_a_name_in_the_answers_that_was_not_requested_is_a_warning(ran: Ran) -> None:
    (line,) = [line for line in ran.manifest.warnings if line.startswith("other-model-answered: ")]
    assert f"requests for '{SERVED}' were answered by '{SERVED}-2026-11-01'" in line
    assert ran.json("card.json")["beyond"]["answered_by"]["value"] == f"{SERVED}-2026-11-01"


def test_the_index_and_the_views_have_the_model_that_answered(ran: Ran) -> None:
    entry = index.make(ArtifactStore.open(str(Path(ran.run.root).parent)), "one", unread := [])
    assert entry is not None
    assert (unread, entry.model_name) == ([], SERVED)
    database = duckdb.connect()
    database.execute("SET VARIABLE outputs = $1", [str(Path(ran.run.root).parent)])
    database.execute((ROOT / "notebooks/views.sql").read_text(encoding="utf-8"))
    assert database.sql("SELECT run, model FROM runs").fetchall() == [("one", SERVED)]


def test_the_cost_is_the_servers_tokens_times_the_prices(ran: Ran) -> None:
    num_rows = ran.manifest.counts.num_samples  # type: ignore[union-attr]
    cost = ran.manifest.cost
    assert cost is not None
    assert (cost.num_prompt_tokens, cost.num_unknown, cost.currency) == (100 * num_rows, 0, "RUB")
    assert cost.amount == pytest.approx(num_rows * (100 * 10 + 10 * 100) / 1e6)
    assert "RUB" in ran.run.read_text("report.html")
    (entry,) = index.newest(ArtifactStore.open(str(Path(ran.run.root).parent)))
    assert (entry.cost, entry.currency, entry.is_cost_bound) == (cost.amount, "RUB", False)


def test_no_file_of_the_run_holds_a_headers_value(ran: Ran) -> None:
    files = [file for file in Path(ran.run.root).rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if b"b1gsecret" in file.read_bytes()] == []


def test_the_overrides_of_pack_are_kept_and_shown_by_rescore(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"run={ran.run.root}"
    pack.main([where])
    asked = " submission.team=<who submits>"
    assert asked in capsys.readouterr().out
    pack.main([where, "submission.mode=extracted", "submission.team=Мы", "submission.model_name=Else 7B"])
    out = capsys.readouterr().out
    assert "one_extracted_submission.zip" in out
    assert asked not in out
    told = "  submission as given to pack: submission.mode=extracted submission.team=Мы submission.model_name=Else 7B\n"
    rescore.main([where])
    assert told in capsys.readouterr().out
    fields = ran.json("card.json")["fields"]
    assert [fields[name]["value"] for name in ("team", "model_name", "license")] == ["Мы", "Else 7B", None]
    names = {path.name for path in Path(ran.run.root).glob("*.zip")}
    assert names == {"one_extracted_submission.zip"}
    pack.main([where, "submission.mode=reference"])
    assert "submission as given to pack: submission.mode=reference submission.team=Мы" in capsys.readouterr().out
