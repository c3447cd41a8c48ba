"""Small records and runs that the tests are about."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from pipeline.records import PROMPT_SCHEMA, Prompt, to_table
from pipeline.store import Folder

ROOT = Path(__file__).resolve().parent.parent


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
