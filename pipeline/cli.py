"""What every command shares: `key=value` words in, one line and an exit code out. Nothing heavy is imported here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from pipeline.compose import conf_names, describe
from pipeline.errors import GOES_ON, PipelineError

COMMANDS = {
    "run": "prepare, generate and score a benchmark: conf=<name> key=value ..., or from=<run> to make a run again",
    "preview": "show what a run would ask and what is wrong with it, without an engine: conf=<name> "
    "[task=<task>] [id=<id>] [n=3] key=value ...",
    "rescore": "score a finished run again, without an engine: run=<directory>",
    "pack": "make a complete run's archive for the leaderboard again: run=<directory> submission.mode=...",
    "validate": "check an archive as the leaderboard's server does: archive=<zip> conf=<name> or run=<directory>",
    "compare": "compare two complete runs question by question: base=<directory> new=<directory> [out=<directory>]",
    "replay": "compare the harness's logs with our prompts and scores: logs=<file, directory or zip> conf=<name>",
}

HELP_WORDS = {"-h", "--help", "help"}


def command(main: Callable[[list[str]], None]) -> int:
    """Run a command's `main` on the words of the command line and return the exit code.

    An error that the user can meet becomes one line; any other keeps its traceback.
    """
    words = sys.argv[1:]
    if not words or HELP_WORDS & set(words):
        print(help_text())
        return 0
    try:
        main(words)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: {GOES_ON}", file=sys.stderr)
        return 130
    return 0


def help_text() -> str:
    """Return the commands, the configurations there are and the keys with their defaults, read from the schema."""
    lines = ["usage: python -m pipeline.<command> key=value ...", "", "commands"]
    lines += [f"  {name:<10}{what}" for name, what in COMMANDS.items()]
    lines += ["", "configurations (conf=)", f"  {', '.join(conf_names())}, or a path to a YAML file", "", "keys"]
    rows = [(name, f"{kind} = {default}", meaning) for name, kind, default, meaning in describe()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines += _columns(rows, widths)
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, str, str]], widths: Sequence[int]) -> list[str]:
    return [f"  {name:<{widths[0]}}  {value:<{min(widths[1], 36)}}  {meaning}" for name, value, meaning in rows]
