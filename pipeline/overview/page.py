"""Writes the board: one HTML page over many runs and models, without scripts and without requests.

In: complete runs, mostly of one directory. Out: index.html there, or a file elsewhere. jinja2 escapes every text from a
run, and the page's Content Security Policy forbids scripts and external resources. The same runs give the same page.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.config.paths import expanded
from pipeline.errors import ConfigError, DataError, UserError
from pipeline.overview import plots
from pipeline.overview.history import Benchmark, BoardRun, ModelHistory, benchmarks
from pipeline.overview.pairwise import MOST_MODELS, PairResult, compare_models
from pipeline.overview.run_list import ListedRun, find, open_output
from pipeline.overview.terminal_table import duration
from pipeline.records import MetricChange
from pipeline.runs import index
from pipeline.runs.directory import open_finished, require_complete
from pipeline.runs.index import IndexEntry
from pipeline.runs.manifest import read_manifest
from pipeline.storage.artifacts import ArtifactStore
from pipeline.storage.filesystem import without_credentials
from pipeline.terminal.text import counted, replace_surrogates

FILE = "index.html"

MOST_RUNS = 1_000
"""Maximum number of runs on the page, the newest ones."""

NUM_SHOWN = 30
"""Runs in the table that are visible at once; the others unfold."""

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def write_index(output_dir: str) -> str:
    """Write index.html of a directory of runs, and return its path or URI, to print.

    Raises:
        RunError: The directory does not exist, cannot be reached or cannot be written.
    """
    return write_page(output_dir, None)[0]


def write_page(output_dir: str, out: str | None) -> tuple[str, Sequence[str]]:
    """Write the board of all runs of a directory.

    Args:
        output_dir: Path or URI of the directory.
        out: The file; by default index.html in the directory.

    Returns:
        Path or URI of the page, and a line for each run that cannot be read.

    Raises:
        RunError: The directory does not exist, cannot be reached or cannot be written.
    """
    output = open_output(output_dir)
    place, name = (output, FILE) if out is None else _split(out)
    found = find(output, last=MOST_RUNS)
    unread = list(found.unread)
    runs = [_of_output(output, each.entry, place, unread) for each in found.runs if each.entry is not None]
    others = [each for each in found.runs if each.entry is None]
    place.write_text(name, _rendered(output.shown(), runs, others, unread))
    return place.shown(name), unread


def write_page_of(directories: Sequence[str], out: str) -> tuple[str, Sequence[str]]:
    """Write the board of some complete runs, wherever they are; return as `write_page`.

    Raises:
        RunError: A run does not exist or is not complete, or the page cannot be written.
        DataError: A run is damaged.
    """
    place, name = _split(out)
    runs = [_named(directory, place) for directory in dict.fromkeys(directories)]
    place.write_text(name, _rendered(counted(len(runs), "run"), runs, [], []))
    return place.shown(name), []


def _split(out: str) -> tuple[ArtifactStore, str]:
    """Return the directory and the name of a file to write.

    Raises:
        ConfigError: It is no name of a file, or there is something else, such as a directory or a device.
        RunError: Its directory cannot be reached.
    """
    parent, _, name = out.rpartition("/") if "://" in out else (str(expanded(out).parent), "", expanded(out).name)
    if name in ("", ".", "..") or parent.endswith(":/"):
        raise ConfigError(f"out={without_credentials(out)!r} is no file: give the name of the page, such as board.html")
    place = ArtifactStore.open(parent or "/")
    with place.reaching():
        try:
            place.require_regular(name)
        except DataError as error:  # a rename would replace even /dev/null
            fix = "is no regular file: give another name"
            raise ConfigError(f"out={without_credentials(out)!r} {fix}") from error
    return place, name


def _of_output(output: ArtifactStore, entry: IndexEntry, place: ArtifactStore, unread: list[str]) -> BoardRun:
    if not entry.is_of_this_version:
        entry = index.make(output, entry.run_id, unread) or entry
    store = output.child(f"{index.RUN_PREFIX}{entry.run_id}")
    return BoardRun(entry=entry, store=store, link=_link(store, entry, place))


def _named(directory: str, place: ArtifactStore) -> BoardRun:
    store, config = open_finished(directory, argument="runs")
    manifest = require_complete(store)
    run_id = str(config.run_id)
    try:
        entry = index.entry_of(store, run_id, manifest)
    except UserError as error:
        raise DataError(f"runs={directory}: {error}") from error
    return BoardRun(entry=entry, store=store, link=_link(store, entry, place))


def _link(run: ArtifactStore, entry: IndexEntry, place: ArtifactStore) -> str | None:
    """Return the address of a run's report, relative to the page; None if there is none on the same storage."""
    prefix = f"{index.RUN_PREFIX}{entry.run_id}/"
    file = (entry.report or "").removeprefix(prefix)
    if not PLAIN_NAME.fullmatch(file):  # it comes from the run's manifest
        return None
    if run.local is not None and place.local is not None:
        return quote(os.path.relpath(run.local / file, place.local))
    if run.fs.type_name == place.fs.type_name and run.root.startswith(f"{place.root}/"):
        return quote(f"{run.root[len(place.root) + 1 :]}/{file}")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """The newest run of a model: `change` is its score's since the baseline, `rules` the broken rules of its gate."""

    model: ModelHistory
    change: MetricChange | None
    baseline: str | None
    rules: Sequence[str]


