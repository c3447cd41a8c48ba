"""The command line: one table of every command's arguments, from which parsing, help and error messages derive.

This module imports nothing heavy, so that help and errors print at once.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import select
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.config.loading import compose, conf_names, describe
from pipeline.errors import CAN_BE_RESUMED, ConfigError, PipelineError, UserError
from pipeline.planner.roofline import GPUS
from pipeline.terminal import completion
from pipeline.terminal.screen import protect
from pipeline.terminal.text import escape_control

if TYPE_CHECKING:
    from pipeline.config.schema import Config
    from pipeline.runs.reproduce import Reproduction

MIN_INT, MAX_INT = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Argument:
    """One `name=value` argument of a command.

    `value` is the placeholder for its value in the help, and `example` a value of a text argument. `key` is its key in
    the values that `parse` returns, by default `name`. With `when`, a pair of a bool argument's name and a value, the
    argument is accepted only if that bool argument has that value.
    """

    name: str
    help: str
    _: KW_ONLY
    value: str = "number"
    type: type[str | int | bool] = str
    default: str | int | bool | None = None
    required: bool = False
    minimum: int = MIN_INT
    maximum: int = MAX_INT
    choices: tuple[str, ...] = ()
    example: str = ""
    key: str = ""
    when: tuple[str, bool] | None = None

    @property
    def described(self) -> str:
        """The help text with type, default and bounds."""
        kind = {str: "text", int: "int", bool: "bool"}[self.type]
        default = str(self.default).lower() if self.type is bool else self.default
        details = [kind if default is None else f"{kind} = {default}"]
        details += [self._bounds] if self._bounds else []
        details += ["required"] if self.required else []
        choices = f", one of {', '.join(self.choices)}" if self.choices else ""
        return f"{self.help} ({_unbreakable(', '.join(details))}{choices})"

    @property
    def fix(self) -> str:
        """The fix that an error about the argument proposes."""
        if self.choices:
            return f"there are {', '.join(self.choices)}"
        if self.type is bool:
            return "give true or false"
        if self.type is int:
            return f"give a number {self._bounds}".rstrip()
        return f"give one {self.value}, for instance {self.name}={self.example}"

    @property
    def _bounds(self) -> str:
        least = f"from {self.minimum}" if self.minimum > MIN_INT else ""
        return f"{least} to {self.maximum}" if self.maximum < MAX_INT else least

    def convert(self, text: str) -> str | int | bool:
        """Return the value that a text of the command line represents.

        Raises:
            ConfigError: The text is not of the argument's type, out of its bounds, or not one of its choices.
        """
        if self.type is bool and text in ("true", "false"):
            return text == "true"
        if self.type is int and re.fullmatch("-?[0-9]{1,19}", text) and self.minimum <= int(text) <= self.maximum:
            return int(text)
        if self.type is str and text and text in (self.choices or (text,)):
            return text
        raise ConfigError(f"{self.name}={text!r}: {self.fix}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command: its help, its own arguments, an example, and which configuration keys it accepts as overrides.

    `keys` is the prefix of those keys: "" accepts all of them and `conf=`, None accepts none.
    """

    help: str
    arguments: tuple[Argument, ...]
    example: str
    keys: str | None = ""

    @property
    def has_defaults(self) -> bool:
        """Whether the command does its work without arguments."""
        return self.keys is None and not any(each.required for each in self.arguments)


def _count(name: str, what: str, *, key: str = "", default: int | None = None) -> Argument:
    return Argument(name, what, type=int, minimum=1, key=key, default=default)


CONF = Argument("conf", "the configuration", value="name", required=True)
RUN = Argument("run", "directory or URI of the run", value="run", example="outputs/run=2026-11-21", required=True)
TASK = Argument("task", "show only this task", value="task", example="med_bench")
OUTPUT = Argument("output_dir", "directory or URI of the runs", value="directory", example="outputs")
OUT = Argument("out", "where to write", value="directory", example="outputs/compared")

