"""Builds scored runs without an engine, and submission archives by hand."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builders import make_prompt, record_manifest, settings

from pipeline.config.schema import Config
from pipeline.prepare.stage import prepare
from pipeline.publish.leaderboard.archive import archive_name
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Completion, Prompt, to_table
from pipeline.runs import directory as run_directory
from pipeline.runs.manifest import Manifest, read_manifest
from pipeline.score.stage import score
from pipeline.storage.artifacts import ArtifactStore

STARTED_AT = "2026-11-21T22:38:40Z"
STAMP = "2026-11-21T22-38-40.000000"


@dataclass(frozen=True)
class Scored:
    """A complete, scored run."""

    store: ArtifactStore
    config: Config

    @property
    def manifest(self) -> Manifest:
        manifest = read_manifest(self.store)
        assert manifest is not None
        return manifest

    @property
    def content(self) -> dict[str, Any]:
        """The content of manifest.json."""
        content: dict[str, Any] = json.loads(self.store.read_text("manifest.json"))
        return content

    @property
    def archive(self) -> Path:
        return Path(self.store.path(archive_name(self.config)))


def question(task: str, number: int, *, split: str = "test", gold: str | None = None, text: str = "Что?") -> Prompt:
    doc = {"instruction": "{question}", "inputs": {"question": text, "option_a": "1", "option_b": "2"}}
    doc |= {"outputs": gold or "", "meta": {"id": number, "categories": {"subject": "soil"}}}
    prompt = make_prompt(number, question=text, gold=gold)
    return replace(prompt, task=task, split=split, doc=json.dumps(doc, ensure_ascii=False))


def completion(prompt: dict[str, Any], repeat: int, content: str | None, error: str | None = None) -> Completion:
    return Completion(
        task=prompt["task"],
        split=prompt["split"],
        id=prompt["id"],
        repeat=repeat,
        prompt_sha256=prompt["prompt_sha256"],
        completion=content,
        reasoning=None,
        content=content,
        finish_reason="error" if error else "stop",
        num_prompt_tokens=3,
        num_output_tokens=1,
        error=error,
        attempts=1,
        replica="r0",
        queued_s=0.0,
        generated_s=0.1,
    )


Reply = Callable[[dict[str, Any], int], Completion]
MakeRun = Callable[..., Scored]


def reply_b(prompt: dict[str, Any], repeat: int) -> Completion:
    return completion(prompt, repeat, "\n\nB")


def finish(run: ArtifactStore, config: Config, reply: Reply) -> Scored:
    """Write a run's completions with `reply`, score it and write its manifest as complete."""
    artifact = run.require_artifact("prompts", PROMPT_SCHEMA)
    prompts = artifact.dataset().to_table().to_pylist()
    repeats = config.generation.repeats_by_split
    rows = [reply(prompt, repeat) for prompt in prompts for repeat in range(repeats[prompt["split"]])]
    with run.publish("completions", COMPLETION_SCHEMA) as store:
        store.write_parquet("part-00000.parquet", COMPLETION_SCHEMA, [to_table(rows, COMPLETION_SCHEMA)])
    score(run, config)
    content = {
        "run_id": config.run_id,
        "conf": config.conf,
        "started_at": STARTED_AT,
        "versions": {"pipeline": "0.1.0"},
    }
    content |= {"datasets": dict(artifact.metadata), "codebase": {"commit": "c0ffee", "modified": False}}
    record_manifest(run, "complete", **content)
    return Scored(run, config)


def run_of(prompts: list[Prompt], output: str, *overrides: str, reply: Reply = reply_b) -> Scored:
    """Make a complete run of these prompts; `overrides` change the demo's configuration."""
    tasks = ",".join(dict.fromkeys(prompt.task for prompt in prompts))
    config = settings(f"output_dir={output}", "run_id=one", f"only=[{tasks}]", *overrides)
    # Not `only`: a run that leaves a task out has no archive.
    config = replace(config, tasks={name: config.tasks[name] for name in config.active_tasks}, only=())
    run, config = run_directory.place(config)
    run_directory.begin(run, config)
    with run.publish("prompts", PROMPT_SCHEMA) as store:
        store.write_parquet("part-00000.parquet", PROMPT_SCHEMA, [to_table(prompts, PROMPT_SCHEMA)])
    return finish(run, config, reply)


def run_of_demo(output: str) -> Scored:
    """Make a complete run of all questions of the demo; the answers depend on the ids."""
    config = settings(f"output_dir={output}", "run_id=demo")
    run, config = run_directory.place(config)
    run_directory.begin(run, config)
    prepare(config, run)
    return finish(run, config, lambda prompt, repeat: completion(prompt, repeat, "\n\n" + "ABCD"[prompt["id"] % 4]))


def rows(outputs: dict[int, Any]) -> dict[str, Any]:
    """Return the content of a task's file in an archive that submits these outputs by id."""
    return {"data": {"test": [{"outputs": text, "meta": {"id": number}} for number, text in outputs.items()]}}


def zipped(files: dict[str, Any], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip file; content that is not bytes is written as JSON."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
            archive.writestr(name, data)
    return whole.getvalue()


def members(archive: bytes | Path) -> dict[str, bytes]:
    """Return the files of a zip by name, in its order."""
    with zipfile.ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as whole:
        return {name: whole.read(name) for name in whole.namelist()}
