"""Sends the record of a night to a URL and to a command. Whatever happens is a warning and changes nothing.

In: JSON. Out: warnings. The URL is a secret: it comes from an environment variable, and nothing of it but its host is
ever shown. The server is not trusted: no redirect is followed, its answer is not read, and it cannot keep the night.
"""

from __future__ import annotations

import base64
import http.client
import os
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import IO

from pipeline.nightly.night_file import NotifyConfig

ATTEMPTS = 3
PAUSE_S = 3.0
WITHIN_S = 10.0
"""How often it is tried, seconds between two tries, and the longest time of one."""

SHORTEST_SECRET = 6
"""Characters of a part of the URL that is taken for a secret."""

FAULTS = (OSError, ValueError, http.client.HTTPException)
"""What urllib and subprocess raise; the texts of these errors may quote a URL or an argument and are not shown."""


def url_of(config: NotifyConfig) -> str | None:
    """Return the URL to notify, or None."""
    return os.environ.get(config.url_env, "").strip() or None if config.url_env is not None else None


def secrets_of(config: NotifyConfig) -> list[str]:
    """Return the URL to notify and the parts of it that are secrets by themselves: path, query, user and password."""
    url = url_of(config)
    if url is None:
        return []
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return [url]
    found = [parts.path, parts.path.strip("/"), parts.query, parts.username, parts.password]
    return [url, *(each for each in found if each and len(each) >= SHORTEST_SECRET)]


def problems(config: NotifyConfig) -> list[str]:
    """Return what is known before the night: warnings of a variable that is not set or holds no URL."""
    if config.url_env is None:
        return []
    url = url_of(config)
    if url is None:
        return [f"notify.url_env={config.url_env}: this variable is not set, so nobody is notified there"]
    if _host(url) is None:
        return [f"notify.url_env={config.url_env}: the variable holds no http:// or https:// URL"]
    return []


def notify(config: NotifyConfig, payload: str, sleep: Callable[[float], None]) -> list[str]:
    """Send a record to all that the configuration names; return a warning for each that did not take it.

    Args:
        config: Whom to notify.
        payload: The record, as JSON.
        sleep: Waits for seconds between two tries.
    """
    warnings: list[str] = []
    url = url_of(config)
    host = _host(url) if url is not None else None
    if url is not None and host is not None:
        address = url
        warnings += _tried(f"{host} was not notified", lambda: _post(address, payload), sleep)
    if config.command:
        warnings += _tried("notify.command failed", lambda: _run(config.command, payload), sleep)
    return warnings


def _tried(what: str, attempt: Callable[[], str | None], sleep: Callable[[float], None]) -> list[str]:
    problem: str | None = None
    for number in range(ATTEMPTS):
        if number:
            sleep(PAUSE_S)
        problem = attempt()
        if problem is None:
            return []
    return [f"{what}, at {ATTEMPTS} tries: {problem}"]


def _host(url: str) -> str | None:
    """Return the host of an HTTP URL, or None if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018  # raises for a port that is no number
    except ValueError:
        return None
    return parts.hostname if parts.scheme in ("http", "https") else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: object, fp: IO[bytes], code: int, msg: str, headers: object, newurl: str) -> None:
        """Follow none: the record would go to another host. The answer then is an `HTTPError`."""


def _post(url: str, payload: str) -> str | None:
    """Post a payload; return what is wrong, or None.

    A socket's timeout is one for each read, so the request runs in a thread that is left behind when the time is over.
    """
    problems: list[str | None] = []
    thread = threading.Thread(target=lambda: problems.append(_request(url, payload)), name="notify", daemon=True)
    thread.start()
    thread.join(WITHIN_S)
    return problems[0] if problems else f"no answer within {WITHIN_S:.0f} s"


def _request(url: str, payload: str) -> str | None:
    try:
        parts = urllib.parse.urlsplit(url)
        headers = {"Content-Type": "application/json", "User-Agent": "pipeline"}
        if parts.username is not None:
            user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        request = urllib.request.Request(address, payload.encode(), headers, method="POST")  # noqa: S310  # http(s)
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=WITHIN_S):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered with HTTP {error.code}"
    except FAULTS as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        return (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__


def _run(command: Sequence[str], payload: str) -> str | None:
    """Run the command with a payload as its input; return what is wrong, or None. Its output may quote a URL."""
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(  # noqa: S603  # the command is the user's own
            command, input=payload.encode(), stdout=quiet, stderr=quiet, timeout=WITHIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {WITHIN_S:.0f} s"
    except FAULTS as error:
        return (isinstance(error, OSError) and error.strerror) or type(error).__name__
    return f"exit code {done.returncode}" if done.returncode else None