def _card(model: ModelHistory) -> _Card:
    run = model.newest.run
    try:
        manifest = read_manifest(run.store, finite=True)
    except UserError:  # its entry is shown, and the list names it
        manifest = None
    rows = manifest.compare if manifest is not None and manifest.compare is not None else ()
    gate = manifest.gate if manifest is not None else None
    change = next((row for row in rows if (row.level, row.metric, row.split) == ("run", "score", model.split)), None)
    rules = [rule.line for rule in gate.rules if rule.broken] if gate is not None else []
    return _Card(model=model, change=change, baseline=gate.baseline if gate is not None else None, rules=rules)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """What the page has of a benchmark, what needs a look first. `pairs` are by the places of two models."""

    benchmark: Benchmark
    cards: Sequence[_Card]
    drawn: Sequence[tuple[ModelHistory, plots.Plot]]
    pairs: dict[tuple[int, int], PairResult]
    compared: Sequence[ModelHistory]


def _section(benchmark: Benchmark) -> _Section:
    ordered = sorted(benchmark.models, key=lambda model: not model.newest.is_alarm)
    is_whole = benchmark.limit is None
    return _Section(
        benchmark=benchmark,
        cards=[_card(model) for model in ordered] if is_whole else [],
        drawn=plots.plots_of(ordered) if is_whole else [],
        pairs=compare_models(benchmark) if is_whole and len(ordered) > 1 else {},
        compared=benchmark.models[:MOST_MODELS],
    )


def _rendered(where: str, runs: Sequence[BoardRun], others: Sequence[ListedRun], unread: Sequence[str]) -> str:
    found = benchmarks(runs)
    nights = {
        night.run.store.root: (model, night)
        for benchmark in found
        for model in benchmark.models
        for night in model.nights
    }
    rows = sorted(runs, key=lambda run: run.order, reverse=True)
    sections = [_section(each) for each in found]
    newest = [card.model.newest for section in sections for card in section.cards]
    alarms = [card.model.name for section in sections for card in section.cards if card.model.newest.is_alarm]
    text = (
        _environment()
        .get_template("board.html.jinja")
        .render(
            where=where,
            sections=sections,
            alarms=list(dict.fromkeys(alarms)),
            num_newest=len(newest),
            num_ungated=sum(night.run.entry.gate is None for night in newest),
            rows=[(run, *nights[run.store.root]) for run in rows],
            others=others,
            unread=unread,
            num_shown=NUM_SHOWN,
            num_models=len({run.entry.model for run in runs}),
            size=plots,
            policy=POLICY,
            style=_style(),
            duration=duration,
            counted=counted,
        )
    )
    return replace_surrogates(text) or ""


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("pipeline.overview", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> Markup:
    """Return the styles of the report and those of the board; both are our own files."""
    files = (("pipeline.publish.report", "report.css"), ("pipeline.overview", "board.css"))
    return Markup("\n".join(resources.files(package).joinpath(name).read_text("utf-8") for package, name in files))  # noqa: S704
