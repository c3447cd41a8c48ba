"""The gate: detects regressions of a scored run; the run and its configuration in, a verdict out.

The rules `max_truncated`, `max_failed` and `max_no_answer` limit shares of all rows. `max_drop` tests `score` (the
leaderboard's) and `correct` of every task, domain and the run against the baseline, on questions with a gold answer. It
is broken by a drop that is both larger than `gate.max_drop` and significant. The two-sided p-values are adjusted
together by Holm, so for an unchanged model at most a fraction `gate.alpha` of runs fails the gate. A domain of a single
task, and a run of a single domain, are not tested twice.

If the run has measured its noise, the variance that noise adds to a change is added to the change's own before the
test. The per-question differences already contain the noise of these two runs; the added variance covers the batch
composition of another run, and can only make the gate less sensitive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.comparison.compare_runs import compare
from pipeline.comparison.pairing import ComparedRun
from pipeline.config.fields import LATEST
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, GateFailed, Incomparable
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.metrics.paired_tests import holm
from pipeline.metrics.weights import weights_of
from pipeline.records import Counts, MetricChange
from pipeline.runs import past_runs
from pipeline.runs.index import IndexEntry
from pipeline.runs.manifest import GateResult, GateRule, Manifest
from pipeline.runs.past_runs import PastRun
from pipeline.storage.artifacts import ArtifactStore

KEY = "gate.baseline"

DIRECTORY = "compare"
"""Subdirectory of the run with the comparison with the baseline."""

SHARES = {"max_truncated": "num_truncated", "max_failed": "num_failed", "max_no_answer": "num_no_answer"}
SHARE_PHRASES = {
    "max_truncated": "were cut at the token limit",
    "max_failed": "failed",
    "max_no_answer": "have no readable answer",
}

NUM_NAMED = 3
"""Maximum number of drops in the line of a broken rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The gate's result for a run. `rows` is the comparison with the baseline, `notes` are remarks for the user."""

    baseline: str | None
    rules: Sequence[GateRule]
    notes: Sequence[str]
    rows: Sequence[MetricChange]

    @property
    def broken(self) -> list[str]:
        """Names of the rules that are broken."""
        return [rule.name for rule in self.rules if rule.broken]

    @property
    def lines(self) -> list[str]:
        """Lines to print."""
        return lines(self.result)

    @property
    def result(self) -> GateResult:
        """What the manifest records under `gate`."""
        rules, notes = tuple(self.rules), tuple(self.notes)
        return GateResult(baseline=self.baseline, broken=tuple(self.broken), rules=rules, notes=notes)


def lines(result: GateResult) -> list[str]:
    """Return the lines to print for the gate's result: the notes, then the rules."""
    rules = [f"gate: {'broken' if rule.broken else 'kept'}: {rule.name}: {rule.line}" for rule in result.rules]
    return [*(f"gate: {note}" for note in result.notes), *rules]


def check(config: Config) -> None:
    """Check before generation that the baseline run named by `gate.baseline` can be compared with.

    Raises:
        ConfigError: The baseline does not exist, is not complete, is this run, or has a manifest or configuration that
            cannot be read.
        RunError: output_dir cannot be reached.
    """
    if config.gate.baseline not in (None, LATEST):
        _named(config)


def judge(config: Config, run: ArtifactStore, manifest: Manifest) -> Verdict | None:
    """Apply the gate to a scored run; write the comparison with its baseline into the run's directory.

    Args:
        config: The run's configuration.
        run: The run's directory.
        manifest: The run's manifest, with counts and started_at, and with noise if it was measured.

    Returns:
        The verdict, or None when the configuration has no rule.

    Raises:
        RunError: The directory cannot be written, or output_dir cannot be reached; neither is a regression.
        DataError: The run's own prompts or samples are damaged.
    """
    run.remove(DIRECTORY)
    if not config.gate.is_set:
        return None
    verdict = Verdict(baseline=None, rules=(), notes=(), rows=())
    if config.gate.baseline is not None:
        verdict = _compared(config, run, manifest)
    return replace(verdict, rules=[*verdict.rules, *_shares(config, manifest.counts)])


def _compared(config: Config, run: ArtifactStore, manifest: Manifest) -> Verdict:
    notes: list[str] = []
    name = str(config.gate.baseline)
    new = ComparedRun.of(run, config, manifest)
    try:
        found = _latest(config, manifest, notes) if name == LATEST else _named(config)
        if found is None:
            note = "there is no earlier complete run of this model, tasks and splits: nothing to compare with"
            return Verdict(baseline=None, rules=(), notes=[*notes, note], rows=())
        past, past_config = found
        name = past.run_id
        base = ComparedRun.of(past.store, past_config, past.manifest)
        comparison = compare(base, new, run.child(DIRECTORY))
    except (Incomparable, DataError, ConfigError) as error:  # DataError and ConfigError: of the baseline
        rule = GateRule(
            name="baseline", value=None, limit=None, broken=True, line=f"{name} cannot be compared: {error}"
        )
        return Verdict(baseline=name, rules=[rule], notes=notes, rows=())
    notes += [each.line for each in comparison.differences]
    rule = drop_rule(config, comparison.rows, manifest.noise.variance if manifest.noise else {})
    return Verdict(baseline=name, rules=[rule], notes=notes, rows=comparison.rows)


