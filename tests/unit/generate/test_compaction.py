"""From journals to completions: each question and repeat once, whatever the journals contain."""

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
from pipeline.generate import compaction, journal
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Completion, Prompt
from pipeline.storage import partitions
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.repeats import Repeats

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


def commit(run: ArtifactStore, lines: list[Completion], repeats: Repeats = 1) -> list[dict[str, Any]]:
    journal.keep(run.child(journal.DIRECTORY), iter(lines))
    compaction.commit(run, run.require_artifact("prompts", PROMPT_SCHEMA), repeats, {"engine": json.dumps({})})
    return completions(run)


@pytest.fixture(params=[1_000, 7])
def rows_per_partition(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """All rows in one partition, or in many."""
    monkeypatch.setattr(compaction, "ROWS_PER_PARTITION", request.param)
    monkeypatch.setattr(compaction, "MAX_PARTITIONS", 1_000)
    return int(request.param)


@pytest.mark.usefixtures("rows_per_partition")
class TestCommit:
    def test_rows_are_sorted_by_id_and_repeat_in_the_file(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number) for number in range(40)]
        run = run_with_prompts(prompts)
        commit(run, [line(prompt, repeat) for repeat in (1, 0) for prompt in reversed(prompts)], repeats=2)
        artifact = run.require_artifact("completions", COMPLETION_SCHEMA)
        assert list(artifact.files.values()) == [80]
        table = artifact.dataset().to_table()
        keys = list(zip(table.column("id").to_pylist(), table.column("repeat").to_pylist(), strict=True))
        assert keys == [(number, repeat) for number in range(40) for repeat in (0, 1)]

    def test_the_number_of_repeats_may_differ_by_split(self, run_with_prompts: Make) -> None:
        prompts = [replace(make_prompt(number), split="train" if number % 2 else "test") for number in range(6)]
        prompts[1] = replace(prompts[1], error="too long")
        run = run_with_prompts(prompts)
        lines = [line(prompt, repeat) for prompt in prompts for repeat in range(3 if prompt.split == "train" else 1)]
        beyond = [line(prompts[0], 1), line(prompts[3], 3)]  # of a session with another configuration
        found = commit(run, [*lines, *beyond], repeats={"train": 3, "test": 1})
        assert [(row["id"], row["repeat"]) for row in found] == [(each.id, each.repeat) for each in lines]
        assert [row["error"] for row in found if row["id"] == 1] == ["too long"] * 3

    def test_a_duplicate_row_counts_once_and_a_completion_precedes_an_error(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number) for number in range(20)]
        failed = [line(prompt, text=None, error="crashed") for prompt in prompts]
        completed = [line(prompt) for prompt in prompts]
        rows = commit(run_with_prompts(prompts), [*failed, *completed, *failed, *completed])
        assert [(row["id"], row["completion"], row["error"]) for row in rows] == [(n, "A", None) for n in range(20)]

    def test_lines_that_match_no_current_prompt_are_dropped(self, run_with_prompts: Make) -> None:
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

    def test_a_prompt_that_could_not_be_sent_is_a_row_with_its_error(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number, error="too long" if number % 2 else None) for number in range(20)]
        lines = [line(prompt) for prompt in prompts if not prompt.error]
        rows = commit(run_with_prompts(prompts), [*lines, line(prompts[1], text="from before it was too long")])
        assert [row["error"] for row in rows] == [None, "too long"] * 10
        assert [row["attempts"] for row in rows] == [1, 0] * 10
        assert rows[1]["completion"] is None

    def test_a_row_without_a_completion_is_an_internal_error(self, run_with_prompts: Make) -> None:
        prompts = [make_prompt(number) for number in range(20)]
        run = run_with_prompts(prompts)
        with pytest.raises(RuntimeError, match=r"^20 completions expected, 19 found"):
            commit(run, [line(prompt) for prompt in prompts[1:]])
        assert run.artifact("completions", COMPLETION_SCHEMA) is None


def test_a_full_temporary_directory_is_a_one_line_error(tmp_path: Path) -> None:
    made = partitions.SpillPartitions(COMPLETION_SCHEMA, tmp_path / "gone")
    row = pa.RecordBatch.from_pylist([asdict(line(make_prompt(1)))], schema=COMPLETION_SCHEMA)
    with pytest.raises(RunError, match=r"^TMPDIR=.* has no space for sorting: "):
        made.add(row, np.zeros(1, np.int64))
