"""Two runs of the same questions: what is asked and answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archives import Reply, Scored, completion, question

from pipeline.records import Completion, Prompt

MakeRun = Callable[..., Scored]


def train(num: int, task: str = "agro_bench", gold: str | None = "B") -> list[Prompt]:
    """Return questions 0 to `num` - 1 of a task's train split, whose right answer is `gold`."""
    return [question(task, number, split="train", gold=gold) for number in range(num)]


def wrong(*ids: int, text: str = "A") -> Reply:
    """Answer B, but `text` to these questions."""
    return lambda prompt, repeat: completion(prompt, repeat, text if prompt["id"] in ids else "B")


def reply_right(prompt: dict[str, Any], repeat: int) -> Completion:
    """Answer B."""
    return completion(prompt, repeat, "B")
