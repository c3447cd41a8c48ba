"""Prompts and replies for runs over the same questions, and the gate's verdict on such a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from archives import Reply, Scored, completion, question

from pipeline.comparison import gate
from pipeline.config import loading
from pipeline.records import RULES_KEY, Completion, Prompt
from pipeline.runs.manifest import load

STARTED_AT = "2026-11-21T22:38:40Z"


def train(num: int, task: str = "agro_bench", gold: str | None = "B") -> list[Prompt]:
    """Return questions 0 to `num` - 1 of a task's train split, with the answer `gold`."""
    return [question(task, number, split="train", gold=gold) for number in range(num)]


def wrong(*ids: int, text: str = "A") -> Reply:
    """Return a reply that answers `text` to these questions and B to the others."""
    return lambda prompt, repeat: completion(prompt, repeat, text if prompt["id"] in ids else "B")


def reply_right(prompt: dict[str, Any], repeat: int) -> Completion:
    """Answer B."""
    return completion(prompt, repeat, "B")


def at(night: int) -> dict[str, str]:
    """Return when the run of a night started and ended, as its manifest records it."""
    return {"started_at": f"2026-11-{night:02}T01:00:00Z", "ended_at": f"2026-11-{night:02}T02:00:00Z"}


def copy(run: Scored, run_id: str, **manifest: Any) -> Path:
    """Copy a run under another name, with these changes of its manifest; return the copy's directory."""
    directory = Path(run.store.root).parent / f"run={run_id}"
    shutil.copytree(run.store.root, directory)
    (directory / "manifest.json").write_text(json.dumps(run.content | manifest))
    return directory


def judged(run: Scored, *overrides: str, num_failed: int = 0) -> gate.Verdict:
    """Return the verdict of the gate on a run, with these overrides of its configuration."""
    config = loading.load(loading.dump(run.config), "config.yaml", overrides)
    counts = {"num_samples": 20, "num_truncated": 3, "num_failed": num_failed, "num_no_answer": 4}
    content = {"started_at": STARTED_AT, "counts": counts, **run.content}
    verdict = gate.judge(config, run.store, load(content))
    assert verdict is not None
    return verdict


def line_of(verdict: gate.Verdict, name: str) -> str:
    """Return the printed line of a rule, or of what is only reported."""
    (line,) = [line for line in verdict.lines if f": {name}: " in line]
    return line


def with_other_rules(run: Scored, version: str | None) -> None:
    """Record that rules of another version read the letters of a run; None: the run does not tell."""
    path = Path(run.store.root) / "samples" / "_stage.json"
    stored = json.loads(path.read_text())
    stored["facts"] = {} if version is None else stored["facts"] | {RULES_KEY: version}
    path.write_text(json.dumps(stored))