def require_kept(manifest: Manifest) -> None:
    """Raise if the manifest of a complete run records a broken rule.

    Raises:
        GateFailed: A rule is broken. The message names the rules; their lines were printed before.
    """
    if manifest.gate is not None and manifest.gate.broken:
        names = ", ".join(manifest.gate.broken)
        raise GateFailed(f"run {manifest.run_id} is complete, and breaks rules of its gate: {names}")


def drop_rule(config: Config, rows: Sequence[MetricChange], noise: Mapping[str, float]) -> GateRule:
    """Return the rule `max_drop` applied to a comparison.

    Args:
        config: The new run's configuration.
        rows: The comparison.
        noise: Variance of one question's change due to noise, by metric.
    """
    limit, alpha = config.gate.max_drop, config.gate.alpha
    domains = {name: task.domain for name, task in config.active_tasks.items()}
    family = [row for row in rows if row.metric in HEADLINE_METRICS and (row.level == "task" or row.num_parts > 1)]
    if not family:
        line = "nothing to compare: no question of both runs has a gold, or none was scored"
        return GateRule(name="max_drop", value=None, limit=limit, broken=False, line=line)
    p_values = [_with_noise(row, noise_of(row, rows, domains, noise)) for row in family]
    tested = list(zip(family, holm(p_values), strict=True))
    drops = [(row, p) for row, p in tested if -row.difference > limit and p < alpha]
    worst = min(row.difference for row, _ in (drops or tested))
    splits = ", ".join(sorted({row.split for row in family}))
    if drops:
        drops.sort(key=lambda each: each[0].difference)
        named = [_describe(row, p) for row, p in drops[:NUM_NAMED]]
        more = [f"{len(drops) - NUM_NAMED} more"] if len(drops) > NUM_NAMED else []
        line = f"{'; '.join(named + more)} (at most {limit:g}; {len(family)} tests on {splits})"
    else:
        largest = f"the largest is {max(-worst, 0.0):.3f}" if worst < 0 else "nothing dropped"
        line = f"no drop above {limit:g} is significant; {largest} ({len(family)} tests on {splits})"
    return GateRule(name="max_drop", value=max(-worst, 0.0), limit=limit, broken=bool(drops), line=line)


def noise_of(
    row: MetricChange, rows: Sequence[MetricChange], domains: Mapping[str, str], noise: Mapping[str, float]
) -> float:
    """Return the variance of a change due to noise: per task one question's divided by their number, then weighted."""
    variance = noise.get(row.metric, 0.0)
    if row.level == "task" or not variance:
        return variance / row.num_questions
    of_task = {
        each.task: each.num_questions
        for each in rows
        if each.level == "task" and (each.split, each.metric) == (row.split, row.metric)
    }
    weights = weights_of(domains, row.task if row.level == "domain" else None)
    return sum(weight**2 * variance / of_task[name] for name, weight in weights.items())


def _with_noise(row: MetricChange, variance: float) -> float:
    """Return the p-value of a change with this variance added; unchanged if that or the standard error is 0 or None."""
    if not variance or not row.stderr:
        return row.p_value
    from scipy.stats import norm

    distance = float(norm.isf(row.p_value / 2)) * row.stderr / math.hypot(row.stderr, math.sqrt(variance))
    return float(2 * norm.sf(distance))


def _describe(row: MetricChange, p: float) -> str:
    p_text = "<0.001" if p < 0.001 else f"{p:.3f}"
    return f"{row.metric} of {row.task} {row.split} fell from {row.base:.3f} to {row.new:.3f} (adjusted p {p_text})"


def _shares(config: Config, counts: Counts | None) -> Iterator[GateRule]:
    assert counts is not None, "a run is counted before it is judged"
    total = counts.num_samples
    assert total, "a run has samples"
    for name, column in SHARES.items():
        limit = getattr(config.gate, name)
        if limit is not None:
            num = getattr(counts, column)
            share = num / total
            line = f"{num:,} of {total:,} rows ({share:.1%}) {SHARE_PHRASES[name]}, at most {limit:.1%}"
            yield GateRule(name=name, value=share, limit=limit, broken=share > limit, line=line)


def _named(config: Config) -> tuple[PastRun, Config]:
    name = str(config.gate.baseline)
    if name == config.run_id:
        raise ConfigError(f"{KEY}={name!r} is the run itself: give an earlier run_id, or latest")
    found = past_runs.named(config, KEY, name)
    return found, found.config()


def _latest(config: Config, manifest: Manifest, notes: list[str]) -> tuple[PastRun, Config] | None:
    """Return the newest run of the same model, tasks, splits and limit that ended before this one started."""
    unread: list[str] = []

    def suits(run: IndexEntry) -> bool:
        questions = set(config.active_tasks), set(config.splits), config.limit
        return (set(run.tasks), set(run.splits), run.limit) == questions

    runs = past_runs.of_model(config, unread, suits, before=manifest.started_at or "")
    found = next(past_runs.each(runs, lambda run: (run, run.config()), unread), None)
    notes += unread
    return found
