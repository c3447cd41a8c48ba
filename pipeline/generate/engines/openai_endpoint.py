"""An OpenAI-compatible server as the engine: the messages that the harness sends, one request a row.

In: the row's messages. Out: the server's text, its reasoning when the server splits it, its usage counts. Failures that
may pass (429, 5xx, a lost connection) are retried with back-off; a timeout is not. `openai_failures.py` knows what
each failure means.
Try it: `python -m pipeline.run conf=demo engine.kind=endpoint engine.endpoint.base_url=http://127.0.0.1:8000/v1`.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import httpx2
import openai

from pipeline.config.fields import require
from pipeline.config.harness_arguments import sampling
from pipeline.config.schema import Config, EndpointConfig
from pipeline.errors import EndpointError
from pipeline.generate.engines.api_key import secrets_of
from pipeline.generate.engines.base import Engine, EngineStats, Output, Request, RowError
from pipeline.generate.engines.http_client import async_client, client
from pipeline.generate.engines.openai_failures import Classifier, Failure
from pipeline.generate.engines.rate_limit import RateLimit
from pipeline.records import FinishReason
from pipeline.runs.manifest import EngineInfo
from pipeline.terminal.text import listed, replace_surrogates

NO_LIST = (404, 405, 501)
"""Status codes of a server that does not list its models."""
LIST_S = 30.0
"""Longest wait for the list of models, in seconds."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
"""Pauses before a request is sent again: doubled from the first to the longest."""
MOST_LISTED, MOST_NAMES = 20, 5

CUT = {"length", "max_tokens", "max_output_tokens", "max_length", "token_limit", "model_length"}
FAILED = {"error", "abort", "content_filter", "safety", "recitation", "blocklist", "prohibited_content", "blacklist"}
LONGEST_WORD = 32

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
        return EndpointEngine(self.config, served(self.config))


def served(config: Config) -> EngineInfo:
    """Return what the server reports about itself, after checking that it has the model.

    Returns:
        `base_url` and `served_model`; `max_model_len` where the server lists it, and the version of vLLM's server as
        `server`.

    Raises:
        EndpointError: The server cannot be reached, refuses the request, does not serve the model, serves several of
            which none is named, or has a context that is not longer than the completions.
    """
    endpoint = config.engine.endpoint
    unlisted = EngineInfo(base_url=endpoint.base_url, served_model=endpoint.model)
    secrets = secrets_of(endpoint)
    classifier = Classifier(endpoint, secrets)
    if not endpoint.list_models:
        return unlisted
    with client(endpoint, secrets, LIST_S) as connected:
        try:
            listed_models = list(connected.models.list())
            models = {model.id: model for model in listed_models if isinstance(model.id, str) and model.id}
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            if endpoint.model is not None and getattr(error, "status_code", None) in NO_LIST:
                return unlisted
            raise _of_models(endpoint, classifier.of_exception(error).error) from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EndpointError(f"{_where(endpoint)}: /models is not answered as OpenAI does") from error
        name = _choose(endpoint, models, classifier)
        info = EngineInfo(base_url=endpoint.base_url, served_model=name)
        context_size = (models[name].model_extra or {}).get("max_model_len")
        if _is_count(context_size):
            info = replace(info, max_model_len=context_size)
            max_tokens, fix = (
                config.generation.max_gen_toks,
                f"must be below the server's context of {context_size} tokens",
            )
            require(max_tokens < context_size, "generation.max_gen_toks", max_tokens, fix)
        if getattr(models[name], "owned_by", None) == "vllm":
            info = replace(info, server=_vllm_version(connected))
        return info


def _of_models(endpoint: EndpointConfig, error: Exception) -> EndpointError:
    """Return the error for the user when /models is not answered."""
    return error if isinstance(error, EndpointError) else EndpointError(_with_place(endpoint, str(error)))


def _with_place(endpoint: EndpointConfig, text: str) -> str:
    return text if _where(endpoint) in text else f"{_where(endpoint)}: {text}"


def _choose(endpoint: EndpointConfig, models: Mapping[str, Any], classifier: Classifier) -> str:
    """Return the name of the model to request.

    Raises:
        EndpointError: There is none, it is not served, or several are served and none is named.
    """
    known = listed([classifier.hide(each) for each in list(models)[:MOST_LISTED]], len(models))
    if endpoint.model in models:
        return str(endpoint.model)
    if not models:
        raise EndpointError(f"{_where(endpoint)} serves no model: load one there")
    if endpoint.model is not None:
        fix = "if the server accepts names that it does not list, set engine.endpoint.list_models=false"
        raise EndpointError(f"engine.endpoint.model={endpoint.model!r} is not served: there are {known}; {fix}")
    if len(models) > 1:
        place = _where(endpoint)
        raise EndpointError(f"engine.endpoint.model=None: {place} serves several models, name one of {known}")
    (name,) = models
    if name != replace_surrogates(name):
        raise EndpointError(f"{_where(endpoint)} serves a model whose name is not Unicode text: {known}")
    return name


