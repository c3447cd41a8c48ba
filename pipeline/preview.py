"""What a run would ask, of whom, and what is wrong with it, without an engine.

python -m pipeline.preview conf=mera [task=med_bench] [id=17] [n=3] key=value ...
python -m pipeline.preview conf=mera plan=true [gpu=A100-SXM4-80GB] [gpus=8] key=value ...

In: the words of `run`, and its own: `task` (this one alone), `id` (this question alone), `n` (prompts to show of each
task). Out: lines on the terminal. Prompts are made as `run` makes them, in a temporary directory; nothing is written
where runs are. What `run` would refuse before its engine starts is refused here, in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.cli import command
from pipeline.config.loading import COMMAND_LINE, compose, origins
from pipeline.errors import ConfigError
from pipeline.planner import report as plan_report

OWN_ARGUMENTS = ("task", "id", "n")
MOST_PROMPTS = 1_000


def main(arguments: list[str]) -> None:
    """Print the preview that the words describe.

    Raises:
        PipelineError: What `run` would end with; or there is no such task or question.
    """
    plan_arguments, arguments = plan_report.split_arguments(arguments)
    options, rest = split_arguments(arguments)
    if plan_arguments and rest != arguments:
        raise ConfigError(f"{', '.join(OWN_ARGUMENTS)} have no part in a plan: leave them out, or plan=true")
    config = compose(rest)
    if plan_arguments:
        from pipeline.terminal.console import plain

        plan_report.show(config, plan_arguments, plain())
        return
    found = origins(rest)
    if options.task is not None:
        if options.task not in config.tasks:
            raise ConfigError(f"task={options.task!r}: there are {', '.join(config.tasks)}")
        config = replace(config, only=(options.task,))
        found["only"] = f"{COMMAND_LINE}, task="
    from pipeline.orchestrator import preview
    from pipeline.terminal.console import plain

    preview(config, found, options, plain())


def split_arguments(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the preview's own words, and those of the run.

    Raises:
        ConfigError: One of its own words has an impossible value.
    """
    own = {
        name: value for name, _, value in (argument.partition("=") for argument in arguments) if name in OWN_ARGUMENTS
    }
    rest = [argument for argument in arguments if argument.partition("=")[0] not in own]
    from pipeline.preflight.preview import PreviewOptions

    row_id = _number("id", own["id"], -(2**63), 2**63 - 1) if "id" in own else None
    return PreviewOptions(
        task=own.get("task"), row_id=row_id, num_prompts=_number("n", own.get("n", "3"), 0, MOST_PROMPTS)
    ), rest


def _number(name: str, text: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ConfigError(f"{name}={text!r}: give a number from {least} to {most}")
    return value


if __name__ == "__main__":
    raise SystemExit(command(main))
