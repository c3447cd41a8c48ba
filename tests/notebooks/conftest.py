"""Complete runs of two models, made without an engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from archives import completion, finish, question
from builders import ROOT, settings

from pipeline.config.loading import plain
from pipeline.records import PROMPT_SCHEMA, Completion, Prompt, to_table
from pipeline.runs import directory as run_directory
from pipeline.runs.identity import settings_hash

HOSTILE = "<script>alert(1)</script> $x_{1$ \u202e{{не знаю"

QUESTIONS = [
    replace(question(task, number, gold=gold, text=text), categories={"subject": subject}, prompt=f"user: {text}")
    for task in ("agro_bench", "aqua_bench", "med_bench")
    for number, gold, text, subject in (
        (1, "B", HOSTILE, "soil"),
        (2, "A", "Что ответить?", "water $\\frac{"),
        (3, "B", "Кто убьёт движок?", "soil"),
        (4, "A", "Пустой ответ?", "soil"),
        (5, "B", "Ответ словами?", "water $\\frac{"),
        (6, "B", "Просто?", "soil"),
    )
]

MANIFEST: dict[str, Any] = {
    "conf": "demo",
    "versions": {"pipeline": "0.1.0", "vllm": "0.32.0", "torch": "2.13.0"},
    "codebase": {"commit": "c0ffee" * 6, "modified": True},
    "hardware": {"gpus": ["8 x NVIDIA A100-SXM4-80GB"]},
    "template_fingerprint": "sha256:abc",
    "engine": {"r0": {"session": "s1", "engine_start_s": 20.0}, "r1": {"session": "s1", "engine_start_s": 30.5}},
    "counts": {"num_samples": 18, "num_scored": 17, "num_failed": 1, "num_output_tokens": 9_000},
    "timings_s": {"prepare": 1.0, "generate": 90.0, "score": 1.0, "total": 92.0},
}


GATE = {
    "baseline": "2026-11-20",
    "broken": [],
    "rules": [],
    "notes": [],
    "trends": [
        {"level": "run", "task": "all", "split": "test", "num_runs": 2, "value": 0.6, "mean": 0.6, "sigma": None}
        | {"statistic": 0.0, "limit": 7.0, "since": None, "has_declined": False}
    ],
    "changed": {"since": "2026-11-20", "before": None, "num_questions": 18, "num_changed": 2, "num_before": None}
    | {"p_value": None},
}
"""What the gate of a run records."""


def reply(prompt: dict[str, Any], repeat: int) -> Completion:
    """Return one completion of each kind of failure, and some right answers."""
    plain = {1: "мысли", 2: HOSTILE, 4: "", 5: "Ответ: B", 6: "B"}
    if prompt["id"] == 3:
        return replace(completion(prompt, repeat, None, "it killed <b>3</b> engines"), num_output_tokens=None)
    answer = completion(prompt, repeat, plain[prompt["id"]])
    return replace(answer, finish_reason="length") if prompt["id"] == 1 else answer


def make_run(output: Path, run_id: str, started_at: str, *overrides: str, prompts: list[Prompt] = QUESTIONS) -> Path:
    """Make a complete run of the questions."""
    config = settings(f"output_dir={output}", f"run_id={run_id}", *overrides)
    config = replace(config, tasks={name: config.tasks[name] for name in ("agro_bench", "aqua_bench", "med_bench")})
    run, config = run_directory.place(config)
    run_directory.begin(run, config)
    with run.publish("prompts", PROMPT_SCHEMA) as store:
        store.write_parquet("part-00000.parquet", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)])
    finish(run, config, reply)
    known = {"config": plain(config), "settings_hash": settings_hash(config)}
    rewrite(Path(run.root), **MANIFEST, **known, started_at=started_at, ended_at=started_at)
    return Path(run.root)


def rewrite(run: Path, status: str = "complete", **changes: Any) -> None:
    """Replace these keys in a run's manifest."""
    file = run / "manifest.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes | {"status": status}))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two runs of one model and one of another; tests must not write into them."""
    output = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        make_run(output, "2026-11-20", "2026-11-20T01:00:00Z", "engine.endpoint.model=small")
        make_run(output, "2026-11-21", "2026-11-21T01:00:00Z", "engine.endpoint.model=small")
        rewrite(output / "run=2026-11-21", gate=GATE)
        make_run(output, "large", "2026-11-21T05:00:00Z", "model.path=org/large: one", "engine.kind=vllm", "limit=6")
    return output


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    """Copy the runs to a directory that a test may write into."""
    return Path(shutil.copytree(made, tmp_path / "outputs"))


@pytest.fixture
def database(output: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database with the views over `output`."""
    with duckdb.connect() as connection:
        connection.execute("SET VARIABLE outputs = $output", {"output": str(output)})
        connection.execute((ROOT / "notebooks/views.sql").read_text(encoding="utf-8"))
        yield connection
