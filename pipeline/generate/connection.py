"""Joins the Ray cluster that the configuration names, or starts a local one.

In: the configuration and the environment (RAY_ADDRESS, RAY_AUTH_*, the marks of a Ray job). A cluster that cannot be
joined is one line that names the fix.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.config.schema import ADDRESS, ADDRESS_FIX, Config
from pipeline.errors import ConfigError
from pipeline.storage.filesystem import without_credentials

PASSED_ON = re.compile(r"(HF|VLLM|NCCL)_")
"""Matches the start of a variable that an existing cluster's actors receive from the driver."""

NOT_PASSED_ON = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|^VLLM_HOST_IP$")
"""Matches names of secrets, which Ray would show in its dashboard and logs, and of what differs between hosts."""

LONGEST_CONNECT_S = 5.0
"""Seconds that the head of a cluster has to accept a connection."""

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
DEFAULT_STOP_WAIT_S = 3
"""Seconds from SIGTERM to SIGKILL of `ray job stop` (Ray 2.60, dashboard/modules/job/job_supervisor.py)."""

AUTHENTICATION_FIX = (
    "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN=<the cluster's token> on every host, before `ray start` and before "
    "this command; a file ~/.ray/auth_token (mode 0600) with the token serves as well as RAY_AUTH_TOKEN"
)


@dataclass(frozen=True, slots=True)
class Address:
    """An address for `ray.init`: `local`, `auto` or host:port; `named` is what messages call it."""

    value: str
    named: str

    @property
    def is_local(self) -> bool:
        """Whether the run starts a Ray of its own."""
        return self.value == "local"


def address_of(config: Config) -> Address:
    """Return the address of the run's cluster.

    As for `ray.init`, RAY_ADDRESS counts where the configuration has no address, or `auto`. In a Ray job there is no
    local Ray: the job's processes have a runtime environment that only its own cluster can make.

    Raises:
        ConfigError: RAY_ADDRESS is no address of a cluster.
    """
    configured = config.cluster.address
    if configured in (None, "local") and in_ray_job():
        configured = "auto"
    in_environment = os.environ.get("RAY_ADDRESS")
    if not in_environment or configured not in (None, "auto"):
        value = configured or "local"
        return Address(value, f"cluster.address={value!r}")
    named = f"RAY_ADDRESS={in_environment!r}"
    if not re.fullmatch(ADDRESS, in_environment):
        raise ConfigError(f"{without_credentials(named)}: {ADDRESS_FIX}")
    return Address(in_environment, named)


