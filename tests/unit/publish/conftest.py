"""Complete runs, made without an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from archives import MakeRun, Reply, Scored, completion, finish, reply_b
from builders import settings

from pipeline import rundir
from pipeline.prepare.room import prepare
from pipeline.records import PROMPT_SCHEMA, Prompt, to_table


@pytest.fixture
def make_run(tmp_path: Path, at_root: Path) -> MakeRun:  # noqa: ARG001
    """Make a complete run of these prompts; `words` change the demo's configuration."""

    def make(prompts: list[Prompt], *words: str, reply: Reply = reply_b, where: str | None = None) -> Scored:
        tasks = ",".join(dict.fromkeys(prompt.task for prompt in prompts))
        output = where or str(tmp_path)
        config = settings(f"output_dir={output}", "run_id=one", f"only=[{tasks}]", *words)
        # Not `only`: a run that leaves a task out has no archive.
        config = replace(config, tasks={name: config.tasks[name] for name in config.active_tasks}, only=())
        run, config = rundir.place(config)
        rundir.begin(run, config)
        with run.publish("prompts", PROMPT_SCHEMA) as folder:
            folder.write_parquet("part-00000.parquet", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)])
        return finish(run, config, reply)

    return make


@pytest.fixture
def demo_run(tmp_path: Path, at_root: Path) -> Scored:  # noqa: ARG001
    """Make a complete run of all the demo's questions, answered by a function of their ids."""
    config = settings(f"output_dir={tmp_path}", "run_id=demo")
    run, config = rundir.place(config)
    rundir.begin(run, config)
    prepare(config, run)
    return finish(run, config, lambda prompt, repeat: completion(prompt, repeat, "\n\n" + "ABCD"[prompt["id"] % 4]))
