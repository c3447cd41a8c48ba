"""An OpenAI-compatible server as the engine: the messages that the harness sends, one request a row.

In: the row's messages. Out: the server's text, its reasoning when the server splits it, its usage counts. The client
retries transient failures (429, 5xx, a lost connection) with back-off; permanent ones (401, 404) end the run.
Try it: `python -m pipeline.run conf=demo engine.kind=endpoint engine.endpoint.base_url=http://127.0.0.1:8000/v1`.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import openai

from pipeline.config.harness_arguments import sampling
from pipeline.config.schema import Config, EndpointConfig
from pipeline.errors import EndpointError
from pipeline.generate.engines.base import Engine, EngineStats, Output, Request, RowError
from pipeline.runs.manifest import EngineInfo
from pipeline.terminal.text import one_line

UNAVAILABLE = (502, 503, 504)
"""A proxy's status codes for a server that is down: no row is the cause, and the run can be resumed later."""

VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,64}")


@dataclass(frozen=True, slots=True)
class EndpointFactory:
    """Connects to the server that the configuration names; the key is read from the environment where it is used."""

    config: Config

    def __call__(self) -> Engine:
        """Request the server's list of models, so that a wrong address or key ends the run before it starts.

        Raises:
            EndpointError: The server cannot be reached, refuses the key, or does not serve the model.
        """
        return EndpointEngine(self.config, served(self.config.engine.endpoint))


def api_key(endpoint: EndpointConfig) -> str:
    """Return the key from the environment variable that the configuration names.

    Raises:
        EndpointError: The variable is not set.
    """
    if endpoint.api_key_env is None:
        return "none"  # the client requires a value; servers without a key ignore it
    value = os.environ.get(endpoint.api_key_env, "")
    if not value:
        raise EndpointError(f"engine.endpoint.api_key_env={endpoint.api_key_env!r} is not set: export it with the key")
    return value


def served(endpoint: EndpointConfig) -> EngineInfo:
    """Return what the server reports about itself, after checking that it has the model.

    Returns:
        `base_url` and `served_model`; `max_model_len` where the server lists it, and the version of vLLM's server as
        `server`.

    Raises:
        EndpointError: The server cannot be reached, refuses the request, or does not serve the model.
    """
    client = openai.OpenAI(base_url=endpoint.base_url, api_key=api_key(endpoint), max_retries=1, timeout=30.0)
    with client:
        try:
            models = {model.id: model for model in client.models.list()}
        except openai.OpenAIError as error:
            raise _permanent(endpoint, error) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise EndpointError(f"{_where(endpoint)}: /models is not answered as OpenAI does") from error
        if not models:
            raise EndpointError(f"{_where(endpoint)} serves no model: load one there")
        name = endpoint.model or next(iter(models))
        if name not in models:
            known = ", ".join(models)
            raise EndpointError(f"engine.endpoint.model={endpoint.model!r} is not served: choose of {known}")
        info = EngineInfo(base_url=endpoint.base_url, served_model=name)
        context_size = (models[name].model_extra or {}).get("max_model_len")
        if _is_count(context_size):
            info = replace(info, max_model_len=context_size)
        if getattr(models[name], "owned_by", None) == "vllm":
            info = replace(info, server=_vllm_version(client))
        return info


def _vllm_version(client: openai.OpenAI) -> str | None:
    """Return the version that vLLM's server reports next to /v1, or None."""
    try:
        above = client.with_options(base_url=str(client.base_url).removesuffix("/").removesuffix("/v1"))
        version = above.get("/version", cast_to=dict[str, object]).get("version")
    except (openai.OpenAIError, ValueError, TypeError, AttributeError):
        return None
    return f"vllm {version}" if isinstance(version, str) and VERSION.fullmatch(version) else None


def request_arguments(config: Config, model: str) -> dict[str, Any]:
    """Return the client's arguments of every request, except its messages and seed.

    The client puts `extra_body` into the body unchanged; it holds parameters that are vLLM's and not OpenAI's.
    """
    generation, sampled = config.generation, sampling(config.generation)
    arguments = {"model": model, "temperature": sampled["temperature"], "max_tokens": generation.max_gen_toks}
    if generation.until:
        arguments["stop"] = list(generation.until)
    if generation.do_sample:
        arguments["top_p"] = sampled["top_p"]
    extra: dict[str, Any] = {"top_k": sampled["top_k"]} if sampled["top_k"] else {}
    if config.prompt.template_kwargs:
        extra["chat_template_kwargs"] = dict(config.prompt.template_kwargs)
    if extra:
        arguments["extra_body"] = extra
    return arguments


