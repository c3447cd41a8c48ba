"""The configuration's schema: every key with its type, default, meaning and bounds.

All sections are frozen dataclasses. `loading.py` fills them from conf/*.yaml and the command line; no OmegaConf object
gets past it. `Config` checks the bounds declared with the keys; `__post_init__` checks the rules that no bound can
express. Each error names the full key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pipeline.config.fields import LATEST, check_bounds, key, require
from pipeline.config.secrets import require_no_credentials, require_no_secrets
from pipeline.errors import ConfigError

T = TypeVar("T")

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
NOT_EMPTY = r"(?s).+"
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
RESERVED_HEADERS = ("accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding")
OWN_ENTRIES = {
    "model": "engine.endpoint.model",
    "messages": "tasks.* and prompt.system",
    "seed": "seed",
    "stop": "generation.until",
    "max_tokens": "generation.max_gen_toks, engine.endpoint.token_limit",
    "max_completion_tokens": "generation.max_gen_toks, engine.endpoint.token_limit",
    "temperature": "generation.temperature, generation.do_sample",
    "top_p": "generation.top_p, generation.do_sample",
    "top_k": "generation.top_k, generation.do_sample",
    "chat_template_kwargs": "prompt.template_kwargs",
    "n": "generation.repeats",
    "stream": "answers are read whole",
    "stream_options": "answers are read whole",
}
"""Entries of a request that have keys of their own, so that a run records the values it used."""

RESERVED_ARGUMENTS = (
    *("model", "tokenizer", "revision", "tokenizer_revision", "dtype", "max_model_len", "trust_remote_code", "seed"),
    *("tensor_parallel_size", "pipeline_parallel_size", "max_num_seqs", "gpu_memory_utilization"),
)
"""vLLM engine arguments that have keys of their own, so that a run records the values it used."""

ADDRESS = r"local|auto|(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]@]+):[0-9]{1,5}"
ADDRESS_FIX = (
    "must be local, auto or host:port, such as 10.0.0.1:6379, on a node of the cluster; Ray Client (ray://) and the "
    "address of Ray's dashboard (http://) are for other uses: from elsewhere, submit the command with `ray job submit`"
)

_LABEL_PART = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LABEL = rf"([A-Za-z0-9.-]{{1,253}}/)?{_LABEL_PART}"
LABEL_CONDITION = rf"!?{_LABEL_PART}|!?in\({_LABEL_PART}(,{_LABEL_PART})*\)"
"""As Ray's label selectors have it (Ray 2.60, _private/label_utils.py); Ray takes a space as a part of the value."""
RATE_FIX = "must be from 0.001 to 1e9 a minute, or null for no limit"

MAX_FAILED = 0.01
"""Default of gate.max_failed: failed rows have no score, so a comparison of scores does not see them."""


def text_key(default: T, meaning: str) -> T:
    """Declare a key that holds text, or a tuple of texts, none of which may be blank."""
    return key(default, meaning, pattern=r"(?s).*\S.*", fix="give some text, or null")


