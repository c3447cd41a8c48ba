"""report.html: a scored run in, one page out that opens from disk without a network.

The page is written as a stream: first the head and the plots, from metrics.parquet and DuckDB's counts; then blocks of
compressed samples, as they are read. No text from a data set or a model is in the page as HTML: the template escapes
text, and samples are base64 that the page's script decodes into text nodes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config.schema import Config
from pipeline.publish.report import data, header, sample_blocks
from pipeline.publish.report.texts import attribute, russian, t
from pipeline.runs.manifest import Manifest, ReportRecord
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

FILE = "report.html"
CHUNKS = "report_samples"
"""The directory next to the report with the samples' texts, if they are too large to be inside the page."""

SCRIPTS = ("vendor/d3.min.js", "vendor/plot.min.js", "report.js")


def write(run: ArtifactStore, config: Config, manifest: Manifest) -> ReportRecord:
    """Write the report into the run's directory.

    The old report and its chunks are removed first; the new page appears atomically. Memory holds a few row groups of
    the samples, and three numbers per sample for the quantiles of lengths and times: 0.24 GB at 10 million samples.

    Args:
        run: The directory of a scored run.
        config: Its configuration; `report` sets the size up to which the texts are inside the page.
        manifest: Its manifest so far; `gate` and `compare` have the changes since the baseline.

    Raises:
        RunError: The directory cannot be written.
        DataError: The run has no samples, or they are damaged.
    """
    remove(run)  # a page with the chunks of another report would show wrong texts
    samples = sample_blocks.Samples(run)
    with query.connection() as database:
        report_data = data.collect(database, run, config, manifest)
        separate = report_data.num_bytes > config.report.max_inline_mb * 1_000_000
        page = _environment().get_template("report.html.jinja")
        with run.replacing(FILE) as path:
            stream = page.stream(
                report_data=report_data,
                most_groups=data.MOST_GROUPS,
                russian=russian(),
                style=_asset("report.css"),
                scripts=[_asset(name) for name in SCRIPTS],
                policy=_policy(separate=separate),
                blocks=samples.blocks(database, CHUNKS if separate else None),
                chunks=CHUNKS if separate else None,
            )
            stream.dump(str(path), encoding="utf-8", errors="replace")  # a path may be no Unicode text
    return ReportRecord(file=FILE, chunks=CHUNKS if separate else None, num_samples=samples.num_samples)


def remove(run: ArtifactStore) -> None:
    """Remove the report and its chunks.

    Raises:
        RunError: The directory cannot be written.
    """
    run.remove(FILE)
    run.remove(CHUNKS)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.publish.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"t": t, "attribute": attribute, "direction": header.direction}
    return environment


@cache
def _asset(name: str) -> Markup:
    """Return one of our own files, to be put inside <style> or <script>; none of them contains an end tag of these."""
    text = resources.files("pipeline.publish.report").joinpath(name).read_text(encoding="utf-8")
    assert "</script" not in text, name
    assert "</style" not in text, name
    return Markup(text)  # noqa: S704  # our own


def _policy(*, separate: bool) -> str:
    """Return the page's Content Security Policy: only our own scripts, by their hashes, and no network addresses.

    Plot sets style attributes, so inline styles are allowed; without an allowed address they cannot fetch anything. A
    page with chunks may load scripts from its own location.
    """
    hashes = [base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode() for name in SCRIPTS]
    sources = " ".join([*(f"'sha256-{each}'" for each in hashes), *(("'self'", "file:") if separate else ())])
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