NUM_BENCHMARK_ROWS = 9_137
"""Train and test rows of the benchmark's three scored tasks."""

PLAN = (
    Argument("gpu", "type of the GPUs", value="type", choices=tuple(GPUS), default="A100-SXM4-80GB"),
    _count("gpus", "how many GPUs; by default what the configuration's engines use, or 8 for auto", key="num_gpus"),
    _count("gpus_per_node", "GPUs of one machine; by default all of them, at most 8"),
    _count("rows", "number of questions", key="num_rows", default=NUM_BENCHMARK_ROWS),
    _count("prompt_tokens", "mean tokens of a prompt", key="num_prompt_tokens", default=250),
    _count(
        "output_tokens",
        "mean tokens of a completion; by default those of this model's newest run, else 2000, and at most "
        "generation.max_gen_toks",
        key="num_output_tokens",
    ),
)

COMMANDS = {
    "run": Command(
        help="prepare, generate and score a benchmark",
        example="conf=mera run_id=2026-11-21 limit=20",
        arguments=(
            replace(CONF, required=False),
            replace(
                RUN,
                name="from",
                key="source",
                required=False,
                help="in place of conf=: reproduce this complete run, from its directory or manifest.json",
            ),
        ),
    ),
    "preview": Command(
        help="show what a run would request and what is wrong with it, without an engine",
        example="conf=mera task=med_bench n=10",
        arguments=(
            CONF,
            replace(TASK, when=("plan", False)),
            Argument("id", "show only the question with this id", type=int, key="row_id", when=("plan", False)),
            Argument(
                "n",
                "prompts to show of each task",
                type=int,
                minimum=0,
                maximum=1_000,
                default=3,
                key="num_prompts",
                when=("plan", False),
            ),
            Argument(
                "write",
                "write a configuration to keep: these arguments, the reasoning parser and the thinking switch that the "
                "model's chat template calls for; a file that exists is never overwritten",
                value="file",
                example="conf/mine.yaml",
                when=("plan", False),
            ),
            Argument("plan", "show what the command plan shows", value="true|false", type=bool, default=False),
            *(replace(argument, when=("plan", True)) for argument in PLAN),
        ),
    ),
    "plan": Command(
        help="show how to spread a model over GPUs, from its config.json alone",
        example="conf=mera gpu=A100-SXM4-80GB gpus=8",
        arguments=(CONF, *PLAN),
    ),
    "night": Command(
        help="run several configurations one after the other, and report how they ended",
        example="night=2026-11-28 runs=conf/night.yaml strict=true",
        arguments=(
            Argument(
                "night", "id of the night; run_ids begin with it", value="id", example="2026-11-28", required=True
            ),
            Argument(
                "runs",
                "YAML file with the runs of the night",
                value="file",
                example="conf/night.yaml",
                required=True,
            ),
            replace(CONF, required=False, help="the configuration of all runs, where their arguments have none"),
            Argument(
                "strict",
                "end with exit code 3 if a gate is broken, and with 4 if too many rows failed",
                value="true|false",
                type=bool,
                default=False,
            ),
            Argument(
                "wait_s",
                "seconds to wait for another night that writes to the same output_dir",
                type=int,
                minimum=0,
                maximum=1_000_000,
                default=0,
            ),
        ),
    ),
    "rescore": Command(
        help="score the completions of a run again, without an engine",
        example="run=outputs/run=2026-11-21",
        arguments=(RUN,),
        keys=None,
    ),
    "pack": Command(
        help="make the leaderboard's archive of a complete run again, and its card and report",
        example="run=outputs/run=2026-11-21 submission.mode=extracted",
        arguments=(RUN,),
        keys="submission.",
    ),
    "validate": Command(
        help="apply the leaderboard server's checks to an archive",
        example="archive=x_submission.zip conf=mera",
        arguments=(
            Argument(
                "archive",
                "path or URI of the archive, which may come from other tools",
                value="archive",
                example="x_submission.zip",
                required=True,
            ),
            replace(CONF, required=False),
            replace(RUN, required=False, help="in place of conf=: compare the ids with those of this run's questions"),
        ),
    ),
    "compare": Command(
        help="compare two complete runs question by question",
        example="base=outputs/run=2026-11-20 new=outputs/run=2026-11-21",
        arguments=(
            replace(RUN, name="base", example="outputs/run=2026-11-20", help="directory or URI of the baseline run"),
            replace(RUN, name="new", help="directory or URI of the run to compare with it"),
            replace(OUT, help="where to write the comparison; by default compare=<base>..<new> next to the new run"),
        ),
        keys=None,
    ),
    "list": Command(
        help="list the runs there are, newest first, or answer a query over them",
        example="output_dir=outputs last=30",
        arguments=(
            replace(OUTPUT, default="outputs"),
            Argument("model", "only runs of models whose name contains this", value="text", example="qwen"),
            _count("last", "maximum number of runs", default=30),
            Argument(
                "sql",
                "print in place of the list what this SELECT over the views runs, metrics, samples, trends and changes "
                "returns",
                value="query",
                example="'SELECT run, model FROM runs'",
            ),
            Argument("json", "print JSON", value="true|false", type=bool, default=False, key="as_json"),
        ),
        keys=None,
    ),
    "prune": Command(
        help="remove prompts, completions, samples, logs and reports of old runs; list them first",
        example="output_dir=outputs keep_days=90",
        arguments=(
            replace(OUTPUT, required=True),
            Argument(
                "keep_days",
                "remove what belongs to runs that ended more than so many days ago",
                type=int,
                minimum=0,
                maximum=36_500,
                default=90,
            ),
            Argument(
                "apply",
                "remove what is listed; without it nothing is removed",
                value="true|false",
                type=bool,
                default=False,
                key="is_applied",
            ),
        ),
        keys=None,
    ),
    "board": Command(
        help="write one page over all runs: scores over time, models, domains, significance",
        example="output_dir=outputs",
        arguments=(
            replace(OUTPUT, help=f"{OUTPUT.help}; by default outputs"),
            Argument(
                "runs",
                "in place of output_dir=: these runs alone, their directories or URIs, separated by commas",
                value="runs",
                example="outputs/run=one,outputs/run=two",
            ),
            replace(OUT, value="file", help="the page; by default index.html in output_dir", example="board.html"),
        ),
        keys=None,
    ),
    "export": Command(
        help="write samples and metrics of a run in the format of another program",
        example="run=outputs/run=2026-11-21 to=csv",
        arguments=(
            RUN,
            Argument(
                "to",
                "the format",
                value="format",
                required=True,
                choices=("csv", "xlsx", "hf", "inspect", "trackio"),
            ),
            Argument(
                "out",
                "where to write; by default <run_id>-<format>, and the directory trackio for to=trackio",
                value="path",
                example="samples-csv",
            ),
        ),
        keys=None,
    ),
    "replay": Command(
        help="compare logs of lm-evaluation-harness with our prompts and scores",
        example="logs=submission.zip conf=mera",
        arguments=(
            Argument(
                "logs",
                "a samples_*.jsonl, a directory of them, logs_public.zip, or the archive that holds it",
                value="path",
                example="submission.zip",
                required=True,
            ),
            CONF,
            replace(TASK, help="the task of the log, where the name of its file does not contain it"),
            replace(RUN, required=False, help="compare the responses of this run as well"),
            replace(OUT, help="where to write the differences; by default outputs/replay-<UTC time>"),
        ),
    ),
}