def _vllm_version(client: openai.OpenAI) -> str | None:
    """Return the version that vLLM's server reports next to /v1, or None."""
    try:
        above = client.with_options(base_url=str(client.base_url).removesuffix("/").removesuffix("/v1"))
        version = above.get("/version", cast_to=dict[str, object]).get("version")
    except (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return f"vllm {version}" if isinstance(version, str) and VERSION.fullmatch(version) else None


def request_arguments(config: Config, model: str) -> dict[str, Any]:
    """Return the client's arguments of every request, except its messages and seed.

    The client puts `extra_body` into the body unchanged; it holds parameters that are vLLM's and not OpenAI's.
    """
    generation, sampled, endpoint = config.generation, sampling(config.generation), config.engine.endpoint
    arguments: dict[str, Any] = {"model": model, "temperature": sampled["temperature"], "stream": False}
    arguments[endpoint.token_limit] = generation.max_gen_toks
    if generation.until:
        arguments["stop"] = list(generation.until)
    if generation.do_sample:
        arguments["top_p"] = sampled["top_p"]
    extra: dict[str, Any] = {"top_k": sampled["top_k"]} if sampled["top_k"] else {}
    if config.prompt.template_kwargs:
        extra["chat_template_kwargs"] = dict(config.prompt.template_kwargs)
    arguments, extra = ({k: v for k, v in each.items() if k not in endpoint.leave_out} for each in (arguments, extra))
    extra |= endpoint.extra_body
    return arguments | ({"extra_body": extra} if extra else {})


def seed_arguments(endpoint: EndpointConfig, seed: int) -> dict[str, Any]:
    """Return the argument with a request's seed; empty where the server accepts none."""
    return {} if "seed" in endpoint.leave_out else {"seed": seed}


def request_body(config: Config, messages: str) -> dict[str, Any]:
    """Return the body of a row's request, for the preview.

    Args:
        config: The run's configuration.
        messages: The row's messages, JSON.
    """
    arguments = request_arguments(config, config.engine.endpoint.model or "<the only one that /models names>")
    extra = arguments.pop("extra_body", {})
    seed = seed_arguments(config.engine.endpoint, config.seed)
    return {"messages": json.loads(messages), **seed, **arguments, **extra}


class EndpointEngine:
    """A connection to a server that generates. Made by `EndpointFactory`."""

    def __init__(self, config: Config, info: EngineInfo) -> None:
        self.info = info
        self._endpoint = config.engine.endpoint
        secrets = secrets_of(self._endpoint)
        self._classifier = Classifier(self._endpoint, secrets)
        self._client = async_client(self._endpoint, secrets)
        self._arguments = request_arguments(config, str(info.served_model))
        rates = self._endpoint.requests_per_minute, self._endpoint.tokens_per_minute
        self._answered_by: dict[str, None] = {}
        self._limit = RateLimit(*rates, first_tokens=config.generation.max_gen_toks)

    @property
    def stats(self) -> EngineStats:
        """The names of models in the answers; the server's counters are its own."""
        return EngineStats(answered_by=tuple(self._answered_by))

    async def generate(self, request: Request) -> Output:
        """Send the row's messages and return the server's response.

        Raises:
            RowError: The server fails this request, or its response is not a chat completion.
            ServerUnavailable: The server did not answer, or refuses what may be every request.
            EndpointError: No request can succeed.
        """
        assert request.messages is not None, "a prompt that a server renders has its messages"
        messages: Any = json.loads(request.messages)
        endpoint = self._endpoint
        assumed = await self._limit.start()  # not a part of the time that the server has for its answer
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                for attempt in range(endpoint.max_retries + 1):
                    if attempt:
                        assumed = await self._limit.start()
                    result = await self._request(messages, request.seed)
                    self._limit.finish(assumed, _num_tokens(result))
                    if isinstance(result, Output):
                        return result
                    if not result.is_passing or attempt == endpoint.max_retries:
                        raise result.error
                    pause_s = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
                    await asyncio.sleep(pause_s * random.uniform(0.75, 1))  # noqa: S311, no secret
        except TimeoutError as error:
            raise RowError(
                f"no answer within engine.endpoint.timeout_s={endpoint.timeout_s:g}, retries included"
            ) from error
        raise AssertionError("the last attempt raises")

    async def _request(self, messages: Any, seed: int) -> Output | Failure:
        arguments = {"messages": messages, **seed_arguments(self._endpoint, seed), **self._arguments}
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**arguments)
            response: Any = raw.parse()
            text = raw.http_response.text
            usage = _usage(text) if isinstance(response, openai.BaseModel) else {}
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, RecursionError) as error:
            return self._classifier.of_exception(error)
        error_body = (getattr(response, "model_extra", None) or {}).get("error")
        if error_body and not getattr(response, "choices", None):
            return self._classifier.of_error_body(error_body)
        name = getattr(response, "model", None)
        if isinstance(name, str) and name and len(self._answered_by) < MOST_NAMES:
            self._answered_by[self._classifier.hide(name).replace(",", "")] = None
        return _output(response, text, usage, self._classifier)

    async def is_serving(self) -> bool:
        """Return whether the server answers a request for its models, be it that it does not list them."""
        try:
            async with asyncio.timeout(LIST_S):
                await self._client.models.list()
        except openai.APIStatusError as error:
            return error.status_code in NO_LIST or (error.status_code < 500 and not self._endpoint.list_models)
        except (openai.OpenAIError, httpx2.HTTPError, ValueError, TimeoutError, RecursionError):
            return False
        return True

    def close(self) -> None:
        """Leave the connections to the end of the process: closing them needs the event loop, which has ended."""


