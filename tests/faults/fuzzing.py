"""What the fuzz tests share: how many examples they try, untrusted texts and values, and the property that they hold.

`make test` tries a few examples, always the same ones. FUZZ_EXAMPLES=<number>, as in `make faults`, tries that many of
each test, and others each time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pipeline.errors import UserError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
LONGEST_S = 30.0
"""Processor time after which one example counts as a hang; all of `make test`'s take less together."""
LONGEST_LINE = 4_100
"""Characters of an error's line; `pipeline.errors` cuts it there."""

Found = TypeVar("Found")


def fuzzed(few: int) -> settings:
    """Return the settings of a fuzz test that tries `few` examples in `make test`."""
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def result_or_line(call: Callable[[], Found]) -> Found | None:
    """Return what `call` returns, or None when it raises what a command reports as a line and exit code 2.

    Any other exception goes through, and so fails the test.
    """
    try:
        with _no_hang():
            return call()
    except UserError as error:
        require_lines(error)
        return None


def require_lines(error: UserError) -> None:
    """Check what a command prints of an error: lines of a bounded length. The terminal escapes what is in them."""
    assert error.exit_code == 2
    for line in error.lines:
        assert line
        assert len(line) < LONGEST_LINE
        assert "\n" not in line


@contextmanager
def _no_hang() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"it hangs: more than {LONGEST_S:g} s of processor time")

    previous = signal.signal(signal.SIGPROF, stop)  # pytest-timeout and the templates' deadline have the other timers
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


_HOSTILE = [
    "\ud800",
    "\0",
    "\x1b[31m",
    "\u202e",
    "\ufeff",
    "{",
    "}",
    "{x}",
    "${x}",
    "<script>",
    "1e400",
    "A",
    "Б",
    "🌱",
]

texts = st.text(st.characters(), max_size=20) | st.lists(st.sampled_from(_HOSTILE), max_size=4).map("".join)
"""Texts with any code point, half a surrogate pair included."""

numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, -1, 2**31, 2**63, 2**63 - 1, 10**400])
scalars = st.none() | st.booleans() | numbers | texts


def values(leaves: st.SearchStrategy[Any] = scalars) -> st.SearchStrategy[Any]:
    """Return a strategy for values that JSON may hold."""
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
    )


@st.composite
def changed(draw: st.DrawFn, good: Any) -> Any:
    """Draw a copy of a JSON value in which up to three parts are replaced, removed, or have a key more."""
    whole = _copy(good)
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(whole))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "remove":
            del container[key]
        elif what == "replace":
            container[key] = draw(values())
        elif isinstance(container, dict):
            container[draw(texts)] = draw(values())
        else:
            container.append(draw(values()))
    return whole


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Draw a copy of some bytes that is whole, cut, or has up to four bytes changed, inserted or repeated."""
    data = bytearray(good)
    what = draw(st.sampled_from(["whole", "cut", "change", "insert", "repeat"]))
    if what == "cut":
        return bytes(data[: draw(st.integers(0, len(data)))])
    for _ in range(draw(st.integers(1, 4)) if what != "whole" else 0):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        if what == "change" and data:
            data[at] = draw(st.integers(0, 255))
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)