def in_ray_job() -> bool:
    """Return whether this process is the entrypoint of a Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def stop_warning(config: Config) -> str | None:
    """Return a line if `ray job stop` would kill this Ray job before `run.grace_s` is over, else None."""
    if not in_ray_job():
        return None
    wait_s = os.environ.get(STOP_WAIT, str(DEFAULT_STOP_WAIT_S))  # the job's supervisor has the same environment
    if wait_s.isdecimal() and int(wait_s) >= config.run.grace_s:
        return None
    variables = f'{{"env_vars": {{"{STOP_WAIT}": "{config.run.grace_s + 30:.0f}"}}}}'
    return (
        f"job-stop-time: run.grace_s={config.run.grace_s:g}: `ray job stop` kills this job after {wait_s} s, and the "
        f"requests in flight then are lost: submit with --runtime-env-json '{variables}', or lower run.grace_s"
    )


def load() -> None:
    """Import Ray, which takes seconds, while the caller waits for something else. Starts nothing."""
    set_environment()
    import ray.data  # noqa: F401


def set_environment() -> None:
    """Set the variables that Ray reads when it is imported or started."""
    # Ray's API starts a local Ray by itself where none runs. A thread of Ray Data may make one call after the run has
    # ended, and that Ray would stay: only `cluster` starts one. Read once, at import (_private/auto_init_hook.py).
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # By default Ray's workers have niceness 15, and the engine in them too, though everything waits for the engine.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Attempts to reach a cluster's head, a second apart. Ray's 20 only delay the report of a wrong token: an attempt at
    # a head that does not answer already takes 40 s.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")


def connect(config: Config) -> Address:
    """Join the cluster or start a local Ray; return the address that was used.

    Raises:
        ConfigError: No cluster answers at the address, it requires another token, this machine is not part of it, or
            its versions are others.
    """
    import ray

    address = address_of(config)
    if address.is_local:
        _set_own_token()
    else:
        _require_reachable(address)
    # The actors of a Ray job have the job's environment already, and Ray refuses a variable that is given twice.
    passes_on = not address.is_local and not in_ray_job()  # a local Ray has this process's environment
    try:
        ray.init(
            address=address.value,
            # Without GPUs the replica takes one, and Ray Data's tasks wait for ever where there is no second.
            num_cpus=max(2, ray._private.utils.get_num_cpus()) if address.is_local else None,
            runtime_env={"env_vars": passed_environment(os.environ)} if passes_on else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if address.is_local else None,
        )
    except ray.exceptions.AuthenticationError as error:  # Ray reads a token before it connects
        raise ConfigError(f"{address.named}: {_no_token(error.message)}") from error
    except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{address.named}: {_reason(address, error)}") from error
    return address


def passed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an existing cluster's actors receive from the driver: no secret, nothing of one host.

    Without them actors have the environment that `ray start` had on their host.
    """
    return {
        name: value
        for name, value in environment.items()
        if PASSED_ON.match(name) and not NOT_PASSED_ON.search(name) and without_credentials(value) == value
    }


def _set_own_token() -> None:
    """Give a local Ray a token of its own if there is none, in the environment of its processes.

    Ray would write one to ~/.ray/auth_token, readable by everyone, and later clusters on this machine would require it.
    """
    file = Path(os.environ.get("HOME", "/"), ".ray", "auth_token")
    has_one = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or os.access(file, os.R_OK)
    if not has_one:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _require_reachable(address: Address) -> None:
    """Check what Ray would report only after a minute or more: that the head answers, and that this host has a node.

    Raises:
        ConfigError: One of them is not so.
    """
    from ray._private import services

    try:
        found = services.canonicalize_bootstrap_address(address.value)  # what `ray.init` connects to
        place = urlsplit(f"//{found}")
        socket.create_connection((place.hostname or "", place.port or 0), LONGEST_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{address.named}: {_no_answer(error)}") from error
    if not services.find_node_ids():
        raise ConfigError(f"{address.named}: {_not_a_node(found)}")


def _reason(address: Address, error: BaseException) -> str:
    """Return why Ray was not joined or started, and the fix."""
    text = " ".join(str(each) for each in _causes(error))
    if "AuthenticationError" in text:  # in the traceback that Ray quotes
        return _no_token("the cluster requires another token than the one here")
    if "Version mismatch" in text:
        (ray_there, python_there), (ray_here, python_here) = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)[:2]
        return (
            f"the cluster runs Ray {ray_there} and Python {python_there}, this process Ray {ray_here} and Python "
            f"{python_here}: install the same on every host"
        )
    if "No node info found" in text:
        return _not_a_node(address.value)
    return f"Ray does not start here: {error}" if address.is_local else _no_answer(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_token(reason: str) -> str:
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode.lower() != "token":
        reason = f"the cluster requires a token, and RAY_AUTH_MODE is {mode or 'not set'} here"
    return f"{reason}: {AUTHENTICATION_FIX}"


def _no_answer(error: BaseException) -> str:
    return f"no Ray cluster answers ({error}): start one with `ray start --head`, or set cluster.address=local"


def _not_a_node(found: str) -> str:
    return (
        f"this machine is not a node of the cluster at {found}: run `ray start --address={found}` on it first, or run "
        "this command on one of the cluster's nodes (`ray job submit` does)"
    )
