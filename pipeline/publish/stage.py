"""The publish room: a scored run in, what leaves the pipeline out.

In: a run's directory with samples/, its configuration and its manifest so far. Out: files in the directory, and for
each what the manifest records and a person reads. What cannot be made for a reason is no failure of the run: the reason
is recorded in its place.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import DataError
from pipeline.publish import report
from pipeline.publish.card.render import write_card
from pipeline.publish.leaderboard import archive as leaderboard_archive
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Something made from a run, or the reason why it was not: `record` for the manifest, `line` for a person."""

    name: str
    record: dict[str, Any]
    line: str


def publish(run: ArtifactStore, config: Config, content: dict[str, Any]) -> list[Product]:
    """Make everything that leaves the pipeline; what was made before is replaced or, when it cannot be, removed.

    Args:
        run: The run's directory, scored.
        config: Its configuration.
        content: Its manifest; what is made must depend on nothing in it that a later making would find changed.

    Raises:
        RunError: The directory cannot be written.
        DataError: The run has no samples or no metrics, or they are damaged.
    """
    if not run.exists("metrics.parquet"):  # said before anything is replaced
        raise DataError(f"{run.path('metrics.parquet')} is missing: python -m pipeline.rescore run={run.root}")
    return [make(run, config, content) for make in (_submission, _card, _report)]


def remove_products(run: ArtifactStore, config: Config) -> None:
    """Remove what `publish` made, before the samples change under it.

    Raises:
        RunError: The directory cannot be written.
    """
    with run.writing():
        run.remove(leaderboard_archive.archive_name(config))
        for name in ("card.md", "card.json", "compare"):
            run.remove(name)
        report.remove(run)


def record(products: list[Product]) -> dict[str, dict[str, Any]]:
    """Return what the manifest records under `published`."""
    return {product.name: product.record for product in products}


def _submission(run: ArtifactStore, config: Config, content: dict[str, Any]) -> Product:
    reason = leaderboard_archive.reason_not_packable(run, config)
    if reason is not None:
        run.remove(leaderboard_archive.archive_name(config))
        line = f"  no archive for the leaderboard: {reason}"
        return Product(name="submission", record={"file": None, "reason": str(reason)}, line=line)
    packed = leaderboard_archive.pack(run, config, content)
    what = f"the leaderboard's archive: {counted(packed.num_tasks, 'task')}, {counted(packed.num_answers, 'answer')}"
    if packed.mode == "extracted":
        what += f", {packed.num_extracted:,} of them the letters alone"
    return Product(name="submission", record=asdict(packed), line=f"  {run.path(packed.file)}  {what}")


def _card(run: ArtifactStore, config: Config, content: dict[str, Any]) -> Product:
    todo = write_card(run, config, content)
    left = f"; still to do: {', '.join(todo)}" if todo else ""
    line = f"  {run.path('card.md')}  the submission form, filled in{left}"
    return Product(name="card", record={"file": "card.md", "todo": todo}, line=line)


def _report(run: ArtifactStore, config: Config, content: dict[str, Any]) -> Product:
    made = report.write(run, config, content)
    what = f"the report: scores, plots and {counted(made.num_samples, 'sample')}"
    if made.chunks is not None:
        what += f", whose texts are in {made.chunks}/: keep the two together"
    return Product(name="report", record=asdict(made), line=f"  {run.path(made.file)}  {what}")
