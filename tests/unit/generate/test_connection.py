"""A cluster is joined as `ray.init` does, and what cannot be joined is one line that names the fix."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray._private import services
from ray.exceptions import AuthenticationError

from pipeline.config.loading import compose
from pipeline.config.schema import Config
from pipeline.errors import ConfigError
from pipeline.generate.connection import address_of, connect, passed_environment, stop_warning

IN_JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": "10.0.0.1:6379"}

pytestmark = pytest.mark.usefixtures("at_root")


@functools.cache
def settings(*overrides: str) -> Config:
    return compose(["conf=demo", *overrides])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without settings of Ray, and a home directory without a token."""
    for name in [name for name in os.environ if name.startswith(("RAY_", "HF_", "VLLM_", "NCCL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is removed at the end, also if the test sets it
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize(
    ("overrides", "variables", "address"),
    [
        ([], {}, "local"),
        ([], {"RAY_ADDRESS": ""}, "local"),
        ([], {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.1:6379"),
        ([], {"RAY_ADDRESS": "auto"}, "auto"),
        (["cluster.address=auto"], {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.1:6379"),
        (["cluster.address=auto"], {}, "auto"),
        (["cluster.address=local"], {"RAY_ADDRESS": "10.0.0.1:6379"}, "local"),
        (["cluster.address=10.0.0.2:6379"], {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.2:6379"),
        (["cluster.address=[fd00::2]:6379"], {}, "[fd00::2]:6379"),
        ([], IN_JOB, "10.0.0.1:6379"),
        (["cluster.address=local"], IN_JOB, "10.0.0.1:6379"),
    ],
)
def test_the_address_is_the_configured_one_else_that_of_the_environment(
    environment: pytest.MonkeyPatch, overrides: list[str], variables: dict[str, str], address: str
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert address_of(settings(*overrides)).value == address


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265", "10.0.0.1", "10.0.0.1:x", "a b:1"])
def test_what_is_no_address_of_a_node_is_refused_with_its_name(environment: pytest.MonkeyPatch, address: str) -> None:
    with pytest.raises(ConfigError, match=r"^cluster.address='.*': must be local, auto or host:port"):
        settings(f"cluster.address={address}")
    environment.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS='.*': must be local, auto or host:port"):
        address_of(settings())


@pytest.fixture
def head() -> Iterator[str]:
    """The address of a server that accepts connections, at every address of this machine: Ray replaces 127.0.0.1."""
    with socket.create_server(("", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def fail(error: Exception) -> Callable[..., None]:
    def init(**_: object) -> None:
        raise error

    return init


@pytest.mark.parametrize("is_local", [True, False])
def test_a_local_ray_has_the_environment_already(environment: pytest.MonkeyPatch, head: str, is_local: bool) -> None:
    received: list[object] = []
    environment.setattr(services, "find_node_ids", lambda: {"this machine's"})
    environment.setattr(ray, "init", lambda *, runtime_env, **_: received.append(runtime_env))
    environment.setenv("HF_HOME", "/models")
    connect(settings(f"cluster.address={'local' if is_local else head}"))
    assert received == [None if is_local else {"env_vars": {"HF_HOME": "/models"}}]


@pytest.mark.parametrize(
    ("name", "value", "is_passed"),
    [
        ("HF_HOME", "/models", True),
        ("HF_HUB_OFFLINE", "1", True),
        ("VLLM_TUNED_CONFIG_FOLDER", "/tuned", True),
        ("NCCL_SOCKET_IFNAME", "eth0", True),
        ("HF_ENDPOINT", "https://mirror.example/hub", True),
        ("HF_ENDPOINT", "https://me:pw@mirror.example", False),
        ("HF_TOKEN", "hf_x", False),
        ("HF_TOKEN_PATH", "/secret", False),
        ("VLLM_API_KEY", "x", False),
        ("VLLM_SOME_SECRET", "x", False),
        ("NCCL_PASSWORD", "x", False),
        ("VLLM_HOST_IP", "10.0.0.1", False),
        ("PATH", "/bin", False),
        ("MY_HF_HOME", "/models", False),
    ],
)
def test_actors_of_an_existing_cluster_receive_what_is_no_secret(name: str, value: str, is_passed: bool) -> None:
    assert passed_environment({name: value}) == ({name: value} if is_passed else {})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nobody.invalid:6379"])
def test_a_head_that_does_not_answer_is_reported_before_ray_tries(address: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^cluster.address='{address}': no Ray cluster answers \(.*`ray start --head`"
    ):
        connect(settings(f"cluster.address={address}"))


def test_a_machine_that_is_not_a_node_of_the_cluster_is_reported_before_ray_waits_for_one(
    environment: pytest.MonkeyPatch, head: str
) -> None:
    environment.setattr(services, "find_node_ids", set)
    with pytest.raises(ConfigError, match=f"not a node of the cluster.* `ray start --address=.*:{head[10:]}`"):
        connect(settings(f"cluster.address={head}"))


NO_NODE = RuntimeError("No node info found matching attributes: '' when trying to resolve node to connect to.")
WRONG_TOKEN = RuntimeError("Last connection error: Traceback ... ray.exceptions.AuthenticationError: RPC error")
OTHER_VERSION = RuntimeError(
    "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    "This process on node 10.0.0.2 was started with:\n    Ray: 2.61.0\n    Python: 3.12.1\n"
)


@pytest.mark.parametrize(
    ("error", "mode", "line"),
    [
        (
            WRONG_TOKEN,
            None,
            "the cluster requires a token, and RAY_AUTH_MODE is not set here: export RAY_AUTH_MODE=token",
        ),
        (
            WRONG_TOKEN,
            "disabled",
            "requires a token, and RAY_AUTH_MODE is disabled here: export RAY_AUTH_MODE=token and",
        ),
        (WRONG_TOKEN, "token", "another token than the one here: export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=<"),
        (AuthenticationError("no token was found"), "token", "no token was found: export RAY_AUTH_MODE=token and"),
        (NO_NODE, None, "this machine is not a node of the cluster at .*: run `ray start"),
        (OTHER_VERSION, None, "runs Ray 2.60.0 and Python 3.11.7, this process Ray 2.61.0 and Python 3.12.1: install"),
        (ValueError("something else"), None, r"no Ray cluster answers \(something else\): start one with"),
    ],
)
def test_why_a_cluster_cannot_be_joined_is_one_line(
    environment: pytest.MonkeyPatch, head: str, error: Exception, mode: str | None, line: str
) -> None:
    if mode is not None:
        environment.setenv("RAY_AUTH_MODE", mode)
    wrapped = ConnectionError("Failed to connect")
    wrapped.__cause__ = error
    environment.setattr(services, "find_node_ids", lambda: {"this machine's"})
    environment.setattr(ray, "init", fail(error if isinstance(error, AuthenticationError | ValueError) else wrapped))
    with pytest.raises(ConfigError, match=f"^cluster.address='{head}': .*{line}"):
        connect(settings(f"cluster.address={head}"))


@pytest.mark.parametrize("has_token", [True, False])
def test_a_local_ray_has_a_token_and_leaves_no_file_with_it(
    environment: pytest.MonkeyPatch, tmp_path: Path, has_token: bool
) -> None:
    environment.setattr(ray, "init", lambda **_: None)
    if has_token:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    connect(settings())
    assert bool(os.environ["RAY_AUTH_TOKEN"]) is not has_token
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, None),
        (IN_JOB, "3"),
        (IN_JOB | {"RAY_JOB_STOP_WAIT_TIME_S": "59"}, "59"),
        (IN_JOB | {"RAY_JOB_STOP_WAIT_TIME_S": "60"}, None),
    ],
)
def test_a_ray_job_that_is_killed_before_its_grace_period_is_over_is_a_warning(
    environment: pytest.MonkeyPatch, variables: dict[str, str], seconds: str | None
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    line = stop_warning(settings("run.grace_s=60"))
    if seconds is None:
        assert line is None
    else:
        assert f"kills this job after {seconds} s" in str(line)
        assert '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "90"}}' in str(line)
