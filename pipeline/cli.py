"""What every command shares: `key=value` words in, one line and an exit code out. Nothing heavy is imported here."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.loading import conf_names, describe
from pipeline.errors import CAN_BE_RESUMED, PipelineError


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it does, its own words with their meanings, and which of the configuration's keys it takes."""

    what: str
    arguments: tuple[tuple[str, str], ...]
    keys: str | None = ""
    """What the keys begin with; None: it takes none."""


CONF = ("conf=<name>", "the configuration: a name of those below, or a path to a YAML file")
RUN = ("run=<directory>", "the directory or URI of a run")

COMMANDS = {
    "run": Command(
        "prepare, generate and score a benchmark",
        (CONF, ("from=<run>", "in place of conf=: make a complete run again, from its directory or manifest.json")),
    ),
    "preview": Command(
        "show what a run would ask and what is wrong with it, without an engine",
        (
            CONF,
            ("task=<task>", "show this task alone"),
            ("id=<id>", "show this question alone"),
            ("n=3", "prompts to show of each task"),
            ("plan=true", "show instead how to spread the model over GPUs; the words below are the plan's"),
            ("gpu=A100-SXM4-80GB", "the GPUs' type"),
            ("gpus=8", "their number"),
            ("gpus_per_node=8", "how many of them a machine has"),
            ("rows=9137", "questions"),
            ("prompt_tokens=250", "tokens of a prompt"),
            ("output_tokens=2000", "tokens of a completion; by default those of an earlier run"),
        ),
    ),
    "rescore": Command("score a finished run again, without an engine", (RUN,), keys=None),
    "pack": Command("make a complete run's archive for the leaderboard again", (RUN,), keys="submission."),
    "validate": Command(
        "check an archive as the leaderboard's server does",
        (
            ("archive=<zip>", "the archive, on a disk or in object storage"),
            CONF,
            ("run=<directory>", "in place of conf=: compare the ids with those that this run was asked"),
        ),
    ),
    "compare": Command(
        "compare two complete runs question by question",
        (
            ("base=<directory>", "the run to compare with"),
            ("new=<directory>", "the run that is compared"),
            ("out=<directory>", "where the comparison is written; by default beside the new run"),
        ),
        keys=None,
    ),
    "replay": Command(
        "compare the harness's logs with our prompts and scores",
        (
            ("logs=<place>", "samples_*.jsonl, a directory of them, logs_public.zip, or the archive that holds it"),
            CONF,
            ("task=<task>", "which task the one log is of, where its name does not say it"),
            ("run=<directory>", "compare the responses of this run too"),
            ("out=<directory>", "where the differences are written; by default outputs/replay-<UTC time>"),
        ),
    ),
}

_WIDEST = 42

HELP_ARGUMENTS = {"-h", "--help", "help"}


def command(main: Callable[[list[str]], None]) -> int:
    """Run a command's `main` on the words of the command line and return the exit code.

    An error that the user can meet becomes one line; any other keeps its traceback. When nobody reads standard output
    any more, as after `| head`, the command ends without a word, with 1.
    """
    try:
        code = _answered(main, sys.argv[1:])
        if sys.stdout is not None:  # it may have been closed before we began
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        # "Note on SIGPIPE" of the standard library's module signal: what is left is flushed at exit, to nobody.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return 1
    return code


def _is_unread() -> bool:
    """Return whether standard output or error is a pipe whose reader is gone; sockets of a run break as well."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _answered(main: Callable[[list[str]], None], arguments: list[str]) -> int:
    if not arguments or HELP_ARGUMENTS & set(arguments):
        print(help_text(Path(sys.argv[0]).stem))
        return 0
    try:
        main(arguments)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: {CAN_BE_RESUMED}", file=sys.stderr)
        return 130
    return 0


def help_text(name: str) -> str:
    """Return a command's own words, the other commands, and the configurations and keys that it takes."""
    requested = COMMANDS.get(name, COMMANDS["run"])
    shown = name if name in COMMANDS else "<command>"
    lines = [f"usage: python -m pipeline.{shown} {requested.arguments[0][0]} ...", ""]
    if name in COMMANDS:
        lines += [f"{name}: {requested.what}", "", "words", *_columns(requested.arguments), ""]
    lines += ["commands (python -m pipeline.<command> --help)"]
    lines += _columns([(each, command.what) for each, command in COMMANDS.items()])
    if CONF in requested.arguments:
        lines += ["", "configurations (conf=)", f"  {', '.join(conf_names())}, or a path to a YAML file"]
    if requested.keys is not None:
        keys = [row for row in describe() if row[0].startswith(requested.keys)]
        rows = [(key, f"{kind} = {default}", meaning) for key, kind, default, meaning in keys]
        lines += ["", "keys (key=value)", *_columns(rows)]
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows with all columns but the last as wide as their longest text, up to a limit."""
    widths = [min(max(len(row[i]) for row in rows), _WIDEST) for i in range(len(rows[0]) - 1)]
    return ["  " + "".join(f"{row[i]:<{widths[i]}}  " for i in range(len(widths))) + row[-1] for row in rows]
