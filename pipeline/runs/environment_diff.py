"""What else differs between two runs than their scores: configurations and manifests in, lines out.

Whatever is listed here may be the cause of a change; what only says where a run was kept is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.comparison.pairing import ComparedRun, SplitQuestions
from pipeline.config import loading
from pipeline.runs.directory import MECHANICS

RECORDED = {
    "model": ("model_fingerprint",),
    "template": ("template_fingerprint",),
    "versions": ("versions", "codebase"),
    "hardware": ("hardware",),
}
"""Parts of a manifest, by what they tell of; its facts of data sets and engines are told apart."""

PASSING = ("engine_start_s", "restarts", "pid", "gave_up", "session")
"""What an engine says of one session and not of itself."""

KINDS = ("model", "template", "data sets", "sampling", "configuration", "engine", "versions", "hardware")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A thing that is `base` in the one run and `new` in the other, as text; `kind` is one of `KINDS`."""

    kind: str
    name: str
    base: str
    new: str

    @property
    def line(self) -> str:
        """The difference as one line."""
        return f"{self.kind} differs: {self.name}: base {self.base}, new {self.new}"


def differences(base: ComparedRun, new: ComparedRun, split_questions: Sequence[SplitQuestions]) -> list[Difference]:
    """Return what differs, in the order of `KINDS`."""
    found = [
        *_configuration(base, new),
        *(each for kind, names in RECORDED.items() for each in _of_manifest(kind, names, base, new)),
        *_changed("data sets", _datasets(base), _datasets(new)),
        *_engines(base, new),
    ]
    num_prompts = sum(each.num_other_prompts for each in split_questions)
    if num_prompts:
        total = sum(each.num_questions for each in split_questions)
        what = f"{num_prompts:,} of {total:,} questions"
        found.append(Difference(kind="template", name="prompt", base="its own", new=f"another text for {what}"))
    return sorted(found, key=lambda each: (KINDS.index(each.kind), each.name))


def _configuration(base: ComparedRun, new: ComparedRun) -> list[Difference]:
    def keys(run: ComparedRun) -> dict[str, Any]:
        plain = {name: value for name, value in asdict(run.config).items() if name not in (*MECHANICS, "tasks")}
        tasks = {name: asdict(task) for name, task in run.config.active_tasks.items()}
        return loading.flat(plain | {"tasks": tasks})

    kinds = {"model": "model", "prompt": "template", "generation": "sampling", "seed": "sampling"}
    kinds |= {"tasks": "data sets", "engine": "engine"}
    return [
        Difference(kind=kinds.get(each.name.split(".")[0], each.kind), name=each.name, base=each.base, new=each.new)
        for each in _changed("configuration", keys(base), keys(new))
    ]


def _of_manifest(kind: str, names: Iterable[str], base: ComparedRun, new: ComparedRun) -> list[Difference]:
    then, now = (loading.flat({name: run.content.get(name) for name in names}) for run in (base, new))
    return _changed(kind, then, now)


def _datasets(run: ComparedRun) -> dict[str, Any]:
    facts = run.content.get("datasets")
    if not isinstance(facts, Mapping):
        return {}
    return {name: fact for name, fact in facts.items() if name.startswith("dataset_revision.")}


def _engines(base: ComparedRun, new: ComparedRun) -> list[Difference]:
    """Return what both runs' engines tell, and otherwise; what one of them does not tell is left out."""
    then, now = _engine(base), _engine(new)
    both = then.keys() & now.keys()
    return _changed("engine", {name: then[name] for name in both}, {name: now[name] for name in both})


def _engine(run: ComparedRun) -> dict[str, Any]:
    """Return each fact that the replicas tell of themselves with all its values; how many there are is one of them."""
    replicas = run.content.get("engine")
    if not isinstance(replicas, Mapping) or not replicas:
        return {}
    names = {name for facts in replicas.values() for name in facts} - set(PASSING)
    recorded = {name: sorted({str(facts[name]) for facts in replicas.values() if name in facts}) for name in names}
    return {name: ", ".join(values) for name, values in recorded.items()} | {"replicas": len(replicas)}


def _changed(kind: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(kind=kind, name=name, base=_as_text(then.get(name)), new=_as_text(now.get(name)))
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def _as_text(value: Any) -> str:
    return "none" if value is None else str(value)
