"""Small records and runs that the tests are about."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.compose import compose
from pipeline.config import Config
from pipeline.generate import journal
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Prompt, to_table
from pipeline.store import Folder

ROOT = Path(__file__).resolve().parent.parent

ENDPOINT = ("engine.kind=endpoint", "engine.endpoint.base_url=http://127.0.0.1:9/v1", "model.path=null")
"""Words of a run that needs neither a model nor a GPU; a scripted engine takes the endpoint's place."""


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a module as a user does, from the project's directory; its exit code is the caller's to check."""
    line = [sys.executable, "-m", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def make_prompt(number: int, *, question: str = "Что?", error: str | None = None, gold: str | None = "A") -> Prompt:
    """Return a prompt of agro_bench's test split as an endpoint would be asked it."""
    messages = json.dumps([{"role": "user", "content": f"{question} {number}"}], ensure_ascii=False)
    return Prompt(
        task="agro_bench",
        split="test",
        id=number,
        categories={"subject": "soil"},
        doc=json.dumps({"instruction": "{question}", "inputs": {"question": question}, "outputs": gold or ""}),
        messages=messages,
        prompt=None,
        prompt_sha256=hashlib.sha256(messages.encode()).hexdigest(),
        prompt_token_ids=None,
        num_prompt_tokens=None,
        gold=gold,
        error=error,
    )


def publish_prompts(run: Folder, prompts: list[Prompt]) -> None:
    """Write the prompts stage of a run."""
    run.create()
    with run.publish("prompts", PROMPT_SCHEMA) as folder:
        folder.write_parts("task=agro_bench/split=test", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)], 1_000)


def settings(*words: str) -> Config:
    """Return the demo's configuration with an endpoint that nobody asks; later words win."""
    return compose(["conf=demo", *ENDPOINT, *words])


class Counting:
    """A progress that counts; nobody interrupts it."""

    count = 0

    def __init__(self) -> None:
        self.num_rows = self.num_left = self.num_done = self.num_failed = self.num_tokens = 0

    def end_now(self) -> None:
        raise AssertionError("nobody interrupts")

    def begin(self, num_rows: int, num_left: int) -> None:
        self.num_rows, self.num_left = num_rows, num_left

    def advance(self, num_rows: int, num_failed: int, num_output_tokens: int) -> None:
        self.num_done += num_rows
        self.num_failed += num_failed
        self.num_tokens += num_output_tokens


def completions(run: Folder) -> list[dict[str, Any]]:
    """Return the rows of a run's completions stage, by id and repeat."""
    stage = run.stage("completions", COMPLETION_SCHEMA)
    assert stage is not None
    table = stage.dataset().to_table().sort_by([("id", "ascending"), ("repeat", "ascending")])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def engine_facts(run: Folder) -> list[dict[str, Any]]:
    """Return what each replica of a run that is under way last said of its engine."""
    return list(journal.facts(run.child(journal.FOLDER)).values())