def _usage(text: str) -> Mapping[str, Any]:
    """Return the server's counts as it sent them: the client's model of them makes 0 of false."""
    usage = json.loads(text).get("usage")
    return usage if isinstance(usage, dict) else {}


def _output(response: Any, text: str, usage: Mapping[str, Any], classifier: Classifier) -> Output:
    """Return the output of a chat completion.

    Args:
        response: What the client made of the answer.
        text: The answer, for the message of an error.
        usage: The counts in it.
        classifier: Hides the key in messages.

    Raises:
        RowError: The response is not one, or did not end regularly.
    """
    try:
        choice = response.choices[0]
        content, thoughts = _texts(choice.message.content)
        extra = choice.message.model_extra or {}
        reasoning = extra.get("reasoning") or extra.get("reasoning_content") or thoughts
    except (AttributeError, LookupError, TypeError) as error:
        raise RowError(f"the server's answer is no chat completion: {classifier.hide(text)}") from error
    if not isinstance(reasoning, (str, type(None))):
        raise RowError("the server's answer holds reasoning that is not text")
    return Output(
        completion=(reasoning or "") + (content or ""),
        reasoning=reasoning,
        content=content,
        finish_reason=_finish_reason(choice.finish_reason, classifier),
        num_prompt_tokens=_tokens(usage, "prompt_tokens"),
        num_output_tokens=_tokens(usage, "completion_tokens"),
    )


def _num_tokens(result: Output | Failure) -> int | None:
    """Return the tokens that the server counted for a request, None where it did not answer or count."""
    if not isinstance(result, Output) or result.num_prompt_tokens is None or result.num_output_tokens is None:
        return None
    return result.num_prompt_tokens + result.num_output_tokens


def _texts(content: object) -> tuple[str | None, str | None]:
    """Return the text and the reasoning of a message's content: a text, or a list of parts.

    Raises:
        RowError: It is neither.
    """
    if content is None or isinstance(content, str):
        return content, None
    found: dict[str, list[str]] = {"text": [], "thinking": []}
    if not isinstance(content, list):
        raise RowError("the server's answer holds content that is not text")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        value = part.get(kind) if kind in found else None
        if isinstance(value, list):  # the reasoning may be parts themselves
            value = _texts(value)[0]
        if not isinstance(value, str):
            raise RowError(f"the server's answer holds a part that is not text: {str(kind)[:40]!r}")
        found[str(kind)].append(value)
    return "".join(found["text"]), "".join(found["thinking"]) or None


def _finish_reason(word: object, classifier: Classifier) -> FinishReason:
    """Return `length` for the words of a token limit, `stop` for none or OpenAI's, else the server's own word.

    Raises:
        RowError: The word means that the answer is not the model's own, or not whole.
    """
    text = classifier.hide(str(word if word is not None else "stop")).lower()[:LONGEST_WORD]
    if text in FAILED:
        raise RowError(f"the server ended the request with finish_reason={text!r}")
    return "length" if text in CUT else text


def _tokens(usage: Mapping[str, Any], name: str) -> int | None:
    """Return a count of the server's usage, or None when it is missing or not a count."""
    count = usage.get(name)
    return count if _is_count(count) else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**31


def _where(endpoint: EndpointConfig) -> str:
    return f"engine.endpoint.base_url={endpoint.base_url!r}"
