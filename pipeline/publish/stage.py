"""The publish stage: a scored run in, the products of the run out.

In: a run's directory with samples/, its configuration and its manifest so far. Out: files in the directory, and for
each product a record for the manifest and a line to print. A run without an archive does not fail: the reason is
recorded instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.config.schema import Config
from pipeline.errors import DataError
from pipeline.publish import report
from pipeline.publish.card.render import write_card
from pipeline.publish.leaderboard import archive
from pipeline.publish.validation.run_answers import run_warnings
from pipeline.runs.manifest import ArchiveRecord, CardRecord, Manifest, NoArchive, Published, ReportRecord
from pipeline.storage.artifacts import ArtifactStore
from pipeline.terminal.text import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """The products of a run, or the reason why one was not made: records for the manifest, and a line to print each."""

    published: Published
    lines: tuple[str, ...]


def publish(run: ArtifactStore, config: Config, manifest: Manifest) -> Products:
    """Write all products of a run; an existing product is replaced, or removed if it cannot be made.

    Args:
        run: The directory of a scored run.
        config: Its configuration.
        manifest: Its manifest so far; only entries that do not change afterwards may affect the products.

    Raises:
        RunError: The directory cannot be written.
        DataError: The run has no samples or no metrics, or they are damaged.
    """
    if not run.exists("metrics.parquet"):  # checked before any product is replaced
        raise DataError(f"{run.shown('metrics.parquet')} is missing: python -m pipeline.rescore run={run.shown()}")
    found = run_warnings(run, config)
    submission, card = _submission(run, config, manifest), _card(run, config, manifest)
    made = report.write(run, config, replace(manifest, published=Published(answers=found)))
    published = Published(answers=found, submission=submission, card=card, report=made)
    return Products(published=published, lines=lines(run, published))


def lines(run: ArtifactStore, published: Published) -> tuple[str, ...]:
    """Return a line to print for each warning about the answers, and for each product that was made."""
    made = [f"warning: {line}" for line in published.answers]
    if published.submission is not None:
        made.append(_archive_line(run, published.submission))
    if published.card is not None:
        made.append(_card_line(run, published.card))
    if published.report is not None:
        made.append(_report_line(run, published.report))
    return tuple(made)


def remove_products(run: ArtifactStore, config: Config) -> None:
    """Remove the products of `publish`, before the samples that they were made of change.

    Raises:
        RunError: The directory cannot be written.
    """
    with run.writing():
        for name in archive.archive_names(config):
            run.remove(name)
        for name in ("card.md", "card.json", "compare"):
            run.remove(name)
        report.remove(run)


def _submission(run: ArtifactStore, config: Config, manifest: Manifest) -> ArchiveRecord | NoArchive:
    reason = archive.reason_not_packable(run, config)
    if reason is None:
        return archive.pack(run, config, manifest)
    run.remove(archive.archive_name(config))
    return NoArchive(file=None, reason=str(reason))


def _archive_line(run: ArtifactStore, made: ArchiveRecord | NoArchive) -> str:
    if isinstance(made, NoArchive):
        return f"  no archive for the leaderboard: {made.reason}"
    what = f"the leaderboard's archive: {counted(made.num_tasks, 'task')}, {counted(made.num_answers, 'answer')}"
    if made.mode == "extracted":
        what += f", {made.num_extracted:,} of them the letters alone"
    return f"  {run.shown(made.file)}  {what}"


def _card(run: ArtifactStore, config: Config, manifest: Manifest) -> CardRecord:
    return CardRecord(file="card.md", todo=tuple(write_card(run, config, manifest)))


def _card_line(run: ArtifactStore, made: CardRecord) -> str:
    left = f"; still to do: {', '.join(made.todo)}" if made.todo else ""
    if "team" in made.todo:
        left += f": python -m pipeline.pack run={run.shown()} submission.team=<who submits>"
    return f"  {run.shown(made.file)}  the submission form, filled in{left}"


def _report_line(run: ArtifactStore, made: ReportRecord) -> str:
    what = f"the report: scores, plots and {counted(made.num_samples, 'sample')}"
    if made.chunks is not None:
        what += f", whose texts are in {made.chunks}/: keep the two together"
    return f"  {run.shown(made.file)}  {what}"
