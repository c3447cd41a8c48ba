"""report.html: a scored run in, one page out that opens from disk without a network.

The page is streamed: its head and its plots from metrics.parquet and DuckDB's counts, then block after block of
samples, compressed, as they are read. Nothing that comes from a data set or a model stands in the page as HTML: text
in the template is escaped, samples are base64 that the page's script puts into text nodes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config.schema import Config
from pipeline.publish.report import data, sample_blocks
from pipeline.runs.manifest import Manifest, ReportRecord
from pipeline.storage import query
from pipeline.storage.artifacts import ArtifactStore

FILE = "report.html"
CHUNKS = "report_samples"
"""The directory beside the report that holds the samples' texts when they are too many to be inside."""

SCRIPTS = ("vendor/d3.min.js", "vendor/plot.min.js", "report.js")


def write(run: ArtifactStore, config: Config, manifest: Manifest) -> ReportRecord:
    """Write the report into the run's directory. The older one and its chunks are gone first; the new page comes whole.

    Memory holds a few row groups of the samples, and of each sample three numbers for the quantiles of its lengths and
    times: 0.24 GB at 10 million.

    Args:
        run: The run's directory, scored.
        config: Its configuration; `report` says what is inside the page and what beside it.
        manifest: Its manifest so far; `gate` and `compare` tell what has changed since the baseline.

    Raises:
        RunError: The directory cannot be written.
        DataError: The run has no samples, or they are damaged.
    """
    remove(run)  # a page whose chunks are another's would show wrong texts
    samples = sample_blocks.Samples(run)
    with query.connection() as database:
        report_data = data.collect(database, run, config, manifest)
        separate = report_data.num_bytes > config.report.max_inline_mb * 1_000_000
        page = _environment().get_template("report.html.jinja")
        with run.replacing(FILE) as path:
            stream = page.stream(
                report_data=report_data,
                style=_asset("report.css"),
                scripts=[_asset(name) for name in SCRIPTS],
                policy=_policy(separate=separate),
                blocks=samples.blocks(database, CHUNKS if separate else None),
                chunks=CHUNKS if separate else None,
            )
            stream.dump(str(path), encoding="utf-8")
    return ReportRecord(file=FILE, chunks=CHUNKS if separate else None, num_samples=samples.num_samples)


def remove(run: ArtifactStore) -> None:
    """Remove the report and what lies beside it.

    Raises:
        RunError: The directory cannot be written.
    """
    run.remove(FILE)
    run.remove(CHUNKS)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.publish.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> Markup:
    """Return one of our own files, to stand inside <style> or <script>; none of them holds `</`."""
    text = resources.files("pipeline.publish.report").joinpath(name).read_text(encoding="utf-8")
    assert "</script" not in text, name
    assert "</style" not in text, name
    return Markup(text)  # noqa: S704  # our own


def _policy(*, separate: bool) -> str:
    """Return the page's Content Security Policy: our own scripts by their hashes, no address at all.

    Plot sets style attributes, so inline styles are allowed; without a permitted address they can fetch nothing. A page
    with chunks beside it may load scripts from where it lies.
    """
    hashes = [base64.b64encode(hashlib.sha256(_asset(name).encode()).digest()).decode() for name in SCRIPTS]
    sources = " ".join([*(f"'sha256-{each}'" for each in hashes), *(("'self'", "file:") if separate else ())])
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
