"""The gate: detects regressions of a scored run; the run and its configuration in, a verdict out.

    max_truncated, max_failed, max_no_answer    limits on shares of all rows
    max_drop       `score` (the leaderboard's) and `correct` of every task, domain and the run against the baseline, on
                   questions with a gold answer
    max_changed    more answers changed since the last run than in the pair of runs before
    cusum          the score of the run or of a domain has declined over many runs

`max_drop` is broken by a drop that is both larger than `gate.max_drop` and significant: its one-sided p-value, adjusted
for all drops that are tested together (`pipeline/metrics/max_t.py`), is below `gate.alpha`. For an unchanged model at
most a fraction `gate.alpha` of runs breaks it. A domain of a single task, and a run of a single domain, are not tested
twice. `pipeline/comparison/baseline.py` chooses the baseline. The values of the last two rules are reported with each
comparison, and breaks the gate only if `gate.max_changed` or `gate.cusum` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.comparison import baseline, changed_answers, drops, trend
from pipeline.comparison.compare_runs import compare
from pipeline.comparison.pairing import ComparedRun
from pipeline.comparison.verdict import verdict as comparison_verdict
from pipeline.config.fields import LATEST
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, DataError, GateFailed, Incomparable
from pipeline.metrics.max_t import SMALLEST_ALPHA
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.records import Counts, MetricChange
from pipeline.runs import past_runs
from pipeline.runs.manifest import Acceptance, ChangedAnswers, GateResult, GateRule, Manifest, ScoreTrend
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

ROUNDING = 1e-9
"""A value exceeds a limit by more than this: in floating point -(0.65 - 0.66) is larger than 0.01."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The gate's result for a run; fields as in `GateResult`. `rows` is the comparison with the baseline."""

    baseline: str | None = None
    baselines: Sequence[str] = ()
    rules: Sequence[GateRule] = ()
    notes: Sequence[str] = ()
    rows: Sequence[MetricChange] = ()
    accepted: Acceptance | None = None
    trends: Sequence[ScoreTrend] = ()
    changed: ChangedAnswers | None = None
    verdict: str | None = None

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
        return GateResult(
            baseline=self.baseline,
            broken=tuple(self.broken),
            rules=tuple(self.rules),
            notes=tuple(self.notes),
            baselines=tuple(self.baselines),
            accepted=self.accepted,
            trends=tuple(self.trends),
            changed=self.changed,
            verdict=self.verdict,
        )


def headline(result: GateResult) -> list[str]:
    """Return the lines to print before the scores: whether the gate is kept, and the verdict of `compare`."""
    state = f"the gate is broken: {', '.join(result.broken)}" if result.broken else "the gate is kept"
    since = f" (baseline {result.baseline})" if result.baseline is not None else ""
    return [f"{state}{since}", *([] if result.verdict is None else [f"gate: {result.verdict}"])]


def lines(result: GateResult) -> list[str]:
    """Return the lines to print for the gate's result: notes, the verdict of `compare`, then the rules."""
    notes = result.notes if result.verdict is None else (*result.notes, result.verdict)
    rules = [f"gate: {rule.verdict}: {rule.name}: {rule.line}" for rule in result.rules]
    return [*(f"gate: {note}" for note in notes), *rules]


def check(config: Config) -> None:
    """Check before generation that the runs named by `gate.baseline` and `gate.accept` can be compared with.

    Raises:
        ConfigError: Such a run does not exist, is not complete, is this run, has a manifest or configuration that
            cannot be read, or is to be accepted and has other settings; or `gate.alpha` is too small to be tested.
        RunError: output_dir cannot be reached.
    """
    gate = config.gate
    if gate.baseline is not None and gate.alpha < SMALLEST_ALPHA:
        raise ConfigError(f"gate.alpha={gate.alpha!r}: must be at least {SMALLEST_ALPHA:.5f}, no test can keep less")
    if gate.baseline not in (None, LATEST):
        _named(config)
    baseline.check_accept(config)


