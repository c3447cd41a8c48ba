"""Samples and metrics as a data set of the Hugging Face Hub: Parquet files and a card, which `load_dataset` loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.formats.source import EXPORTED_SCHEMA, Source
from pipeline.terminal.text import one_line

_HEADER = """---
configs:
- config_name: samples
  default: true
  data_files:
{samples}
- config_name: metrics
  data_files: metrics.parquet
---
"""


def write_data_set(source: Source, out: Path) -> None:
    """Write README.md, metrics.parquet and samples/<split>.parquet into the directory `out`."""
    (out / "samples").mkdir()
    splits = [split for split in sorted(source.config.splits) if _write_split(source, split, out)]
    pq.write_table(source.metrics, out / "metrics.parquet", compression="zstd")
    (out / "README.md").write_text("\n".join(_card(source, splits)) + "\n", encoding="utf-8")


def _write_split(source: Source, split: str, out: Path) -> bool:
    """Write a split's samples, and return whether there are any: the library cannot load a split without rows."""
    num_rows = 0
    path = out / "samples" / f"{split}.parquet"
    with pq.ParquetWriter(path, EXPORTED_SCHEMA, compression="zstd") as writer:
        for batch in source.batches(split=split):
            writer.write_batch(batch)
            num_rows += batch.num_rows
    if not num_rows:
        path.unlink()
    return num_rows > 0


def _card(source: Source, splits: list[str]) -> Iterator[str]:
    """Yield the lines of the card; foreign text is quoted as code, which Markdown does not interpret."""
    files = "\n".join(f"  - split: {split}\n    path: samples/{split}.parquet" for split in splits)
    yield _HEADER.format(samples=files)
    yield f"# Run {_code(source.config.run_id)}\n"
    yield f"- Model: {_code(source.model)}"
    yield f"- Configuration: {_code(source.config.conf)}, settings {_code(source.manifest.settings_hash or 'unknown')}"
    yield f"- Limit: {'all rows' if source.config.limit is None else f'the first {source.config.limit} of each split'}"
    yield f"- Ended at: {_code(source.manifest.ended_at or 'unknown')}\n"
    yield "| task | split | score | 95% interval | rows |\n|---|---|---|---|---|"
    for row in source.metrics.to_pylist():
        if row["metric"] == "score" and row["group_by"] is None and row["value"] is not None:
            ends = [row["ci_low"], row["ci_high"]]
            interval = "unknown" if None in ends else f"{ends[0]:.3f} to {ends[1]:.3f}"
            yield f"| {_code(row['task'])} | {row['split']} | {row['value']:.3f} | {interval} | {row['num_scored']} |"
    yield "\n## Columns of samples\n\n| column | meaning |\n|---|---|"
    for field in EXPORTED_SCHEMA:
        yield f"| `{field.name}` | {field.metadata[b'description'].decode()} |"


def _code(text: str) -> str:
    return f"`{one_line(text, 200).replace('`', chr(39)).replace('|', '/')}`"
