"""The rooms of a run in their order, which is known here and nowhere else.

In: a run's directory, locked, and its configuration. Out: all that the run yields, and its manifest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.comparison import gate, noise
from pipeline.config.schema import Config
from pipeline.generate import length_estimates
from pipeline.generate import stage as generate_stage
from pipeline.generate.cluster import cluster, load
from pipeline.prepare import checks, subprocess_stage
from pipeline.prepare.template_fingerprint import check_fingerprint
from pipeline.publish import stage as publish_stage
from pipeline.records import PROMPT_SCHEMA
from pipeline.runs import manifest
from pipeline.score.stage import score
from pipeline.terminal import run_summary
from pipeline.terminal.console import GenerateProgress, escape_control

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.generate.engines.base import EngineFactory
    from pipeline.runs.reproduce import Reproduction
    from pipeline.storage.artifacts import ArtifactStore
    from pipeline.terminal.signals import Signals


@dataclass(slots=True, kw_only=True)
class Orchestrator:
    """One walk through them.

    `factory` starts the engine, by default the one that the configuration names; `reproduction` is the run that this
    one makes again. `content` becomes the manifest; `timings` are each room's seconds. Both are filled on the way.
    """

    config: Config
    run: ArtifactStore
    factory: EngineFactory | None
    console: Console
    signals: Signals
    reproduction: Reproduction | None
    content: dict[str, Any]
    timings: dict[str, float]

    def run_stages(self) -> None:
        """Do what is not done yet, publish, and write the manifest of a complete run."""
        began = time.monotonic()
        self._begin_reproduction()
        self._prepare()
        self._pin_revision()
        with self._timed("generate"):
            self.content["engine"] = self._generate(self.config, self.run)
        self._after_generate()
        publish_stage.remove_products(self.run, self.config)  # what an earlier session made of other samples
        with self._timed("score"):
            score(self.run, self.config)
        self._compare_reproduction()
        self.content |= {"counts": run_summary.counts(self.run), "ended_at": manifest.now()}
        if self.config.noise.share:
            with self._timed("noise"):
                self._noise()
        with self._timed("gate"):
            verdict = gate.judge(self.config, self.run, self.content)
        self.content |= gate.manifest_entries(verdict)
        self.content["timings_s"] = self._rounded()  # the report shows them
        with self._timed("publish"):
            products = publish_stage.publish(self.run, self.config, self.content)
        self.timings["total"] = time.monotonic() - began
        self.content |= {
            "published": publish_stage.record(products),
            "ended_at": manifest.now(),
            "timings_s": self._rounded(),
        }
        manifest.write(self.run, "complete", self.content)
        run_summary.print_summary(self.run, self.config, self.console, self.timings)
        for line in [product.line for product in products] + (verdict.lines if verdict else []):
            self._print(line)

    def _prepare(self) -> None:
        """Make the prompts, or open those that are there, and compare what they are made of with what is expected."""
        prompts = self.run.artifact("prompts", PROMPT_SCHEMA)
        if prompts is not None:
            self._check_prompts(prompts.metadata)
        else:
            with self._timed("prepare"):
                subprocess_stage.prepare_in_subprocess(
                    self.config, self.run, on_metadata=self._check_prompts, meanwhile=self._import_ray
                )
            prompts = self.run.require_artifact("prompts", PROMPT_SCHEMA)
        self._warn(checks.warnings(self.config, prompts))

    def _import_ray(self) -> None:
        load()
        if self.signals.ended is not None:  # a module that is being imported may catch what a signal raises in it
            raise self.signals.ended

    def _check_prompts(self, facts: Mapping[str, str | int]) -> None:
        datasets = {name: fact for name, fact in facts.items() if not name.startswith(checks.RECORDED)}
        self.content |= {"datasets": datasets, "template_fingerprint": facts.get("template_fingerprint")}
        warning = check_fingerprint(self.config, facts)
        if warning:
            self._warn([warning])
        if self.reproduction is not None:
            self._differs(self.reproduction.prepared(self.config, facts))

    def _pin_revision(self) -> None:
        """Take the weights from the tokenizer's commit, however often the run is gone on with."""
        commit = self.content["datasets"].get("model_revision")
        if commit is not None:
            self.config = replace(self.config, model=replace(self.config.model, revision=str(commit)))

    def _generate(self, config: Config, run: ArtifactStore, *, shuffled: bool = False) -> dict[str, Any]:
        """Generate what is missing; return what the engines said of themselves."""
        retries = config.run.retry_failed and generate_stage.has_failed_rows(run)
        engine = None if retries else generate_stage.done(run)
        if engine is not None:
            return engine
        lengths, unread = (
            (None, []) if shuffled else length_estimates.find(config, run.require_artifact("prompts", PROMPT_SCHEMA))
        )
        for line in unread:
            self._print(f"{length_estimates.KEY}={config.schedule.history}: {line}")
        progress = GenerateProgress(self.console)
        with cluster(config) as placement:
            self.signals.take()
            factory = self.factory or generate_stage.engine_factory(config, placement)
            if placement.waits_for is not None:
                self._print(f"generate: {placement.waits_for}")
            if retries:  # not before all else is there: until now the run is complete
                generate_stage.reopen(run)
            try:
                with self.signals.deferred():
                    return generate_stage.generate(
                        config, run, placement, factory, progress, self.signals, lengths, shuffled=shuffled
                    )
            finally:
                progress.end()

    def _after_generate(self) -> None:
        """Record how the completions were made, and say what went wrong on the way."""
        engines = self.content["engine"]
        self.content["hardware"]["gpus"] = manifest.gpus(engines)
        self.content["schedule"] = json.loads(str((self.run.metadata("completions") or {}).get("schedule", "null")))
        num_restarts = sum(int(facts.get("restarts", 0)) for facts in engines.values())
        if num_restarts:
            self._print(f"generate: {num_restarts} restarts of engines that died; logs/ tells why")
        for name, facts in engines.items():
            if "gave_up" in facts:
                self._print(f"generate: replica {name} gave up: {facts['gave_up']}")

    def _noise(self) -> None:
        """Generate a share of the questions a second time, and record how much that changes."""
        folder, second = noise.choose(self.config, self.run), noise.second(self.config)
        self._generate(second, folder, shuffled=True)
        score(folder, second)
        self.content["noise"] = noise.measure(self.config, self.run)
        self._print(noise.line(self.content["noise"]))

    def _begin_reproduction(self) -> None:
        if self.reproduction is None:
            return
        source, overridden = self.reproduction.source.root, list(self.reproduction.overridden)
        self.content["again"] = {"run": source, "overridden": overridden, "differences": []}
        self._print_reproduction([source, *(f"overridden: {line}" for line in overridden)])
        self._differs(self.reproduction.environment(self.content))

    def _compare_reproduction(self) -> None:
        if self.reproduction is None:
            return
        self._differs(self.reproduction.engines(self.content["engine"]))
        self.content["again"]["agreement"] = self.reproduction.agreement(self.run)
        self._print_reproduction([self.content["again"]["agreement"]])

    def _differs(self, lines: list[str]) -> None:
        self.content["again"]["differences"] += lines
        self._print_reproduction([f"differs: {line}" for line in lines])

    def _print_reproduction(self, lines: list[str]) -> None:
        for line in lines:
            self._print(f"again: {line}")

    def _warn(self, lines: list[str]) -> None:
        self.content["warnings"] += lines
        for line in lines:
            self._print(f"warning: {line}")

    def _print(self, line: str) -> None:
        self.console.print(escape_control(line), soft_wrap=True, markup=False)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = time.monotonic() - began

    def _rounded(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in self.timings.items()}
