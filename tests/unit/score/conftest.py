"""A small run whose scores can be counted by hand, written with the real artifact store."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config.schema import Config, GenerationConfig, ModelConfig, TaskConfig
from pipeline.records import COMPLETION_SCHEMA, PROMPT_SCHEMA, Completion, Prompt, to_table
from pipeline.score.stage import score
from pipeline.storage.artifacts import ArtifactStore


def prompt(**changes):
    inputs = {"question": "?", "option_a": "1", "option_b": "2", "option_c": "3", "option_d": "4"}
    base = Prompt(
        task="agro",
        split="train",
        id=1,
        categories={"topic": "soil"},
        doc=json.dumps({"inputs": inputs}),
        messages="[]",
        prompt="Q",
        prompt_sha256="s",
        prompt_token_ids=[1, 2],
        num_prompt_tokens=2,
        gold="B",
        error=None,
    )
    return replace(base, **changes)


def completion(of, content, repeat=0, **changes):
    base = Completion(
        task=of.task,
        split=of.split,
        id=of.id,
        repeat=repeat,
        prompt_sha256=of.prompt_sha256,
        completion=content,
        reasoning=None,
        content=content,
        finish_reason="stop",
        num_prompt_tokens=2,
        num_output_tokens=1,
        error=None,
        attempts=1,
        replica="r0",
        queued_s=0.0,
        generated_s=0.1,
    )
    return replace(base, **changes)


@dataclass
class Run:
    """A run's directory and its rows; `score` publishes prompts and completions and scores them."""

    store: ArtifactStore
    prompts: list = field(default_factory=list)
    completions: list = field(default_factory=list)
    domains: dict = field(default_factory=lambda: {"agro": "agriculture"})
    repeats: int = 1
    cluster: str | None = None

    def ask(self, *contents, split="train", **changes):
        """Add a prompt with the next id, and one completion per content."""
        added = prompt(id=len(self.prompts) + 1, split=split, **changes)
        self.prompts.append(added)
        self.completions += [completion(added, content, repeat) for repeat, content in enumerate(contents)]

    def change_last(self, **changes):
        """Change the last completion."""
        self.completions[-1] = replace(self.completions[-1], **changes)

    @property
    def config(self):
        tasks = {
            name: TaskConfig(dataset="x", domain=domain, cluster=self.cluster) for name, domain in self.domains.items()
        }
        model, generation = ModelConfig(path="m"), GenerationConfig(max_gen_toks=8, repeats=self.repeats)
        return Config(tasks=tasks, model=model, generation=generation)

    def publish(self):
        for name, schema, rows in (
            ("prompts", PROMPT_SCHEMA, self.prompts),
            ("completions", COMPLETION_SCHEMA, self.completions),
        ):
            with self.store.publish(name, schema) as artifact:
                artifact.write_parquet("part-00000.parquet", schema, [to_table(rows, schema)])

    def score(self, **arguments):
        self.publish()
        score(self.store, self.config, **arguments)

    def samples(self, where="task=agro/split=train"):
        files = self.store.files(f"samples/{where}", ".parquet")
        return [
            row
            for name in files
            for row in pq.ParquetFile(self.store.path(name), filesystem=self.store.fs).read().to_pylist()
        ]

    def metrics(self):
        return pq.read_table(self.store.path("metrics.parquet"), filesystem=self.store.fs).to_pylist()

    def metric(self, metric, task="agro", split="train", level="task", group_by=None, group=None):
        cell = {"task": task, "split": split, "level": level, "metric": metric, "group_by": group_by, "group": group}
        (row,) = [row for row in self.metrics() if {key: row[key] for key in cell} == cell]
        return row


@pytest.fixture
def run(tmp_path: Path):
    store = ArtifactStore.open(str(tmp_path / "run=test"))
    store.create()
    return Run(store)