def judge(config: Config, run: ArtifactStore, manifest: Manifest) -> Verdict | None:
    """Apply the gate to a scored run; write the comparison with its baseline into the run's directory.

    Args:
        config: The run's configuration.
        run: The run's directory.
        manifest: The run's manifest, with counts and started_at.

    Returns:
        The verdict, or None when the configuration has no rule.

    Raises:
        RunError: The directory cannot be written, or output_dir cannot be reached; neither is a regression.
        DataError: The run's own prompts, samples or metrics are damaged.
    """
    run.remove(DIRECTORY)
    gate = config.gate
    if not gate.is_set:
        return None
    verdict = Verdict()
    if gate.baseline is not None or gate.cusum or gate.max_changed is not None:
        verdict = _against_runs(config, run, manifest)
    return replace(verdict, rules=[*verdict.rules, *_shares(config, manifest.counts)])


def _against_runs(config: Config, run: ArtifactStore, manifest: Manifest) -> Verdict:
    """Return the verdict of the rules that use earlier runs."""
    new, scores = ComparedRun.of(run, config, manifest), trend.scores_of(run, config.run_id)
    history = baseline.history(config, run, manifest)
    pool = baseline.eligible(history, new, max(2, config.gate.num_baselines))  # changed answers need two
    notes = list(history.notes)
    verdict = Verdict()
    if config.gate.baseline == LATEST:
        newest = pool.newest(config.gate.num_baselines)
        notes.append(newest.line)
        if newest.runs:
            verdict = _compared(config, newest.runs[0].run_id, newest.compared, new)
        verdict = replace(verdict, baselines=[each.run_id for each in newest.runs])
    elif config.gate.baseline is not None:
        verdict = _compared(config, config.gate.baseline, lambda: _named_run(config), new)
    unread: list[str] = []
    trends = trend.read(config, scores, history.runs, unread)
    changed = changed_answers.changed_answers(new, pool.runs)
    rules, lines = [], []
    for rule, is_on in (
        (_trend_rule(trends), config.gate.cusum),
        (_changed_rule(config, changed), config.gate.max_changed is not None),
    ):
        if is_on:
            rules.append(rule)
        elif history.runs:
            lines.append(f"{rule.name}: {rule.line}")
    return replace(
        verdict,
        notes=[*notes, *unread, *verdict.notes, *lines],
        rules=[*verdict.rules, *rules],
        accepted=history.accepted,
        trends=trends,
        changed=changed,
    )


def _compared(config: Config, name: str, open_base: Callable[[], ComparedRun], new: ComparedRun) -> Verdict:
    """Return the verdict of `max_drop`, with the differences between the runs besides their scores as notes.

    Args:
        config: The new run's configuration.
        name: The baseline's run_id.
        open_base: Opens the baseline.
        new: The new run.
    """
    try:
        base = open_base()
        comparison = compare(base, new, new.store.child(DIRECTORY))
        family = tested(comparison.rows)
        domains = {name: task.domain for name, task in config.active_tasks.items()}
        keys = dict.fromkeys(key for row in family for key in drops.weights_of_row(row, domains))
        p_values = drops.p_values(drops.read(base, new, keys), family, domains, config.gate.alpha)
    except (Incomparable, DataError, ConfigError) as error:  # DataError and ConfigError: of the baseline
        line = f"{name} cannot be compared: {error}"
        return Verdict(baseline=name, rules=[GateRule(name="baseline", value=None, limit=None, broken=True, line=line)])
    rule = drop_rule(config, family, p_values)
    notes = [each.line for each in comparison.differences]
    return Verdict(
        baseline=name, rules=[rule], notes=notes, rows=comparison.rows, verdict=comparison_verdict(comparison)
    )


def require_kept(manifest: Manifest) -> None:
    """Raise if the manifest of a complete run records a broken rule.

    Raises:
        GateFailed: A rule is broken. The message names the rules; their lines were printed before.
    """
    if manifest.gate is not None and manifest.gate.broken:
        names = ", ".join(manifest.gate.broken)
        raise GateFailed(f"run {manifest.run_id} is complete, and breaks rules of its gate: {names}")


