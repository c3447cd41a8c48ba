"""Builds a scored run as the reference submission's machine would leave it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.publish.card.render import write_card
from pipeline.records import METRIC_SCHEMA
from pipeline.runs import environment
from pipeline.runs.manifest import load, load_engines
from pipeline.storage.artifacts import ArtifactStore

COMMIT = "d53971600112233445566778899aabbccddeeff0"
REVISIONS = {"agro_bench": "a" * 40, "aqua_bench": "b" * 40, "med_bench": "sha256:" + "c" * 64}
TEMPLATE = "{%- for message in messages %}\n  {{- '```' ~ message.content }}\n{%- endfor %}\n"

ENGINE = {
    "vllm": "0.32.0",
    "torch": "2.10.0",
    "cuda": "12.8",
    "transformers": "4.57.1",
    "device": "cuda",
    "dtype": "bfloat16",
    "max_model_len": 262144,
    "max_num_seqs": 256,
    "num_parameters": 35_951_822_704,
    "architecture": "Qwen3_5MoeForConditionalGeneration",
    "num_layers": 40,
    "hidden_size": 2048,
    "num_experts": 256,
    "gpu_names": "NVIDIA A100-SXM4-80GB",
    "gpu_driver": "570.124.06",
    "session": "one",
}
"""The engine info that one replica recorded."""


def reference_content() -> dict[str, Any]:
    """Return the manifest's content for the reference run."""
    engine = {f"host-{number}": ENGINE | {"gpu_uuids": f"GPU-{number}"} for number in range(8)}
    datasets = {f"dataset_revision.{task}": revision for task, revision in REVISIONS.items()}
    return {
        "versions": {"pipeline": "0.1.0", "torch": "the driver's", "transformers": "the driver's"},
        "codebase": {"commit": COMMIT, "modified": False},
        "hardware": {"gpus": list(environment.gpus(load_engines(engine)) or ())},
        "datasets": datasets | {"model_revision": "e" * 40, "chat_template_sha256": "f" * 64},
        "engine": engine,
    }


def domain_score(domain: str, value: float | None, num_total: int, num_scored: int) -> dict[str, Any]:
    """Return a row of metrics.parquet: a domain's score on the test split."""
    counts = {"num_total": num_total, "num_scored": num_scored}
    nothing = dict.fromkeys(name for name in METRIC_SCHEMA.names if not name.startswith("num_"))
    zeros = dict.fromkeys((name for name in METRIC_SCHEMA.names if name.startswith("num_")), 0)
    row = {"task": domain, "level": "domain", "split": "test", "metric": "score", "value": value}
    return nothing | zeros | row | counts


@dataclass
class Carded:
    """A run's directory, and the card that is generated from it."""

    store: ArtifactStore
    content: dict[str, Any] = field(default_factory=reference_content)
    scores: list[dict[str, Any]] = field(default_factory=list)
    template: str | None = TEMPLATE

    def write(self, *overrides: str) -> dict[str, Any]:
        """Write the card of a run with these overrides of conf=mera, and return card.json."""
        return self.write_of(compose(["conf=mera", "run_id=night", *overrides]))

    def write_of(self, config: Config) -> dict[str, Any]:
        self.store.create()
        self.store.replace_parquet("metrics.parquet", pa.Table.from_pylist(self.scores, schema=METRIC_SCHEMA))
        if self.template is not None:
            self.store.write_text("prompts/chat_template.jinja", self.template)
        write_card(self.store, config, load(self.content | {"status": "complete"}))
        card: dict[str, Any] = json.loads(self.store.read_text("card.json"))
        return card

    def values(self, *overrides: str) -> dict[str, str | None]:
        return {name: entry["value"] for name, entry in self.write(*overrides)["fields"].items()}

    @property
    def markdown(self) -> str:
        return self.store.read_text("card.md")