def request_body(config: Config, messages: str) -> dict[str, Any]:
    """Return the body of a row's request, for the preview.

    Args:
        config: The run's configuration.
        messages: The row's messages, JSON.
    """
    arguments = request_arguments(config, config.engine.endpoint.model or "<the first that /models names>")
    extra = arguments.pop("extra_body", {})
    return {"messages": json.loads(messages), "seed": config.seed, "stream": False, **arguments, **extra}


class EndpointEngine:
    """A connection to a server that generates. Made by `EndpointFactory`."""

    def __init__(self, config: Config, info: EngineInfo) -> None:
        self.info = info
        endpoint = config.engine.endpoint
        self._endpoint = endpoint
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=api_key(endpoint),
            max_retries=endpoint.max_retries,
            timeout=endpoint.timeout_s,
        )
        self._arguments = request_arguments(config, str(info.served_model))

    @property
    def stats(self) -> EngineStats:
        """Nothing: the server's counters are its own."""
        return EngineStats()

    async def generate(self, request: Request) -> Output:
        """Send the row's messages and return the server's response.

        Raises:
            RowError: The server fails this request, or its response is not a chat completion.
            EndpointError: No request can succeed.
        """
        assert request.messages is not None, "a prompt that a server renders has its messages"
        messages = json.loads(request.messages)
        try:
            response = await self._client.chat.completions.create(
                messages=messages, seed=request.seed, stream=False, **self._arguments
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise _permanent(self._endpoint, error) from error
        except openai.APITimeoutError as error:
            raise RowError(f"no answer within engine.endpoint.timeout_s={self._endpoint.timeout_s}") from error
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIConnectionError) or getattr(error, "status_code", None) in UNAVAILABLE:
                raise _permanent(self._endpoint, error) from error
            raise RowError(_describe(error)) from error
        except ValueError as error:
            raise RowError(f"the server's answer is no JSON: {error}") from error
        return _output(response)

    def close(self) -> None:
        """Leave the connections to the end of the process: closing them needs the event loop, which has ended."""


def _output(response: Any) -> Output:
    """Return the output of a chat completion.

    Raises:
        RowError: The response is not one, or did not end with stop or length.
    """
    try:
        choice = response.choices[0]
        content, finish_reason = choice.message.content, choice.finish_reason
        num_prompt_tokens = _tokens(response, "prompt_tokens")
        num_output_tokens = _tokens(response, "completion_tokens")
        extra = choice.message.model_extra or {}
        reasoning = extra.get("reasoning") or extra.get("reasoning_content")
    except (AttributeError, LookupError, TypeError) as error:
        raise RowError(f"the server's answer is no chat completion: {str(response)[:200]!r}") from error
    if finish_reason not in ("stop", "length"):
        raise RowError(f"the server ended the request with finish_reason={finish_reason!r}")
    if not isinstance(content, (str, type(None))) or not isinstance(reasoning, (str, type(None))):
        raise RowError("the server's answer holds content that is not text")
    return Output(
        completion=(reasoning or "") + (content or ""),
        reasoning=reasoning,
        content=content,
        finish_reason=finish_reason,
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=num_output_tokens,
    )


def _tokens(response: Any, name: str) -> int | None:
    """Return a count of the server's usage, or None when it is missing or not a count."""
    count = getattr(response.usage, name, None)
    return count if _is_count(count) else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**31


def _where(endpoint: EndpointConfig) -> str:
    return f"engine.endpoint.base_url={endpoint.base_url!r}"


def _permanent(endpoint: EndpointConfig, error: openai.OpenAIError) -> EndpointError:
    """Return the error for the user when no request can succeed."""
    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            fix = f"the key is refused ({_describe(error)}): put a valid one where engine.endpoint.api_key_env points"
        case openai.NotFoundError():
            fix = f"not found ({_describe(error)}): check the address and engine.endpoint.model"
        case openai.APIConnectionError():
            fix = "cannot be reached: start the server or mend the address"
        case _:
            fix = f"answers with an error ({_describe(error)}): look at the server's log"
    return EndpointError(f"{_where(endpoint)}: {fix}")


def _describe(error: openai.OpenAIError) -> str:
    """Return a short description of a client's error; never the request's headers, which hold the key."""
    status = getattr(error, "status_code", None)
    text = one_line(str(error), 300)
    return f"HTTP {status}: {text}" if status else f"{type(error).__name__}: {text}"
