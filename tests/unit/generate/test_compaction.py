"""From journals to completions: each question and repeat once, whatever the journals hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from builders import completions, make_prompt

from pipeline.errors import RunError
from pipeline.generate import compaction as room
from pipeline.generate import journal
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Completion, Prompt
from pipeline.storage import partitions
from pipeline.storage.artifacts import ArtifactStore

Make = Callable[[list[Prompt]], ArtifactStore]


def line(prompt: Prompt, repeat: int = 0, *, text: str | None = "A", error: str | None = None) -> Completion:
    return Completion(
        task=prompt.task,
        split=prompt.split,
        id=prompt.id,
        repeat=repeat,
        prompt_sha256=prompt.prompt_sha256,
        completion=text,
        reasoning=None,
        content=text,
        finish_reason="error" if error else "stop",
        num_prompt_tokens=1,
        num_output_tokens=1,
        error=error,
        attempts=1,
        replica="r",
        queued_s=0.0,
        generated_s=0.0,
    )


def commit(run: ArtifactStore, lines: list[Completion], repeats: int = 1) -> list[dict[str, Any]]:
    journal.keep(run.child(journal.DIRECTORY), iter(lines))
    room.commit(run, run.require_artifact("prompts", PROMPT_SCHEMA), repeats, {"engine": json.dumps({})})
    return completions(run)


@pytest.fixture(params=[1_000, 7])
def rows_per_bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """All rows in one bucket, or in many."""
    monkeypatch.setattr(room, "ROWS_PER_PARTITION", request.param)
    monkeypatch.setattr(room, "MAX_PARTITIONS", 1_000)
    return int(request.param)


@pytest.mark.usefixtures("rows_per_bucket")
class TestCommit:
    def test_rows_are_sorted_by_id_and_repeat_in_the_file(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number) for number in range(40)]
        run = run_with_prompts(prompts)
        commit(run, [line(prompt, repeat) for repeat in (1, 0) for prompt in reversed(prompts)], repeats=2)
        stage = run.require_artifact("completions", COMPLETION_SCHEMA)
        assert list(stage.files.values()) == [80]
        table = stage.dataset().to_table()
        keys = list(zip(table.column("id").to_pylist(), table.column("repeat").to_pylist(), strict=True))
        assert keys == [(number, repeat) for number in range(40) for repeat in (0, 1)]

    def test_of_a_row_that_came_twice_one_counts_and_an_answer_before_an_error(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number) for number in range(20)]
        failed = [line(prompt, text=None, error="died") for prompt in prompts]
        answered = [line(prompt) for prompt in prompts]
        rows = commit(run_with_prompts(prompts), [*failed, *answered, *failed, *answered])
        assert [(row["id"], row["completion"], row["error"]) for row in rows] == [(n, "A", None) for n in range(20)]

    def test_lines_of_what_is_not_asked_any_more_fall_away(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number) for number in range(20)]
        strangers = [
            line(make_prompt(99)),
            line(replace(prompts[0], task="other")),
            line(replace(prompts[1], split="train")),
            line(replace(prompts[2], prompt_sha256="0"), text="of another prompt"),
            line(prompts[3], repeat=1),
        ]
        rows = commit(run_with_prompts(prompts), [*strangers, *map(line, prompts)])
        assert [row["id"] for row in rows] == list(range(20))
        assert {row["completion"] for row in rows} == {"A"}

    def test_what_could_not_be_asked_is_a_row_with_its_error(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number, error="too long" if number % 2 else None) for number in range(20)]
        lines = [line(prompt) for prompt in prompts if not prompt.error]
        rows = commit(run_with_prompts(prompts), [*lines, line(prompts[1], text="from before it was too long")])
        assert [row["error"] for row in rows] == [None, "too long"] * 10
        assert [row["attempts"] for row in rows] == [1, 0] * 10
        assert rows[1]["completion"] is None

    def test_a_row_without_a_completion_is_our_own_bug(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number) for number in range(20)]
        run = run_with_prompts(prompts)
        with pytest.raises(RuntimeError, match=r"^20 completions expected, 19 found"):
            commit(run, [line(prompt) for prompt in prompts[1:]])
        assert run.artifact("completions", COMPLETION_SCHEMA) is None


def test_a_full_temporary_directory_is_one_line(tmp_path: Path) -> None:
    made = partitions.SpillPartitions(COMPLETION_SCHEMA, tmp_path / "gone")
    row = pa.RecordBatch.from_pylist([asdict(line(make_prompt(1)))], schema=COMPLETION_SCHEMA)
    with pytest.raises(RunError, match=r"^TMPDIR=.* has no room for sorting: "):
        made.add(row, np.zeros(1, np.int64))