def share_key(meaning: str) -> float | None:
    """Declare a key that holds a share from 0 to 1, or null for no rule."""
    return key(None, meaning, at_least=0, at_most=1, fix="must be a share from 0 to 1, or null")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task of the benchmark: where its rows are and how its instruction is filled in."""

    dataset: str = key(
        "",
        "hub id, or a local directory, file or glob of json, jsonl or parquet",
        pattern=NOT_EMPTY,
        fix="give a hub id or a local path",
    )
    revision: str | None = key(None, "commit or tag of the hub data set")
    domain: str = key(
        "", "domain whose score this task is averaged into", pattern=NAME, fix="give a name of letters, digits, _ and -"
    )
    submission_name: str = key(
        "",
        "file of this task in the leaderboard's archive, without .json",
        pattern=f"({NAME})?",
        fix="a file name of letters, digits, _ and -, without .json",
    )
    prompt_fields: tuple[str, ...] = key(
        ("inputs", "meta"),
        "parts of a row that fill the instruction's placeholders",
        pattern="inputs|meta",
        fix="only inputs and meta fill an instruction",
    )
    strip: bool = key(False, "strip the filled instruction")
    train_split: str = key("train", "the data set's own name of its labelled split, called train here")
    announced: bool = key(False, "announced by the benchmark but not scored yet: runs only with announced=true")
    cluster: str | None = key(
        None,
        "category whose questions are not independent of each other, as group_by of metrics.parquet names it: standard "
        "errors and intervals of the task, its domain and the run are cluster-robust (null: questions are independent)",
        pattern=NOT_EMPTY,
        fix="give the name of a category, or null",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The evaluated model."""

    path: str | None = key(None, "hub id or directory (not needed by an endpoint)")
    revision: str | None = key(None, "commit or tag of the hub model")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = key("auto", "precision of the weights in the engine")
    context_size: int | None = key(
        None,
        "tokens of prompt and completion together (null: the model's own; an endpoint's is its server's)",
        at_least=1,
        fix="must be at least 1 token, or null for the model's own",
    )
    expected_config: tuple[str, ...] = key(
        (),
        "entries of config.json, such as num_hidden_layers=40, that a model must have for which the configuration was "
        "written, and name=<id on the hub>; another model is refused (none: any model)",
        pattern=r"(?s)[A-Za-z_][A-Za-z0-9_]*=.+",
        fix="give name=value, such as num_hidden_layers=40",
    )
    trust_remote_code: bool = key(False, "run Python code that comes with the model")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptConfig:
    """How a question is rendered to a prompt."""

    system: str | None = key(None, "system message before the question (null: none)")
    chat_template: str | None = key(None, "file of a Jinja chat template (null: the model's own)")
    template_kwargs: dict[str, Any] = key({}, "arguments of the chat template, such as enable_thinking")
    expected_fingerprint: str | None = key(
        None,
        "fingerprint that the template must have (null: not compared)",
        pattern="sha256:[0-9a-f]{64}",
        fix="must be null, or sha256: and 64 digits of 0-9 a-f",
    )
    fingerprint_policy: Literal["error", "warn"] = key("error", "what another fingerprint does: end the run, or warn")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """Sampling parameters, named as in lm-evaluation-harness.

    No other sampling parameter applies: of the model's generation_config.json only the end-of-text ids are used.
    """

    do_sample: bool = key(False, "sample (true) or decode greedily (false)")
    until: tuple[str, ...] = key((), "strings that end a completion, besides the model's end of text")
    max_gen_toks: int = key(10000, "most tokens of a completion, reasoning included", at_least=1)
    temperature: float = key(
        1.0,
        "temperature when do_sample is true",
        above=0,
        at_most=100,
        fix="must be above 0 and at most 100; greedy is do_sample=false",
    )
    top_p: float = key(1.0, "nucleus when do_sample is true", above=0, at_most=1)
    top_k: int = key(
        0,
        "most likely tokens to draw from when do_sample is true (0: all)",
        at_least=0,
        fix="must be 0 (all tokens) or more",
    )
    repeats: Any = key(
        1,
        "completions a question: a number, or numbers by split such as {train: 4, test: 1}",
        at_least=1,
        at_most=10_000,
    )

    def __post_init__(self) -> None:
        fix = "an empty stop string would end every completion"
        require(all(self.until), "generation.until", list(self.until), fix)
        numbers = self.repeats if isinstance(self.repeats, Mapping) else {"train": self.repeats}
        fix = "must be a number, or numbers by split such as {train: 4, test: 1}"
        are_numbers = all(isinstance(num, int) and not isinstance(num, bool) for num in numbers.values())
        require(are_numbers and {"train", "test"}.issuperset(numbers), "generation.repeats", self.repeats, fix)

    @property
    def repeats_by_split(self) -> Mapping[str, int]:
        """Completions a question in each split."""
        named = self.repeats if isinstance(self.repeats, Mapping) else dict.fromkeys(("train", "test"), self.repeats)
        return {"train": 1, "test": 1} | dict(named)

    @property
    def repeats_text(self) -> str:
        """Completions a question, as they are configured."""
        if not isinstance(self.repeats, Mapping):
            return str(self.repeats)
        return "{" + ", ".join(f"{split}: {num}" for split, num in self.repeats.items()) + "}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceConfig:
    """The prices of an endpoint's tokens, from which a run's cost is computed."""

    input_per_million: float | None = key(
        None,
        "price of 1,000,000 prompt tokens (null: not known, and the cost is not either)",
        at_least=0,
        at_most=1e9,
    )
    output_per_million: float | None = key(
        None, "price of 1,000,000 tokens of completions, likewise", at_least=0, at_most=1e9
    )
    currency: str = key("USD", "currency of the prices", pattern=r"\w{1,16}", fix="give a word such as USD or RUB")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """The OpenAI-compatible server of engine.kind=endpoint."""

    base_url: str | None = key(None, "the server's address with the path of its API, usually /v1")
    model: str | None = key(None, "the model's name on the server (null: the only one it serves)")
    api_key_env: str | None = key(None, "environment variable that holds the key (null: no key)")
    concurrency: int = key(64, "requests in flight at once", at_least=1)
    timeout_s: float = key(
        3600.0,
        "longest wait for one answer, its retries included; the row then fails",
        above=0,
        at_most=1e6,
        fix="must be above 0 and at most 1e6 seconds",
    )
    max_retries: int = key(8, "repeats of a request that failed for a reason that may pass, with back-off", at_least=0)
    headers: dict[str, str] = key(
        {}, "headers of each request, such as {X-Project: MY_PROJECT}: the values are names of environment variables"
    )
    extra_body: dict[str, Any] = key(
        {}, "further entries of each request's body, such as {reasoning_effort: high}, sent as they are"
    )
    token_limit: Literal["max_tokens", "max_completion_tokens"] = key(
        "max_tokens", "name under which the server takes generation.max_gen_toks"
    )
    leave_out: tuple[str, ...] = key(
        (),
        "entries of a request that the server does not accept, and that are not sent: seed, stop, temperature, top_p, "
        "top_k, chat_template_kwargs or stream",
        pattern="seed|stop|temperature|top_p|top_k|chat_template_kwargs|stream",
        fix="only seed, stop, temperature, top_p, top_k, chat_template_kwargs and stream can be left out",
    )
    list_models: bool = key(
        True,
        "request the list of the server's models at the start; false where it has no /models, or accepts names that it "
        "does not list: engine.endpoint.model is then needed",
    )
    requests_per_minute: float | None = key(
        None,
        "most requests a minute, of all replicas of the run together (null: no limit)",
        at_least=0.001,
        at_most=1e9,
        fix=RATE_FIX,
    )
    tokens_per_minute: float | None = key(
        None,
        "most tokens a minute, of prompts and completions of all replicas together (null: no limit)",
        at_least=0.001,
        at_most=1e9,
        fix=RATE_FIX,
    )
    price: PriceConfig = key(PriceConfig(), "")

    def __post_init__(self) -> None:
        if self.api_key_env is not None and not ENVIRONMENT_NAME.fullmatch(self.api_key_env):
            # The value may be the API key itself, so the message does not repeat it.
            raise ConfigError(
                "engine.endpoint.api_key_env is no name of an environment variable: give the name, never the key"
            )
        for header, variable in self.headers.items():
            name = f"engine.endpoint.headers.{header}"
            require(HEADER.fullmatch(header) is not None, name, "...", "a header's name is letters, digits and -")
            reserved = header.lower() in RESERVED_HEADERS
            require(not reserved, name, "...", "is set by the client: leave it out")
            if not ENVIRONMENT_NAME.fullmatch(variable):  # it may be the secret itself
                raise ConfigError(f"{name} is no name of an environment variable: give the name, never the value")
        for entry, value in self.extra_body.items():
            name = f"engine.endpoint.extra_body.{entry}"
            fix = OWN_ENTRIES.get(entry, "")
            require(not fix, name, value, f"has a key of its own: {fix}")
            require_no_secrets(name, value)
        named = self.list_models or self.model is not None
        require(
            named,
            "engine.endpoint.model",
            None,
            "give the model's name: with list_models=false the server's list is not requested",
        )
        if self.base_url is not None:
            name, url = "engine.endpoint.base_url", self.base_url
            require_no_credentials(name, url)
            require(_is_http(url), name, url, "must be http(s)://<host>[:port]/v1")
            path = urlsplit(url).path.rstrip("/")
            require(bool(path), name, url, "has no path: add that of the API, usually /v1")
            require(not path.endswith("/chat/completions"), name, url, "leave /chat/completions out")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The engine, and how many GPUs it uses."""

    kind: Literal["vllm", "endpoint"] = key("vllm", "vllm in our own actors, or an OpenAI-compatible endpoint")
    replicas: int | str = key("auto", "engines; auto: all GPUs / (tensor x pipeline parallel), 1 where there is no GPU")
    tensor_parallel_size: int = key(1, "GPUs that share each layer of one engine", at_least=1)
    pipeline_parallel_size: int = key(1, "groups of GPUs that share the layers of one engine", at_least=1)
    max_num_seqs: int = key(64, "requests in flight at once in one engine", at_least=1)
    gpu_memory_utilization: float = key(0.9, "share of a GPU's memory that one engine may take", above=0, at_most=1)
    max_restarts: int = key(
        10, "crashes of one replica after which it gives up and the others continue without it", at_least=0
    )
    batch_invariant: bool = key(
        False, "answers that do not depend on what else is generated; GPUs of compute capability 9.0 and up, slower"
    )
    metrics: bool | None = key(
        None,
        "export vLLM's own metrics through Ray's agent (null: only on a cluster that the run has joined)",
    )
    extra: dict[str, Any] = key({}, "vLLM engine arguments, passed on as they are")
    endpoint: EndpointConfig = key(EndpointConfig(), "")

    def __post_init__(self) -> None:
        auto_or_count = self.replicas == "auto" or (isinstance(self.replicas, int) and self.replicas >= 1)
        require(auto_or_count, "engine.replicas", self.replicas, "must be auto or a number from 1")
        for argument, value in self.extra.items():
            name = f"engine.extra.{argument}"
            require(argument not in RESERVED_ARGUMENTS, name, value, "has a key of its own: model.*, engine.*, seed")
            require(not argument.startswith("data_parallel"), name, value, "copies of a model are engine.replicas")
            require_no_secrets(name, value)
        if self.kind == "endpoint":
            fix = "is for engine.kind=vllm: start the server with VLLM_BATCH_INVARIANT=1"
            require(not self.batch_invariant, "engine.batch_invariant", self.batch_invariant, fix)
            require(self.endpoint.base_url is not None, "engine.endpoint.base_url", None, "give the server's address")

    @property
    def gpus_per_replica(self) -> int:
        """Number of GPUs that one engine takes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def slots(self) -> int:
        """Completions in flight at once in one replica."""
        return self.max_num_seqs if self.kind == "vllm" else self.endpoint.concurrency


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """The Ray cluster."""

    address: str | None = key(
        None,
        "local: start Ray on this machine; auto or host:port: join a cluster (null: RAY_ADDRESS, else local)",
        pattern=ADDRESS,
        fix=ADDRESS_FIX,
    )
    wait_s: float = key(
        0.0,
        "longest wait for the GPUs of a joined cluster, which are requested from its autoscaler; then the run ends",
        at_least=0,
        at_most=7 * 86400,
        fix="must be from 0 to 604800 seconds",
    )
    label_selector: dict[str, str] = key(
        {},
        "labels of the nodes that replicas run on, such as {ray.io/accelerator-type: A100} (empty: any node)",
        pattern=LABEL_CONDITION,
        fix="write {ray.io/accelerator-type: A100}; a value may also be !A100, in(A100,H100) or !in(A100,H100)",
    )

    def __post_init__(self) -> None:
        for name in self.label_selector:
            require(
                re.fullmatch(LABEL, name) is not None,
                f"cluster.label_selector.{name}",
                self.label_selector[name],
                "a label's name is letters, digits, . _ and -, after a prefix such as ray.io/ if it has one",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """The order in which rows start. A completion does not depend on it."""

    history: str | None = key(
        LATEST,
        "run whose output lengths give the order, longest first: a run_id, latest (the newest complete run of this "
        "model), or null (the prompts' lengths)",
        pattern=RUN_ID,
        fix="must be latest, a run_id in output_dir, or null",
    )
    other_models: bool = key(
        True,
        "with history=latest, where this model has answered none of the prompts, take the lengths of the newest "
        "complete run of another model with the same questions",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How a run stores its rows, stops and resumes."""

    flush_s: float = key(
        2.0,
        "in object storage, longest wait of a finished row until it is stored; a disk has no wait",
        above=0,
        at_most=3600,
        fix="must be above 0 and at most 3600 seconds",
    )
    grace_s: float = key(
        60.0,
        "after SIGINT or SIGTERM, longest wait for the requests in flight; a second signal ends it",
        at_least=0,
        at_most=86400,
        fix="must be from 0 to 86400 seconds",
    )
    max_alike_failures: int | None = key(
        20,
        "rows that fail for the same reason, with no other row answered meanwhile, after which the run ends; it can be "
        "resumed (null: never)",
        at_least=1,
        fix="must be null or at least 1",
    )
    restart: bool = key(False, "start a new run next to the one that has this run_id, as <run_id>.2 and so on")
    retry_failed: bool = key(False, "of a complete run, generate the rows that failed again, those in noise/ too")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Rules for a finished run. A broken rule ends the command with exit code 3; the run stays complete."""

    baseline: str | None = key(
        None,
        "what a run is compared with: latest (pooled, the newest runs of the same settings, model, data and template "
        "that passed their gate), or a run_id in output_dir, whose noise then affects every verdict (null: no rule)",
        pattern=RUN_ID,
        fix="give a run_id, latest, or null",
    )
    num_baselines: int = key(14, "most runs that gate.baseline=latest pools", at_least=1, at_most=100)
    accept: str | None = key(
        None,
        "run_id of a run that broke its gate and is accepted: gate.baseline=latest and gate.cusum start again from it",
        pattern=RUN_ID,
        fix="give the run_id of a complete run in output_dir, or null",
    )
    max_drop: float = key(
        0.01,
        "drop of a score, from 0 to 1, that passes even if it is significant",
        at_least=0,
        below=1,
        fix="must be from 0 to below 1: 0.01 is a point",
    )
    alpha: float = key(
        0.005,
        "share of runs of an unchanged model that may break the rule max_drop: 0.005 is about 1.8 of 365 runs a year, "
        "0.05 about 18",
        above=0,
        below=1,
    )
    cusum: bool = key(False, "break the gate when the run's or a domain's score has declined over runs (CUSUM)")
    max_changed: float | None = share_key(
        "rise of the share of changed answers that passes even if it is significant (null: no rule)"
    )
    max_truncated: float | None = share_key("share of rows that may be cut at the token limit (null: no rule)")
    max_failed: float | None = share_key(
        f"share of rows that may fail (null: {MAX_FAILED} where gate.baseline is set, else no rule)"
    )
    max_no_answer: float | None = share_key("share of rows that may have no readable answer (null: no rule)")

    def __post_init__(self) -> None:
        fix = "has an effect with gate.baseline=latest alone: give that too"
        require(not self.accept or self.baseline == LATEST, "gate.accept", self.accept, fix)
        require(self.accept != LATEST, "gate.accept", self.accept, "give the run_id of the run that is accepted")

    @property
    def is_set(self) -> bool:
        """Whether any rule is set."""
        rules = (self.baseline, self.max_changed, self.max_truncated, self.max_failed, self.max_no_answer)
        return self.cusum or any(each is not None for each in rules)

    @property
    def shares(self) -> Mapping[str, float]:
        """The limits on shares of rows that apply, by key."""
        failed = MAX_FAILED if self.max_failed is None and self.baseline is not None else self.max_failed
        limits = {"max_truncated": self.max_truncated, "max_failed": failed, "max_no_answer": self.max_no_answer}
        return {name: limit for name, limit in limits.items() if limit is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """Measurement of the engine's own noise in the scores."""

    share: float = key(
        0.0,
        "share of the questions that is generated a second time, in another order, to see what changes (0: none)",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmeasuredConfig:
    """Fields of the submission form that a run could not measure, such as a server's GPUs; a measured value wins."""

    torch: str | None = text_key(None, "version of torch, used where the run could not measure it (null: TODO)")
    cuda: str | None = text_key(None, "version of CUDA, likewise")
    transformers: str | None = text_key(None, "version of transformers, likewise")
    precision: str | None = text_key(None, "precision of the weights, likewise")
    gpus: str | None = text_key(None, "number and type of the GPUs, such as 8 x NVIDIA A100-SXM4-80GB, likewise")
    context_size: str | None = text_key(None, "tokens of prompt and completion together, likewise")
    chat_template: str | None = text_key(None, "text of the chat template, likewise")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionConfig:
    """What is submitted to the leaderboard, and the fields of its form that people fill in.

    No completion depends on these keys, so a run can be resumed after they change. A field that is neither set nor
    measured is TODO in the card.
    """

    mode: Literal["reference", "extracted"] = key(
        "reference", "submit the response as it is (reference), or the letters read from it (extracted)"
    )
    team: str | None = text_key(None, "who submits (null: TODO in the card)")
    mera_version: str | None = text_key(None, "version of the benchmark, such as v1.0.0")
    describes: str | None = text_key(
        None, "model.path that the keys about the model describe; with another one they are left out (null: any)"
    )
    model_name: str | None = text_key(None, "the model's name (null: its name on the hub)")
    model_link: str | None = text_key(None, "where the model can be had (null: its page on the hub)")
    model_size: str | None = text_key(
        None, "number of parameters, such as 36.0B, where the weights' files do not have it"
    )
    model_type: tuple[str, ...] = text_key((), "the form's own English words, such as [Opened, SFT, MoE]")
    additional_links: tuple[str, ...] = text_key((), "further pages about the model")
    architecture_description: str | None = text_key(None, "the architecture in words (null: as config.json has it)")
    training_description: str | None = text_key(None, "how the model was trained, in words")
    license: str | None = text_key(None, "the model's license")
    unmeasured: UnmeasuredConfig = key(UnmeasuredConfig(), "")

    def __post_init__(self) -> None:
        require_no_credentials("submission.model_link", self.model_link or "")
        for link in self.additional_links:
            require_no_credentials("submission.additional_links", link)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """What report.html shows."""

    max_inline_mb: int = key(
        200, "MB of samples' text above which it is stored next to report.html, in report_samples/", at_least=0
    )
    reference: dict[str, float] = key(
        {}, "by domain, test scores of a reference submission to show next to the run's", at_least=0, at_most=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The resolved configuration of one run."""

    conf: str = key("", "name in conf/, or a path")
    run_id: str = key(
        "",
        "directory name of the run (empty: <conf>-<UTC time>)",
        pattern=f"({RUN_ID})?",
        fix="letters, digits, . _ and -, at most 128, beginning with a letter or digit",
    )
    output_dir: str = key(
        "outputs",
        "where runs go: a path, or a URI such as s3://bucket/prefix",
        pattern=NOT_EMPTY,
        fix="give a path or a URI",
    )
    seed: int = key(1234, "seed of the sampling", at_least=0, below=2**32, fix="must be from 0 to 2**32 - 1")
    limit: int | None = key(
        None,
        "first n rows of each task and split (null: all)",
        at_least=1,
        below=2**63,
        fix="must be null or at least 1",
    )
    splits: tuple[str, ...] = key(("train", "test"), "splits to run: train (labelled) and test (hidden golds)")
    only: tuple[str, ...] = key((), "of the tasks below, run these (none named: all)")
    announced: bool = key(False, "also run the tasks that the benchmark has announced but does not score yet")
    max_failed_rows: int = key(0, "failed rows up to which a finished run ends with exit code 0", at_least=0)
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
        for name, task in self.tasks.items():
            named = re.fullmatch(NAME, name) is not None
            require(named, f"tasks.{name}", name, "a task's name is letters, digits, _ and -")
            require_no_credentials(f"tasks.{name}.dataset", task.dataset)
            require(bool(task.prompt_fields), f"tasks.{name}.prompt_fields", [], "name inputs, or inputs and meta")
        check_bounds(self)
        require(self.run_id != LATEST, "run_id", self.run_id, "elsewhere means the newest run: choose another")
        require_no_credentials("output_dir", self.output_dir)
        require_no_credentials("model.path", self.model.path or "")
        require_no_secrets("prompt.template_kwargs", self.prompt.template_kwargs)
        price = self.engine.endpoint.price
        one, other = price.input_per_million, price.output_per_million
        name = "engine.endpoint.price." + ("input_per_million" if one is None else "output_per_million")
        require((one is None) == (other is None), name, None, "give both prices, 0 for what is free, or none")
        splits = list(self.splits)
        require(bool(splits), "splits", splits, "name at least one of train and test")
        require({"train", "test"}.issuperset(splits), "splits", splits, "only train and test are known")
        require(len(set(splits)) == len(splits), "splits", splits, "names a split twice")
        unknown = sorted(set(self.only) - set(self.tasks))
        require(not unknown, "only", unknown, f"there are {', '.join(self.tasks)}")
        require(bool(self.active_tasks), "tasks", list(self.tasks), "there is no task to run")
        if self.engine.kind == "vllm":
            fix = (
                "give model.path=<directory or hub id>, or for a server with an OpenAI-compatible API "
                "engine.kind=endpoint engine.endpoint.base_url=<address>/v1"
            )
            require(bool(self.model.path), "model.path", self.model.path, fix)
            context_size, max_tokens = self.model.context_size, self.generation.max_gen_toks
            fix = f"must be below model.context_size={context_size}"
            fits = context_size is None or max_tokens < context_size
            require(fits, "generation.max_gen_toks", max_tokens, fix)
        else:
            template = self.prompt.chat_template
            require(template is None, "prompt.chat_template", template, "a server renders: start it with this template")

    @property
    def active_tasks(self) -> Mapping[str, TaskConfig]:
        """The tasks of this run, in the configuration's order; with `only`, in its order."""
        if self.only:
            return {name: self.tasks[name] for name in self.only}
        return {name: task for name, task in self.tasks.items() if self.announced or not task.announced}