def parse(name: str, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a command's own arguments by their `key`, and the overrides of the configuration.

    An absent argument has its default; an argument whose `when` does not hold is left out.

    Raises:
        ConfigError: An argument is unknown, missing, repeated, out of bounds, or not accepted with the others.
    """
    command = COMMANDS[name]
    own = {argument.name: argument for argument in command.arguments if argument.name != "conf"}
    texts: dict[str, str] = {}
    overrides: list[str] = []
    for pair in arguments:
        key, separator, text = pair.partition("=")
        if not (key and separator):
            raise ConfigError(f"{pair!r} is not key=value: write for instance {command.example}")
        if any("\ud800" <= char <= "\udfff" for char in pair):  # bytes of the command line that are no UTF-8
            raise ConfigError(f"{pair[:200]!r} is not Unicode text: give it in UTF-8")
        if key not in own:
            _require_override(name, pair)
            overrides.append(pair)
        elif key in texts:
            raise ConfigError(f"{key}= is given twice: {own[key].fix}")
        else:
            texts[key] = text
    values: dict[str, Any] = {}
    # The switches first: whether an argument applies at all is reported before what is wrong with its value.
    for argument in sorted(own.values(), key=lambda each: each.when is not None):
        if not _applies(argument, command, values, texts):
            continue
        if argument.name in texts:
            values[argument.name] = argument.convert(texts[argument.name])
        elif argument.required:
            raise ConfigError(f"{argument.name}= is missing: {argument.fix}")
        else:
            values[argument.name] = argument.default
    return {each.key or name: values[name] for name, each in own.items() if name in values}, overrides


def resolve(arguments: Sequence[str]) -> tuple[Config, Reproduction | None]:
    """Return the configuration that the arguments of `run` describe, and with `from=` the run that it reproduces.

    Raises:
        PipelineError: An argument is wrong, or the named run cannot be reproduced: see `pipeline.runs.reproduce`.
    """
    own, overrides = parse("run", arguments)
    if own["source"] is None:
        return compose(overrides), None
    from pipeline.runs import reproduce

    return reproduce.resolve(own["source"], overrides)


def _applies(argument: Argument, command: Command, values: dict[str, Any], texts: dict[str, str]) -> bool:
    """Return whether an argument's `when` holds.

    Raises:
        ConfigError: It does not hold, and the argument is present.
    """
    if argument.when is None or values[argument.when[0]] is argument.when[1]:
        return True
    switch, required = argument.when
    if argument.name in texts and required:
        raise ConfigError(f"{argument.name}= is a word of the {switch}: give {switch}=true with it")
    if argument.name in texts:
        names = ", ".join(each.name for each in command.arguments if each.when == argument.when)
        raise ConfigError(f"{names} have no part in a {switch}: leave them out, or {switch}=true")
    return False


def _require_override(name: str, override: str) -> None:
    """Check that a command accepts an override of the configuration, by the first part of its key alone.

    Raises:
        ConfigError: The command does not; the message suggests the closest of its arguments and keys.
    """
    command, key = COMMANDS[name], override.partition("=")[0]
    names, keys = [each.name for each in command.arguments], [known for known, *_ in _keys(command)]
    if key in names or key.partition(".")[0] in {known.partition(".")[0] for known in keys}:
        return
    what = f"only keys of {command.keys.rstrip('.')} can be given" if command.keys else f"{name} has no argument {key}="
    near = difflib.get_close_matches(key, [*names, *keys], n=1, cutoff=0.5)
    hint = f". Did you mean: {near[0]!r}?" if near else f": write for instance {command.example}"
    raise ConfigError(f"{override!r}: {what}{hint}")


def _keys(command: Command) -> list[tuple[str, str, str, str]]:
    """Return (key, type, default, meaning) of the configuration keys that a command accepts, without `conf`."""
    return [
        row for row in describe() if command.keys is not None and row[0].startswith(command.keys) and row[0] != "conf"
    ]


WIDTH, MAX_LEFT, MAX_UNBROKEN = 100, 36, 48
"""Width of the help in characters, maximum width of its left column, and of a text that is kept on one line."""

TITLES = {
    "tasks": "the tasks",
    "model": "the model",
    "prompt": "from a question to a prompt",
    "generation": "sampling, and the length of a completion",
    "engine": "the engine and its GPUs",
    "engine.endpoint": "a server in place of an engine of our own",
    "engine.endpoint.price": "the server's prices, for the cost of a run",
    "cluster": "the Ray cluster",
    "schedule": "the order of the rows",
    "run": "storing, stopping and resuming",
    "gate": "rules that a finished run must keep",
    "noise": "how much scores change by themselves",
    "submission": "the leaderboard's archive and form",
    "submission.unmeasured": "fields of the form that a run could not measure",
    "report": "the report",
}
"""Titles of the groups of keys in the help, by the part of the keys before the last dot."""

KINDS = {"str": "text", "float": "number", "null": "null", "int": "int", "bool": "bool", "Any": "any value"}
"""Words for the types of keys in the help."""

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

HELP_ARGUMENTS = {"-h", "--help", "help"}


def help_text(name: str) -> str:
    """Return the help of a command, or the list of all commands if none has this name."""
    if name not in COMMANDS:
        groups = [("commands", [(each, command.help) for each, command in COMMANDS.items()])]
        end = (
            "python -m pipeline.<command> --help lists a command's arguments, --version prints the version.\n"
            "Completion in the shell: pip install argcomplete, then activate-global-python-argcomplete."
        )
        return "\n".join(["usage: python -m pipeline.<command> name=value ...", *_format_groups(groups), "", end])
    command = COMMANDS[name]
    usages = [
        f"{each.name}=<{each.value}>" if each.required else f"[{each.name}=<{each.value}>]"
        for each in command.arguments
    ]
    usages += [] if command.keys is None else [f"[{command.keys}key=value ...]"]
    usage = textwrap.wrap(
        " ".join([f"usage: python -m pipeline.{name}", *usages]),
        WIDTH,
        subsequent_indent=" " * 8,
        break_on_hyphens=False,
    )
    lines = [*usage, "", f"{name}: {command.help}", "", f"for instance: python -m pipeline.{name} {command.example}"]
    others = ", ".join(each for each in COMMANDS if each != name)
    last = textwrap.wrap(f"other commands: {others} (python -m pipeline)", WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, *_format_groups(_groups(command)), "", *last])


def _groups(command: Command) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the titled groups of a command's arguments and keys, each with its rows of two columns."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for argument in command.arguments:
        each = argument
        title = f"arguments with {each.when[0]}=true" if each.when and each.when[1] else "arguments"
        if each.name == "conf":
            each = replace(each, help=f"{each.help}: {', '.join(conf_names())}, or a path to a YAML file")
        groups.setdefault(title, []).append((f"{each.name}=<{each.value}>", each.described))
    for key, kind, default, meaning in _keys(command):
        head = key.rpartition(".")[0].removesuffix(".<name>")
        title = f"{TITLES[head]}: keys {head}.*" if head else "keys of the configuration"
        groups.setdefault(title, []).append((key, f"{meaning} {_unbreakable(f'({_kind(kind)} = {default})')}"))
    return list(groups.items())


def _format_groups(groups: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> list[str]:
    """Return the lines of all groups in two columns, of which the right one is wrapped."""
    left = min(max(len(name) for _, rows in groups for name, _ in rows), MAX_LEFT)
    lines: list[str] = []
    for title, rows in groups:
        lines += ["", title]
        for name, text in rows:
            wrapped = textwrap.wrap(text, WIDTH - left - 4, break_on_hyphens=False)
            if len(name) > left:
                lines.append(f"  {name}")
                name = ""
            first, *rest = wrapped
            lines += [f"  {name:<{left}}  {first}", *(f"{'':{left + 4}}{line}" for line in rest)]
    return [line.replace(NO_BREAK_SPACE, " ") for line in lines]


def _kind(name: str) -> str:
    """Return the words for a type: `one of bfloat16, float16` for Literal['bfloat16', 'float16']."""
    if name.startswith("Literal["):
        return "one of " + name.removeprefix("Literal[").removesuffix("]").replace("'", "")
    for kind, word in (("tuple", "list"), ("dict", "mapping")):
        if name.startswith(f"{kind}["):
            return word
    return " or ".join(KINDS.get(each, each) for each in name.split(" | "))


def _unbreakable(text: str) -> str:
    """Return a text that `_format_groups` keeps on one line, if it is short enough."""
    return text.replace(" ", NO_BREAK_SPACE) if len(text) <= MAX_UNBROKEN else text


def completions(name: str, prefix: str) -> list[str]:
    """Return what completes the beginning of an argument of a command, for the shell."""
    if name not in COMMANDS:
        return []
    command = COMMANDS[name]
    key, has_value, _ = prefix.partition("=")
    names = [each.name for each in command.arguments] + [known for known, *_ in _keys(command) if "<" not in known]
    if not has_value:
        return [f"{each}=" for each in dict.fromkeys(names)]
    return [f"{key}={value}" for value in _values(command, key)]


def _values(command: Command, key: str) -> list[str]:
    """Return the values that can be listed for an argument or key: choices, configurations, runs."""
    argument = next((each for each in command.arguments if each.name == key), None)
    if key == "conf":
        return conf_names()
    if argument is not None and argument.value == "run":
        return sorted(map(str, Path("outputs").glob("run=*")))
    if argument is not None:
        return list(argument.choices) or (["true", "false"] if argument.type is bool else [])
    kind = next((_kind(kind) for known, kind, *_ in _keys(command) if known == key), "")
    if kind.startswith("one of "):
        return kind.removeprefix("one of ").split(", ")
    return ["true", "false"] if kind == "bool" else []


def command(main: Callable[[list[str]], None]) -> int:
    """Run a command's `main` with the arguments of the command line and return the exit code.

    A `PipelineError` is printed as one line; any other exception keeps its traceback. When the reader of standard
    output is gone, as after `| head`, the command ends silently with exit code 1.
    """
    protect()
    completion.complete(lambda prefix: completions(Path(sys.argv[0]).stem, prefix))
    try:
        code = _run(main, sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        # "Note on SIGPIPE" of the standard library's module signal: the flush at exit must not fail once more.
        devnull = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(devnull, stream.fileno())
        return 1
    return code


def _is_unread() -> bool:
    """Return whether standard output or error is a pipe whose reader is gone.

    A `BrokenPipeError` may also come from a socket of the run.
    """
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _require_directories() -> None:
    """Check that there is a working directory and a temporary one, without which little works.

    Raises:
        ConfigError: One of them is missing.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(f"the working directory cannot be used ({error.strerror}): change to another one") from error
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise ConfigError(f"{error.strerror or error}: set TMPDIR to a directory that can be written") from error


def _too_long(error: OSError) -> str:
    name = str(error.filename or "")
    return f"{name[:100]}... ({len(name):,} characters) is too long for a path: give a shorter one"


def _run(main: Callable[[list[str]], None], arguments: list[str]) -> int:
    name = Path(sys.argv[0]).stem
    has_defaults = name in COMMANDS and COMMANDS[name].has_defaults
    if HELP_ARGUMENTS & set(arguments) or not (arguments or has_defaults):
        print(help_text(name))
        return 0
    if "--version" in arguments:
        print(f"pipeline {__version__}")
        return 0
    try:
        _require_directories()
        main(arguments)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"error: {escape_control(_too_long(error))}", file=sys.stderr)
        return UserError.exit_code
    except PipelineError as error:
        for line in error.lines:
            print(f"error: {escape_control(line)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: {CAN_BE_RESUMED}", file=sys.stderr)
        return 130
    return 0
