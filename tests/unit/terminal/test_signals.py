"""Signals to a run: the first asks for an orderly end, a repetition of it is no second one."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.errors import Interrupted
from pipeline.terminal import signals


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_a_signal_that_a_parent_passes_on_too_is_one_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_S", 600.0)
    received = signals.Signals(grace_s=600)
    with received.listen():
        with pytest.raises(Interrupted), received.deferred():
            send(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
        assert received.count == 1


def test_a_second_signal_ends_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_S", 0.0)
    received = signals.Signals(grace_s=600)
    with received.listen(), received.deferred():
        with pytest.raises(Interrupted):
            send(signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
        assert received.count == 2
        received.count = 0  # else the block raises at its end too
