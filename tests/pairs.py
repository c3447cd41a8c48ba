"""Prompts and replies for two runs over the same questions."""

from __future__ import annotations

from typing import Any

from archives import Reply, completion, question

from pipeline.records import Completion, Prompt


def train(num: int, task: str = "agro_bench", gold: str | None = "B") -> list[Prompt]:
    """Return questions 0 to `num` - 1 of a task's train split, with the answer `gold`."""
    return [question(task, number, split="train", gold=gold) for number in range(num)]


def wrong(*ids: int, text: str = "A") -> Reply:
    """Return a reply that answers `text` to these questions and B to the others."""
    return lambda prompt, repeat: completion(prompt, repeat, text if prompt["id"] in ids else "B")


def reply_right(prompt: dict[str, Any], repeat: int) -> Completion:
    """Answer B."""
    return completion(prompt, repeat, "B")
