"""What servers differ in: each difference has a key, and a server that refuses a request names the key to set."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from strict_server import StrictServer, serving

from pipeline.config.loading import compose, dump
from pipeline.config.schema import Config
from pipeline.errors import ConfigError, EndpointError
from pipeline.generate.engines.base import Output, Request, RowError, ServerUnavailable
from pipeline.generate.engines.openai_endpoint import EndpointFactory, served
from pipeline.generate.engines.rate_limit import RateLimit
from pipeline.runs.identity import identity, settings_hash

pytestmark = pytest.mark.usefixtures("at_root")


def config(url: str, *overrides: str) -> Config:
    endpoint = ["engine.kind=endpoint", f"engine.endpoint.base_url={url}", "engine.endpoint.max_retries=0"]
    return compose(["conf=own", *endpoint, *overrides])


def complete(settings: Config) -> Output:
    async def generate() -> Output:
        messages = json.dumps([{"role": "user", "content": "?"}])
        request = Request(request_id="1", messages=messages, prompt_token_ids=None, seed=7)
        return await EndpointFactory(settings)().generate(request)

    return asyncio.run(generate())


@pytest.mark.parametrize(
    ("refused", "overrides", "key"),
    [
        ("max_tokens", [], "engine.endpoint.token_limit=max_completion_tokens"),
        ("max_completion_tokens", ["engine.endpoint.token_limit=max_completion_tokens"],
         "engine.endpoint.token_limit=max_tokens"),
        ("seed", [], r"engine.endpoint.leave_out=\[seed\]"),
        ("temperature", ["engine.endpoint.leave_out=[seed]"], r"engine.endpoint.leave_out=\[seed, temperature\]"),
        ("stop", ["generation.until=[x]"], r"engine.endpoint.leave_out=\[stop\]"),
        ("chat_template_kwargs", ["prompt.template_kwargs.thinking=true"],
         r"engine.endpoint.leave_out=\[chat_template_kwargs\]"),
    ],
)  # fmt: skip
def test_a_refused_entry_ends_the_run_with_the_key_that_helps(refused: str, overrides: list[str], key: str) -> None:
    with serving(StrictServer(refused=(refused,))) as server:
        with pytest.raises(EndpointError, match=f"HTTP 400: .*: (set|leave it out by) {key}$") as caught:
            complete(config(server.url, *overrides))
        assert str(caught.value).count("engine.endpoint.") == 2  # the address, and the key once
        complete(config(server.url, *overrides, key.replace("\\", "")))
    assert refused not in server.bodies[-1]


def test_an_error_about_one_question_is_that_rows_alone() -> None:
    class TooLong(StrictServer):
        def answer(self, *_: object) -> tuple[int, dict[str, object]]:  # type: ignore[override]
            return 400, {"error": {"message": "max_tokens is too large: 10000, the context has 4096 tokens"}}

    with serving(TooLong()) as server, pytest.raises(RowError, match="HTTP 400: max_tokens is too large"):
        complete(config(server.url))


def test_headers_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_FOLDER", "b1gsecret")
    monkeypatch.setenv("MY_AUTH", "Api-Key hush-hush")
    overrides = ["engine.endpoint.headers.x-folder-id=MY_FOLDER", "engine.endpoint.headers.Authorization=MY_AUTH"]
    right = {"x-folder-id": "b1gsecret", "Authorization": "Api-Key hush-hush"}
    with serving(StrictServer(required=right)) as server:
        settings = config(server.url, *overrides)
        assert complete(settings).content == "B"
        server.required = {"x-folder-id": "other"}
        with pytest.raises(ServerUnavailable) as caught:
            complete(settings)
    assert "header x-folder-id is <a header>" in str(caught.value)
    assert "MY_FOLDER" in dump(settings)
    assert "secret" not in dump(settings) + str(caught.value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("engine.endpoint.headers.X-Key=sk-abc", "engine.endpoint.headers.X-Key is no name of an environment variable"),
        ("engine.endpoint.headers.Host=MY_HOST", "engine.endpoint.headers.Host='...': is set by the client"),
        ("engine.endpoint.extra_body={max_tokens: 5}", "engine.endpoint.extra_body.max_tokens=5: has a key of its own"),
        ("engine.endpoint.extra_body={a: {api_key: x}}", "engine.endpoint.extra_body.a.api_key: a secret would be"),
        ("engine.endpoint.leave_out=[messages]", "engine.endpoint.leave_out='messages': only seed, stop, temperature"),
        ("engine.endpoint.list_models=false", "engine.endpoint.model=None: give the model's name"),
        ("engine.endpoint.requests_per_minute=0", "engine.endpoint.requests_per_minute=0.0: must be from 0.001"),
        ("engine.endpoint.price.input_per_million=1", "engine.endpoint.price.output_per_million=None: give both"),
        ("engine.endpoint.price.currency=a b", "engine.endpoint.price.currency='a b': give a word such as USD"),
    ],
)
def test_a_wrong_key_of_an_endpoint_is_a_one_line_error(override: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config("http://127.0.0.1:9/v1", override)
    assert str(caught.value).startswith(line)
    assert "sk-abc" not in str(caught.value)


def test_a_header_whose_variable_is_not_set_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_FOLDER", raising=False)
    with pytest.raises(EndpointError, match="x-folder-id names a variable that is not set: export it"):
        served(config("http://127.0.0.1:9/v1", "engine.endpoint.headers.x-folder-id=MY_FOLDER"))


def test_extra_entries_are_sent_as_they_are() -> None:
    with serving(StrictServer()) as server:
        complete(config(server.url, "engine.endpoint.extra_body={reasoning_effort: high, provider: {order: [a]}}"))
    assert server.bodies[0]["reasoning_effort"] == "high"
    assert server.bodies[0]["provider"] == {"order": ["a"]}


@pytest.mark.parametrize("overrides", [[], ["engine.endpoint.list_models=false"]])
def test_a_server_without_a_list_of_models_serves_the_named_one(overrides: list[str]) -> None:
    with serving(StrictServer(models=None)) as server:
        settings = config(server.url, "engine.endpoint.model=gpt://folder/name", *overrides)
        assert served(settings).served_model == "gpt://folder/name"
        assert complete(settings).content == "B"
        assert asyncio.run(EndpointFactory(settings)().is_serving())
    assert server.bodies[0]["model"] == "gpt://folder/name"


def test_a_name_that_is_not_listed_is_sent_where_the_list_is_not_asked_for() -> None:
    with serving(StrictServer()) as server:
        with pytest.raises(
            EndpointError, match=r"is not served: the server lists .*: .*engine\.endpoint\.list_models=false"
        ):
            served(config(server.url, "engine.endpoint.model=x:free"))
        assert served(config(server.url, "engine.endpoint.model=x:free", "engine.endpoint.list_models=false"))


def test_requests_start_no_faster_than_the_limit() -> None:
    async def four() -> None:
        limit = RateLimit(600, None, first_tokens=10)
        await asyncio.gather(*(limit.start() for _ in range(4)))

    begin = time.monotonic()
    asyncio.run(four())
    assert time.monotonic() - begin >= 3 * 0.1


def test_tokens_are_assumed_and_corrected_by_the_servers_count() -> None:
    async def numbers() -> list[float]:
        limit = RateLimit(None, 60_000, first_tokens=100, clock=lambda: 50.0)
        found: list[float] = [await limit.start(), limit._next_tokens]
        limit.finish(100, 30)
        found.append(limit._next_tokens)
        limit.finish(100, None)  # unknown is not zero
        return [*found, limit._next_tokens, limit._assumed]

    assert asyncio.run(numbers()) == [100, 50.1, 50.03, 50.03, 30]


def test_without_limits_nothing_waits() -> None:
    limit = RateLimit(None, None, first_tokens=10, clock=lambda: pytest.fail("no clock is read"))
    assert asyncio.run(limit.start()) == 0


def test_what_changes_the_answers_belongs_to_a_runs_identity() -> None:
    usual = config("http://127.0.0.1:9/v1")
    assert not [name for name in identity(usual) if name.startswith("engine.endpoint.") and not name.endswith("model")]
    for override in ("engine.endpoint.extra_body={a: 1}", "engine.endpoint.leave_out=[seed]"):
        assert settings_hash(config("http://127.0.0.1:9/v1", override)) != settings_hash(usual)
    for override in ("engine.endpoint.price={input_per_million: 1, output_per_million: 2}",
                     "engine.endpoint.requests_per_minute=5", "model.context_size=8192",
                     "engine.endpoint.token_limit=max_completion_tokens"):  # fmt: skip
        assert settings_hash(config("http://127.0.0.1:9/v1", override)) == settings_hash(usual)
