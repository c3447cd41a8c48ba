"""The configuration's schema: every key with its type, default, meaning and bounds.

In: nothing. Out: frozen dataclasses. `pipeline/config/loading.py` fills them from conf/*.yaml and the command line;
past that no OmegaConf object is seen. Each class checks its own values and raises `ConfigError` naming the full key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config.engines import EngineConfig
from pipeline.config.fields import LATEST, RUN_ID, key, require, require_no_credentials
from pipeline.config.gating import GateConfig, NoiseConfig
from pipeline.config.submission import SubmissionConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task of the benchmark: where its rows are and how its instruction is filled in."""

    dataset: str = key("", "hub id, or a local directory, file or glob of json, jsonl or parquet")
    revision: str | None = key(None, "commit or tag of the hub data set")
    domain: str = key("", "domain whose score this task is averaged into")
    submission_name: str = key("", "file of this task in the leaderboard's archive, without .json")
    prompt_fields: tuple[str, ...] = key(("inputs", "meta"), "parts of a row that fill the instruction's placeholders")
    strip: bool = key(False, "strip the filled instruction")
    train_split: str = key("train", "the data set's own name of its labelled split, called train here")
    announced: bool = key(False, "announced by the benchmark but not scored yet: runs only with announced=true")

    def check(self, name: str) -> None:
        """Raise `ConfigError` when this task, called `name`, cannot be loaded."""
        at = f"tasks.{name}"
        require(bool(NAME.fullmatch(name)), at, name, "a task's name is letters, digits, _ and -")
        require(bool(self.dataset), f"{at}.dataset", self.dataset, "give a hub id or a local path")
        require(
            bool(NAME.fullmatch(self.domain)), f"{at}.domain", self.domain, "give a name of letters, digits, _ and -"
        )
        known = {"inputs", "meta"}
        require(bool(self.prompt_fields), f"{at}.prompt_fields", [], "name inputs, or inputs and meta")
        for part in self.prompt_fields:
            require(part in known, f"{at}.prompt_fields", part, "only inputs and meta fill an instruction")
        require(
            not self.submission_name or bool(NAME.fullmatch(self.submission_name)),
            f"{at}.submission_name",
            self.submission_name,
            "a file name of letters, digits, _ and -, without .json",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model that is evaluated."""

    path: str | None = key(None, "hub id or directory (not needed by an endpoint)")
    revision: str | None = key(None, "commit or tag of the hub model")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = key("auto", "precision of the weights in the engine")
    context_size: int = key(8192, "tokens of prompt and completion together")
    trust_remote_code: bool = key(False, "run Python code that comes with the model")

    def __post_init__(self) -> None:
        require(self.context_size >= 1, "model.context_size", self.context_size, "must be at least 1 token")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    """How a question becomes the model's prompt."""

    system: str | None = key(None, "system message before the question (null: none)")
    chat_template: str | None = key(None, "file of a Jinja chat template (null: the model's own)")
    template_kwargs: dict[str, Any] = key({}, "arguments of the chat template, such as enable_thinking")
    expected_fingerprint: str | None = key(None, "fingerprint that the template must have (null: not compared)")
    fingerprint_policy: Literal["error", "warn"] = key("error", "what another fingerprint does: end the run, or warn")

    def __post_init__(self) -> None:
        expected = self.expected_fingerprint
        well_formed = expected is None or bool(re.fullmatch("sha256:[0-9a-f]{64}", expected))
        require(
            well_formed, "prompt.expected_fingerprint", expected, "must be null, or sha256: and 64 digits of 0-9 a-f"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """Sampling, in the harness's words.

    Nothing else is in force: the model's generation_config.json gives only its end-of-text ids.
    """

    do_sample: bool = key(False, "sample (true) or decode greedily (false)")
    until: tuple[str, ...] = key((), "strings that end a completion, besides the model's end of text")
    max_gen_toks: int = key(10000, "most tokens of a completion, reasoning included")
    temperature: float = key(1.0, "temperature when do_sample is true")
    top_p: float = key(1.0, "nucleus when do_sample is true")
    top_k: int = key(0, "most likely tokens to draw from when do_sample is true (0: all)")
    repeats: int = key(1, "completions a question")

    def __post_init__(self) -> None:
        at = "generation"
        require(self.max_gen_toks >= 1, f"{at}.max_gen_toks", self.max_gen_toks, "must be at least 1")
        require(
            0 < self.temperature <= 100,
            f"{at}.temperature",
            self.temperature,
            "must be above 0 and at most 100; greedy is do_sample=false",
        )
        require(0 < self.top_p <= 1, f"{at}.top_p", self.top_p, "must be above 0 and at most 1")
        require(self.top_k >= 0, f"{at}.top_k", self.top_k, "must be 0 (all tokens) or more")
        require(1 <= self.repeats <= 10_000, f"{at}.repeats", self.repeats, "must be from 1 to 10000")
        require(all(self.until), f"{at}.until", list(self.until), "an empty stop string would end every completion")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The Ray cluster."""

    address: str = key("local", "local: start Ray on this machine; auto or ray://host:port: join a cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How a run keeps what it has."""

    flush_s: float = key(
        2.0, "in object storage, longest wait of a finished row until it is stored; a disk has no wait"
    )
    grace_s: float = key(60.0, "after SIGINT or SIGTERM, longest wait for what is under way; a second signal ends it")
    restart: bool = key(False, "start afresh beside a run that has this run_id, as <run_id>.2 and so on")

    retry_failed: bool = key(False, "of a complete run, generate the rows that failed again, those in noise/ too")

    def __post_init__(self) -> None:
        require(0 < self.flush_s <= 3600, "run.flush_s", self.flush_s, "must be above 0 and at most 3600 seconds")
        require(0 <= self.grace_s <= 86400, "run.grace_s", self.grace_s, "must be from 0 to 86400 seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """The order in which rows start; a completion does not depend on it."""

    history: str | None = key(
        LATEST,
        "run whose output lengths give the order, longest first: a run_id, latest (the newest complete run of this "
        "model), or null (the prompts' lengths)",
    )

    def __post_init__(self) -> None:
        named = self.history is None or bool(RUN_ID.fullmatch(self.history))
        require(named, "schedule.history", self.history, "must be latest, a run_id in output_dir, or null")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """What report.html shows."""

    max_inline_mb: int = key(200, "MB of samples' text above which they lie beside report.html, in report_samples/")
    reference: dict[str, float] = key({}, "by domain, test scores of a reference submission to show beside the run's")

    def __post_init__(self) -> None:
        require(self.max_inline_mb >= 0, "report.max_inline_mb", self.max_inline_mb, "must be 0 or more")
        for domain, score in self.reference.items():
            require(0 <= score <= 1, f"report.reference.{domain}", score, "must be from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run, resolved."""

    conf: str = key("", "name in conf/, or a path")
    run_id: str = key("", "directory name of the run (empty: <conf>-<UTC time>)")
    output_dir: str = key("outputs", "where runs go: a path, or a URI such as s3://bucket/prefix")
    seed: int = key(1234, "seed of the sampling")
    limit: int | None = key(None, "first n rows of each task and split (null: all)")
    splits: tuple[str, ...] = key(("train", "test"), "splits to run: train (labelled) and test (hidden golds)")
    only: tuple[str, ...] = key((), "of the tasks below, run these (none named: all)")
    announced: bool = key(False, "also run the tasks that the benchmark has announced but does not score yet")
    max_failed_rows: int = key(0, "failed rows up to which a finished run ends with exit code 0")
    tasks: dict[str, TaskConfig] = key({}, "")
    model: ModelConfig = key(ModelConfig(), "")
    prompt: PromptConfig = key(PromptConfig(), "")
    generation: GenerationConfig = key(GenerationConfig(), "")
    reasoning_parser: str | None = key(None, "vLLM reasoning parser that splits thinking from answer (null: none)")
    engine: EngineConfig = key(EngineConfig(), "")
    cluster: ClusterConfig = key(ClusterConfig(), "")
    schedule: ScheduleConfig = key(ScheduleConfig(), "")
    run: RunConfig = key(RunConfig(), "")
    gate: GateConfig = key(GateConfig(), "")
    noise: NoiseConfig = key(NoiseConfig(), "")
    submission: SubmissionConfig = key(SubmissionConfig(), "")
    report: ReportConfig = key(ReportConfig(), "")

    def __post_init__(self) -> None:
        fix = "letters, digits, . _ and -, at most 128, beginning with a letter or digit"
        require(not self.run_id or bool(RUN_ID.fullmatch(self.run_id)), "run_id", self.run_id, fix)
        require(self.run_id != LATEST, "run_id", self.run_id, "elsewhere means the newest run: choose another")
        require(bool(self.output_dir), "output_dir", self.output_dir, "give a path or a URI")
        require_no_credentials("output_dir", self.output_dir)
        require(self.limit is None or 1 <= self.limit < 2**63, "limit", self.limit, "must be null or at least 1")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must be from 0 to 2**32 - 1")
        require(self.max_failed_rows >= 0, "max_failed_rows", self.max_failed_rows, "must be 0 or more")
        known = {"train", "test"}
        require(bool(self.splits), "splits", list(self.splits), "name at least one of train and test")
        require(set(self.splits) <= known, "splits", list(self.splits), "only train and test are known")
        require(len(set(self.splits)) == len(self.splits), "splits", list(self.splits), "names a split twice")
        for name, task in self.tasks.items():
            task.check(name)
        strangers = set(self.only) - set(self.tasks)
        require(not strangers, "only", sorted(strangers), f"there are {', '.join(self.tasks)}")
        require(bool(self.active_tasks), "tasks", list(self.tasks), "there is no task to run")
        if self.engine.kind == "vllm":
            require(bool(self.model.path), "model.path", self.model.path, "give a hub id or a directory")
            context_size, max_tokens = self.model.context_size, self.generation.max_gen_toks
            require(
                max_tokens < context_size,
                "generation.max_gen_toks",
                max_tokens,
                f"must be below model.context_size={context_size}",
            )
        else:
            template = self.prompt.chat_template
            require(template is None, "prompt.chat_template", template, "a server renders: start it with this template")

    @property
    def active_tasks(self) -> Mapping[str, TaskConfig]:
        """The tasks that this run asks, in the order of the configuration."""
        if self.only:
            return {name: self.tasks[name] for name in self.only}
        return {name: task for name, task in self.tasks.items() if self.announced or not task.announced}
