"""The files of logs_public.zip, in the format of lm-evaluation-harness 0.4.9 for an OpenAI-compatible chat server.

In: a run's answers, its configuration and its manifest. Out: the lines of `samples_<task>_<stamp>.jsonl` and the text
of `results_<stamp>.json`. A value that the harness knows and a run does not is null. A question whose gold is hidden
has null metrics; the harness writes 0. The times are those of the manifest, so the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.config.harness_arguments import harness_arguments
from pipeline.config.schema import Config, TaskConfig
from pipeline.errors import DataError
from pipeline.metrics.names import EXACT_METRICS
from pipeline.metrics.squad import exact_match, f1, tokens
from pipeline.publish.leaderboard.answers import REPEAT, Answer, Mode
from pipeline.records import read_doc, read_messages
from pipeline.runs.evaluated import evaluated_model
from pipeline.runs.manifest import Manifest, dump, parse_time
from pipeline.runs.model_files import sha256_of

FILTERS: dict[Mode, str] = {"reference": "scoring", "extracted": "extracted"}
"""The harness's `filter` by submission.mode: the transformation of a response before it is scored and submitted."""

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def started_at(manifest: Manifest) -> datetime:
    """Return the start time of a manifest's run, in UTC.

    Raises:
        DataError: The manifest has none.
    """
    if manifest.started_at is None:
        raise DataError("manifest.json has no started_at: run the same run_id again")
    return parse_time(manifest.started_at)


def stamp(manifest: Manifest) -> str:
    """Return the time in the file names; the benchmark's packer parses it with `%Y-%m-%dT%H-%M-%S.%f`."""
    return started_at(manifest).strftime("%Y-%m-%dT%H-%M-%S.%f")


def public_name(path: str | None) -> str | None:
    """Return a hub id unchanged, and only the last component of a path, because the archive is public."""
    if path is None or HUB_ID.fullmatch(path):
        return path
    return path.rstrip("/").rpartition("/")[2] or path


@dataclass(slots=True)
class Tally:
    """The mean and standard error of a metric over the rows that have a value."""

    num: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float | None) -> None:
        """Add a row's value; None is ignored."""
        if value is not None:
            self.num, self.total, self.squares = self.num + 1, self.total + value, self.squares + value * value

    @property
    def mean(self) -> float | None:
        """The mean, or None without values."""
        return self.total / self.num if self.num else None

    @property
    def stderr(self) -> float | None:
        """The standard error of the mean, sample standard deviation / sqrt(n); None for fewer than two values."""
        if self.num < 2:
            return None
        return math.sqrt(max(0.0, self.squares - self.total**2 / self.num) / (self.num - 1) / self.num)


