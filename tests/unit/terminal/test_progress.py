"""What the generate stage prints while it runs."""

from __future__ import annotations

import io

from rich.console import Console

from pipeline.terminal.progress import GenerateProgress


def test_what_a_replica_reports_is_one_escaped_line() -> None:
    out = io.StringIO()
    GenerateProgress(Console(file=out, width=40)).report("replica a: the engine crashed: [bold]\x1b[2J" + "long " * 20)
    assert out.getvalue() == "generate: replica a: the engine crashed: [bold]⟨U+001B⟩[2J" + "long " * 20 + "\n"
