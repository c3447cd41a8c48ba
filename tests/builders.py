"""Small records and runs that the tests are about."""

from __future__ import annotations

import hashlib
import json

from pipeline.records import PROMPT_SCHEMA, Prompt, to_table
from pipeline.store import Folder


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
