"""Metrics as a run of Trackio, with the ends of their intervals and a link to the report."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pipeline.config.loading import flat
from pipeline.formats.source import Source, require_package

PROJECT = "evaluation"


def write_trackio(source: Source, out: Path) -> int:
    """Add the run to the project `evaluation` of a Trackio directory, and return the number of values.

    Raises:
        ConfigError: The package trackio is not installed.
    """
    os.environ["TRACKIO_DIR"] = str(out.resolve())  # the package reads it when it is imported
    trackio = require_package("trackio", "trackio", "trackio")
    values = _values(source)
    trackio.init(
        project=PROJECT,
        name=source.config.run_id,
        config=_settings(source),
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    try:
        trackio.log(values)
    finally:
        trackio.finish()
    return len(values)


def _values(source: Source) -> dict[str, float]:
    """Return value, interval and counts of each metric that is not of a group; unknown ones are left out."""
    found: dict[str, float] = {}
    for row in source.metrics.to_pylist():
        if row["group_by"] is None:
            name = f"{row['level']}/{row['task']}/{row['split']}/{row['metric']}"
            known = {part: row[part] for part in ("value", "ci_low", "ci_high", "num_scored", "num_failed")}
            found |= {f"{name}/{part}": value for part, value in known.items() if value is not None}
    return found


def _settings(source: Source) -> dict[str, Any]:
    """Return what the run was, flat; keys that begin with `_` belong to Trackio."""
    manifest = source.manifest
    known = {
        "model": source.model,
        "settings_hash": manifest.settings_hash,
        "limit": source.config.limit,
        "run": source.store.shown(),
        "report": source.store.shown("report.html") if source.store.exists("report.html") else None,
        "started_at": manifest.started_at,
        "ended_at": manifest.ended_at,
    }
    config = {f"config.{name}": value for name, value in flat(manifest.config).items()}
    return {re.sub("^_", "-", name): value for name, value in (config | known).items() if value is not None}