def tested(rows: Sequence[MetricChange]) -> list[MetricChange]:
    """Return the rows of a comparison that `max_drop` tests; those of a single task or domain repeat another row."""
    return [row for row in rows if row.metric in HEADLINE_METRICS and (row.level == "task" or row.num_parts > 1)]


def drop_rule(config: Config, family: Sequence[MetricChange], p_values: Sequence[float]) -> GateRule:
    """Return the rule `max_drop` applied to the tested rows of a comparison and their p-values."""
    limit, alpha = config.gate.max_drop, config.gate.alpha
    if not family:
        line = "nothing to compare: no question of both runs has a gold, or none was scored"
        return GateRule(name="max_drop", value=None, limit=limit, broken=False, line=line)
    rows = list(zip(family, p_values, strict=True))
    found = [(row, p) for row, p in rows if -row.difference > limit + ROUNDING and p < alpha]
    worst = min(row.difference for row, _ in (found or rows))
    splits = ", ".join(sorted({row.split for row in family}))
    if found:
        found.sort(key=lambda each: each[0].difference)
        named = [_describe(row, p) for row, p in found[:NUM_NAMED]]
        more = [f"{len(found) - NUM_NAMED} more"] if len(found) > NUM_NAMED else []
        line = f"{'; '.join(named + more)} (at most {limit:g}; {len(family)} tests on {splits})"
    else:
        largest = f"the largest is {max(-worst, 0.0):.3f}" if worst < 0 else "nothing dropped"
        line = f"no drop above {limit:g} is significant; {largest} ({len(family)} tests on {splits})"
    return GateRule(name="max_drop", value=max(-worst, 0.0), limit=limit, broken=bool(found), line=line)


def _trend_rule(trends: Sequence[ScoreTrend]) -> GateRule:
    highest = max(trends, key=lambda each: each.statistic / each.limit, default=None)
    return GateRule(
        name="cusum",
        value=highest.statistic if highest is not None else None,
        limit=highest.limit if highest is not None else None,
        broken=any(each.has_declined for each in trends),
        line=trend.line(trends),
    )


def _changed_rule(config: Config, changed: ChangedAnswers | None) -> GateRule:
    rise, limit = changed_answers.rise(changed), config.gate.max_changed
    is_significant = changed is not None and changed.p_value is not None and changed.p_value < config.gate.alpha
    is_large = rise is not None and limit is not None and rise > limit + ROUNDING
    line = changed_answers.line(changed) + (f", a rise of at most {limit:g} passes" if limit is not None else "")
    return GateRule(name="max_changed", value=rise, limit=limit, broken=is_large and is_significant, line=line)


def _describe(row: MetricChange, p: float) -> str:
    p_text = "<0.001" if p < 0.001 else f"{p:.3f}"
    return f"{row.metric} of {row.task} {row.split} fell from {row.base:.3f} to {row.new:.3f} (adjusted p {p_text})"


def _shares(config: Config, counts: Counts | None) -> Iterator[GateRule]:
    assert counts is not None, "a run is counted before it is judged"
    total = counts.num_samples
    assert total, "a run has samples"
    for name, limit in config.gate.shares.items():
        num = getattr(counts, SHARES[name])
        share = num / total
        line = f"{num:,} of {total:,} rows ({share:.1%}) {SHARE_PHRASES[name]}, at most {limit:.1%}"
        yield GateRule(name=name, value=share, limit=limit, broken=share > limit + ROUNDING, line=line)


def _named_run(config: Config) -> ComparedRun:
    found = _named(config)
    return ComparedRun.of(found.store, found.config(), found.manifest)


def _named(config: Config) -> PastRun:
    name = str(config.gate.baseline)
    if name == config.run_id:
        raise ConfigError(f"{KEY}={name!r} is the run itself: give an earlier run_id, or latest")
    return past_runs.named(config, KEY, name)
