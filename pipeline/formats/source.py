"""What the formats read of a run: its manifest, the rows of samples/ and of metrics.parquet."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pyarrow as pa

from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.records import COMPLETION_SCHEMA, METRIC_SCHEMA, METRICS_FILE, SAMPLE_SCHEMA
from pipeline.runs.directory import open_finished, require_complete
from pipeline.runs.evaluated import evaluated_model
from pipeline.runs.manifest import Manifest
from pipeline.storage import query
from pipeline.storage.artifacts import Artifact, ArtifactStore

EXPORTED_SCHEMA = pa.schema(
    [
        COMPLETION_SCHEMA.field("task"),
        COMPLETION_SCHEMA.field("split"),
        *SAMPLE_SCHEMA,
    ]
)
"""The columns of an exported sample: those of samples/ after its task and split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A complete run to export. `cells` has its pairs of task and split, sorted, `metrics` is metrics.parquet."""

    store: ArtifactStore
    config: Config
    manifest: Manifest
    samples: Artifact
    cells: tuple[tuple[str, str], ...]
    metrics: pa.Table

    @property
    def model(self) -> str:
        """What answered: the model's path, or the name that the endpoint serves it under."""
        return evaluated_model(self.config, self.manifest) or "unknown"

    def batches(self, task: str | None = None, split: str | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the samples, of one task and split or of all, as batches of `EXPORTED_SCHEMA`."""
        for cell in self.cells:
            if task in (None, cell[0]) and split in (None, cell[1]):
                scanned = query.scanner(self.samples, EXPORTED_SCHEMA.names, query.cell(*cell))
                yield from (batch.cast(EXPORTED_SCHEMA) for batch in scanned.to_batches() if batch.num_rows)

    def rows(self, task: str, split: str) -> Iterator[dict[str, Any]]:
        """Yield the samples of a task and split, sorted by id and repeat."""
        for batch in self.batches(task, split):
            yield from batch.to_pylist()


def read_source(location: str) -> Source:
    """Return the complete run in a directory or at a URI.

    Raises:
        RunError: There is no run, or it is not complete.
        DataError: Its samples or metrics are missing or damaged.
        ConfigError: Its config.yaml is damaged.
    """
    store, config = open_finished(location)
    manifest = require_complete(store)
    samples = store.require_artifact("samples", SAMPLE_SCHEMA)
    query.require_cells(samples, config.active_tasks, config.splits)
    metrics = store.read_parquet(METRICS_FILE, METRIC_SCHEMA).cast(METRIC_SCHEMA)
    cells = tuple((task, split) for task in sorted(config.active_tasks) for split in sorted(config.splits))
    return Source(store=store, config=config, manifest=manifest, samples=samples, cells=cells, metrics=metrics)


def require_package(module: str, extra: str, to: str) -> ModuleType:
    """Return an imported module of an optional dependency.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there, and what it imports is not
        package = module.partition(".")[0]
        raise ConfigError(f"to={to}: the package {package} is missing: pip install 'pipeline[{extra}]'") from error


def as_text(categories: list[dict[str, str | None]]) -> str:
    """Return a sample's categories as a JSON object, for formats whose cells are texts."""
    return json.dumps({each["key"]: each["value"] for each in categories}, ensure_ascii=False)
