"""The keys `engine.*`: what generates, on how many GPUs, and the server in their place.

In: nothing. Out: frozen dataclasses, parts of `config.Config`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pipeline.config.fields import key, require, require_no_credentials
from pipeline.errors import ConfigError

ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
RESERVED_ARGUMENTS = (
    *("model", "tokenizer", "revision", "tokenizer_revision", "dtype", "max_model_len", "trust_remote_code", "seed"),
    *("tensor_parallel_size", "pipeline_parallel_size", "max_num_seqs", "gpu_memory_utilization"),
)
"""vLLM engine arguments that have keys of their own, so that what a run records is what it used."""

SECRET = re.compile(r"(^|_)(token|api_key|key|secret|password)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """The OpenAI-compatible server of engine.kind=endpoint."""

    base_url: str | None = key(None, "the server's address; ends in /v1")
    model: str | None = key(None, "the model's name on the server (null: the one it serves)")
    api_key_env: str | None = key(None, "environment variable that holds the key (null: no key)")
    concurrency: int = key(64, "requests under way at once")
    timeout_s: float = key(3600.0, "longest wait for one answer")
    max_retries: int = key(8, "repeats of a request that failed for a passing reason, with back-off")

    def __post_init__(self) -> None:
        at = "engine.endpoint"
        require(self.concurrency >= 1, f"{at}.concurrency", self.concurrency, "must be at least 1")
        require(0 < self.timeout_s <= 1e6, f"{at}.timeout_s", self.timeout_s, "must be above 0 and at most 1e6 seconds")
        if self.api_key_env is not None and not ENVIRONMENT_NAME.fullmatch(self.api_key_env):
            raise ConfigError(f"{at}.api_key_env is no name of an environment variable: give the name, never the key")
        require(self.max_retries >= 0, f"{at}.max_retries", self.max_retries, "must be 0 or more")
        if self.base_url is not None:
            require_no_credentials(f"{at}.base_url", self.base_url)
            require(_is_http(self.base_url), f"{at}.base_url", self.base_url, "must be http(s)://<host>[:port]/v1")
            require(self.base_url.rstrip("/").endswith("/v1"), f"{at}.base_url", self.base_url, "must end in /v1")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What generates, and on how many GPUs."""

    kind: Literal["vllm", "endpoint"] = key("vllm", "vllm in our own actors, or an OpenAI-compatible endpoint")
    replicas: int | str = key("auto", "engines; auto: all GPUs / (tensor x pipeline parallel), 1 where there is no GPU")
    tensor_parallel_size: int = key(1, "GPUs that share each layer of one engine")
    pipeline_parallel_size: int = key(1, "groups of GPUs that share the layers of one engine")
    max_num_seqs: int = key(64, "completions under way at once in one engine")
    gpu_memory_utilization: float = key(0.9, "share of a GPU's memory that one engine may take")
    max_restarts: int = key(10, "deaths of one replica after which it is given up and the others go on without it")
    batch_invariant: bool = key(
        False, "answers that do not depend on what else is generated; GPUs of compute capability 9.0 and up, slower"
    )
    extra: dict[str, Any] = key({}, "vLLM engine arguments, passed on as they are")
    endpoint: EndpointConfig = key(EndpointConfig(), "")

    def __post_init__(self) -> None:
        at = "engine"
        auto_or_count = self.replicas == "auto" or (isinstance(self.replicas, int) and self.replicas >= 1)
        require(auto_or_count, f"{at}.replicas", self.replicas, "must be auto or a number from 1")
        for name in ("tensor_parallel_size", "pipeline_parallel_size", "max_num_seqs"):
            require(getattr(self, name) >= 1, f"{at}.{name}", getattr(self, name), "must be at least 1")
        require(self.max_restarts >= 0, f"{at}.max_restarts", self.max_restarts, "must be 0 or more")
        share = self.gpu_memory_utilization
        require(0 < share <= 1, f"{at}.gpu_memory_utilization", share, "must be above 0 and at most 1")
        for name in self.extra:
            require(
                name not in RESERVED_ARGUMENTS,
                f"{at}.extra.{name}",
                self.extra[name],
                "has a key of its own: model.*, engine.*, seed",
            )
            copies = name.startswith("data_parallel")
            require(not copies, f"{at}.extra.{name}", self.extra[name], "copies of a model are engine.replicas")
            if SECRET.search(name):
                raise ConfigError(
                    f"{at}.extra.{name}: a secret would be written into the run; set it in the environment"
                )
        if self.kind == "endpoint":
            fix = "is for engine.kind=vllm: start the server with VLLM_BATCH_INVARIANT=1"
            require(not self.batch_invariant, f"{at}.batch_invariant", self.batch_invariant, fix)
            require(self.endpoint.base_url is not None, f"{at}.endpoint.base_url", None, "give the server's address")

    @property
    def gpus_per_replica(self) -> int:
        """GPUs that one engine takes."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def slots(self) -> int:
        """Completions under way at once in one replica."""
        return self.max_num_seqs if self.kind == "vllm" else self.endpoint.concurrency

    @property
    def admitted(self) -> int:
        """Rows that one replica hands to its engine at once.

        vLLM gets a quarter more than its slots, so that the next row is there when one ends; all of them at once would
        only make its queue longer. A server's concurrency is what the user wants it to be.
        """
        return math.ceil(1.25 * self.slots) if self.kind == "vllm" else self.slots