@dataclass(slots=True)
class TaskLog:
    """The log of one task: returns its lines, and aggregates them for `results`."""

    mode: Mode
    generation_kwargs: dict[str, Any]
    num_answers: int = 0
    num_extracted: int = 0
    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in EXACT_METRICS})
    _hash: Any = field(default_factory=hashlib.sha256)

    def line(self, row: Answer) -> str:
        """Return the line of an answer, and add it to the aggregates."""
        doc, outputs, target = read_doc(row.doc), row.outputs(self.mode), (row.gold or "").strip()
        chat = json.dumps([{**message, "type": "text"} for message in read_messages(row.messages)], ensure_ascii=False)
        sample = {
            "doc_id": row.place,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": [chat], "arg_1": self.generation_kwargs}},
            "resps": [[row.content or ""]],
            "filtered_resps": [outputs],
            "filter": FILTERS[self.mode],
            "metrics": list(EXACT_METRICS),
        }
        hashes = {
            "doc_hash": sha256_of(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": sha256_of(chat),
            "target_hash": sha256_of(target),
        }
        scores = _scores(row, outputs)
        self.num_answers += 1
        self.num_extracted += self.mode == "extracted" and row.answer is not None
        self._hash.update("".join(hashes.values()).encode())
        for name, tally in self.tallies.items():
            tally.add(scores[name])
        return json.dumps(sample | hashes | scores, ensure_ascii=False) + "\n"

    @property
    def task_hash(self) -> str:
        """The harness's hash of a task: the SHA-256 over the three hashes of each line."""
        return str(self._hash.hexdigest())

    def results(self, task: str) -> dict[str, Any]:
        """Return the task's entry of results_<stamp>.json; as in the harness, an unknown value is `N/A`."""
        found: dict[str, Any] = {"alias": task, "samples": self.num_answers}
        for name, tally in self.tallies.items():
            found[f"{name},{FILTERS[self.mode]}"] = "N/A" if tally.mean is None else tally.mean
            found[f"{name}_stderr,{FILTERS[self.mode]}"] = "N/A" if tally.stderr is None else tally.stderr
        return found


def results(config: Config, manifest: Manifest, logs: dict[str, TaskLog]) -> str:
    """Return the text of results_<stamp>.json.

    Args:
        config: The run's configuration.
        manifest: The run's manifest; only entries that are known before the run ends are read.
        logs: The logs by task, after their last line.
    """
    versions, codebase = manifest.versions, manifest.codebase
    name = public_name(evaluated_model(config, manifest))
    system = config.prompt.system
    kind = "vllm" if config.engine.kind == "vllm" else "local-chat-completions"
    prompts = manifest.datasets
    tasks = {task: config.tasks[task] for task in logs}
    whole = {
        "results": {task: log.results(task) for task, log in logs.items()},
        "group_subtasks": {task: [] for task in logs},
        "configs": {
            task: _task_config(task, settings, prompts.dataset_revisions.get(task), config)
            for task, settings in tasks.items()
        },
        "versions": dict.fromkeys(logs),
        "n-shot": dict.fromkeys(logs, 0),
        "higher_is_better": {task: dict.fromkeys(EXACT_METRICS, True) for task in logs},
        "n-samples": {task: {"original": log.num_answers, "effective": log.num_answers} for task, log in logs.items()},
        "config": _run_config(config, manifest, kind, name),
        "git_hash": codebase.commit if codebase else None,
        "date": started_at(manifest).timestamp(),
        "pretty_env_info": None,
        "transformers_version": versions.get("transformers"),
        "lm_eval_version": None,
        "upper_git_hash": None,
        "task_hashes": {task: log.task_hash for task, log in logs.items()},
        "model_source": kind,
        "model_name": name,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", name or ""),
        "system_instruction": system,
        "system_instruction_sha": sha256_of(system) if system else None,
        "fewshot_as_multiturn": None,
        "chat_template": None,
        "chat_template_sha": prompts.chat_template_sha256,
        "total_evaluation_time_seconds": None,
        "pipeline": _provenance(config, manifest, logs),
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def _run_config(config: Config, manifest: Manifest, kind: str, name: str | None) -> dict[str, Any]:
    """Return the harness's `config`: the arguments of its command line."""
    return {
        "model": kind,
        "model_args": _model_args(config, manifest, name),
        "batch_size": config.engine.slots,
        "limit": None,
        "gen_kwargs": harness_arguments(config.generation),
        "random_seed": config.seed,
    }


def _provenance(config: Config, manifest: Manifest, logs: dict[str, TaskLog]) -> dict[str, Any]:
    """Return `pipeline`, which the harness does not write: who wrote the file, and from what."""
    return {
        "written_by": "pipeline, in the format of lm-evaluation-harness 0.4.9",
        "version": manifest.versions.get("pipeline"),
        "codebase": dump(manifest.codebase),
        "versions": dict(manifest.versions),
        "submission_mode": config.submission.mode,
        "num_extracted": {task: log.num_extracted for task, log in logs.items()},
        "repeats": config.generation.repeats_by_split["test"],
        "submitted_repeat": REPEAT,
    }


def _scores(row: Answer, outputs: str) -> dict[str, float | None]:
    """Return the metrics of the submitted text; only in mode `extracted` can they differ from the sample's."""
    if row.gold is None or outputs == row.response:
        return {"f1": row.f1, "em": row.em}
    gold, submitted = tokens(row.gold), tokens(outputs)
    return {"f1": f1(gold, submitted), "em": exact_match(gold, submitted)}


def _task_config(task: str, settings: TaskConfig, revision: str | None, config: Config) -> dict[str, Any]:
    return {
        "task": task,
        "dataset_path": public_name(settings.dataset),
        "test_split": "test",
        "num_fewshot": 0,
        "output_type": "generate_until",
        "generation_kwargs": harness_arguments(config.generation),
        "filter_list": [{"name": FILTERS[config.submission.mode]}],
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in EXACT_METRICS],
        "metadata": {"dataset_revision": revision},
    }


def _model_args(config: Config, manifest: Manifest, name: str | None) -> str:
    """Return the harness's `model_args`, without the server's address, because the archive is public."""
    revision = manifest.datasets.model_revision or config.model.revision
    arguments: dict[str, str | int | None] = {
        "model" if config.engine.kind == "endpoint" else "pretrained": name,
        "revision": revision,
    }
    if config.engine.kind == "vllm":
        arguments |= {"dtype": config.model.dtype, "max_model_len": config.model.context_size}
        arguments |= {"tensor_parallel_size": config.engine.tensor_parallel_size}
    return ",".join(f"{key}={value}" for key, value in arguments.items() if value is not None)
