"""Complete runs over the same questions, made without an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from archives import MakeRun, Reply, Scored, finish
from builders import record_manifest, settings
from pairs import reply_right

from pipeline.config.loading import plain
from pipeline.records import PROMPT_SCHEMA, Prompt, to_table
from pipeline.runs import directory as run_directory
from pipeline.runs.identity import settings_hash


@pytest.fixture
def make_run(tmp_path: Path, at_root: Path) -> MakeRun:  # noqa: ARG001
    """Make a complete run of these prompts; `overrides` change the demo's configuration."""

    def make(
        run_id: str, prompts: list[Prompt], *overrides: str, reply: Reply = reply_right, **manifest: object
    ) -> Scored:
        tasks = ",".join(dict.fromkeys(prompt.task for prompt in prompts))
        config = settings(f"output_dir={tmp_path}", f"run_id={run_id}", f"only=[{tasks}]", *overrides)
        config = replace(config, tasks={name: config.tasks[name] for name in config.active_tasks}, only=())
        run, config = run_directory.place(config)
        run_directory.begin(run, config)
        with run.publish("prompts", PROMPT_SCHEMA) as store:
            store.write_parquet("part-00000.parquet", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)])
        scored = finish(run, config, reply)
        recorded = scored.content | {"ended_at": "2026-11-20T23:00:00Z"}
        recorded |= {"settings_hash": settings_hash(config), "config": plain(config)} | manifest
        record_manifest(run, "complete", **{name: value for name, value in recorded.items() if name != "status"})
        return scored

    return make
